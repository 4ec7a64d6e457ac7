"""Fixtures of the fault campaign: the fault counter and the server of killed runs."""

from tests.faults.count import faults
from tests.training.conftest import forks

__all__ = ["faults", "forks"]
