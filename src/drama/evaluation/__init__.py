"""What came out: evaluation episodes and published scores to hold them against."""

from drama.evaluation.evaluate import EpisodeResult, EvaluationResult, evaluate
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
    "EpisodeResult",
    "EvaluationResult",
    "PublishedScore",
    "evaluate",
    "game_of",
    "games",
    "human_score",
    "normalised_score",
    "published",
    "random_score",
]
