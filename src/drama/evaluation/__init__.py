"""What came out: evaluation episodes, published scores to hold them against, aggregates of both."""

from drama.evaluation.aggregate import (
    Aggregate,
    Estimate,
    Improvement,
    Profile,
    aggregate,
    has_single_runs,
    performance_profile,
    probability_of_improvement,
    published_runs,
)
from drama.evaluation.evaluate import EpisodeResult, EvaluationResult, evaluate
from drama.evaluation.protocol import ATARI100K, completed, departures
from drama.evaluation.scores import (
    PublishedScore,
    game_of,
    games,
    human_score,
    normalised_score,
    published,
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
