"""Trained agents, shared by the tests."""

from __future__ import annotations

import pytest
from tests.training.runs import tiny

from drama import Agent


@pytest.fixture(scope="session")
def catch() -> Agent:
    """An agent after a few updates; do not modify."""
    return Agent("drama/Catch-v0", tiny()).learn(34)


@pytest.fixture(scope="session")
def cart() -> Agent:
    return Agent("CartPole-v1", tiny()).learn(34)
