"""Fixtures of the campaign: the counter of faults, and the server that runs killed trainings."""

from tests.faults.count import faults
from tests.training.conftest import forks

__all__ = ["faults", "forks"]
