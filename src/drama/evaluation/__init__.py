"""Evaluation episodes, published scores, and aggregates of both."""

from typing import TYPE_CHECKING

from drama.attributes import lazy
from drama.evaluation.aggregate import (
    Aggregate,
    Improvement,
    Profile,
    aggregate,
    performance_profile,
    probability_of_improvement,
)
from drama.evaluation.bootstrap import Estimate
from drama.evaluation.protocol import ATARI100K, completed, departures
from drama.evaluation.scores import (
    PublishedScore,
    game_of,
    games,
    has_single_runs,
    human_score,
    normalised_score,
    published,
    published_runs,
    random_score,
)

if TYPE_CHECKING:
    from drama.evaluation.evaluator import EpisodeResult, EvaluationResult, evaluate

__all__ = [
    "ATARI100K",
    "Aggregate",
    "EpisodeResult",
    "Estimate",
    "EvaluationResult",
    "Improvement",
    "Profile",
    "PublishedScore",
    "aggregate",
    "completed",
    "departures",
    "evaluate",
    "game_of",
    "games",
    "has_single_runs",
    "human_score",
    "normalised_score",
    "performance_profile",
    "probability_of_improvement",
    "published",
    "published_runs",
    "random_score",
]

if not TYPE_CHECKING:
    # On first use: suites and reports need no torch.
    __getattr__, __dir__ = lazy(
        __name__,
        {"drama.evaluation.evaluator": ("EpisodeResult", "EvaluationResult", "evaluate")},
    )
