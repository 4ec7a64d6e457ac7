"""Evaluation episodes, published scores, and aggregates of both."""

from drama.evaluation.aggregate import (
    Aggregate,
    Improvement,
    Profile,
    aggregate,
    performance_profile,
    probability_of_improvement,
)
from drama.evaluation.bootstrap import Estimate
from drama.evaluation.evaluate import EpisodeResult, EvaluationResult, evaluate
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
