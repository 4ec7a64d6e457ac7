"""Faults that the learning checks must notice: ``python -m tests.learning.sabotage FAULT``.

Trains the check on Catch, or another, with one fault in the code. Succeeds if the check fails.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from tests.learning.checks import CHECKS, score

from drama.behaviour.actor_critic import ActorCritic
from drama.replay import ReplayBuffer
from drama.world_model import WorldModel


def actor_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    """The actor minimises the return: the sign of its objective is wrong."""
    original = ActorCritic._gain

    def negated(self: ActorCritic, *args: Any) -> Any:
        gain, ratios = original(self, *args)
        return -gain, ratios

    monkeypatch.setattr(ActorCritic, "_gain", negated)


def shifted_reward(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each transition is stored with the reward of the one before."""
    original = ReplayBuffer.append
    before: dict[int, float] = {}

    def late(self: ReplayBuffer, transition: Any) -> None:
        reward = before.get(id(self), 0.0)
        before[id(self)] = transition.reward
        original(self, transition._replace(reward=reward))

    monkeypatch.setattr(ReplayBuffer, "append", late)


def frozen_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """The encoder keeps its first weights."""
    original = WorldModel.__init__

    def frozen(self: WorldModel, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        self.encoder.requires_grad_(False)

    monkeypatch.setattr(WorldModel, "__init__", frozen)


FAULTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "actor-sign": actor_sign,
    "shifted-reward": shifted_reward,
    "frozen-encoder": frozen_encoder,
}
"""Faults by name."""


@contextmanager
def fault(name: str) -> Iterator[None]:
    """Break the code in one place while inside."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        FAULTS[name](monkeypatch)
        yield


def main(argv: list[str] | None = None) -> int:
    """Run a check with a fault; return 0 if the check notices it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("fault", choices=FAULTS)
    parser.add_argument("check", nargs="?", default="catch", choices=CHECKS)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    check = CHECKS[options.check]
    with fault(options.fault):
        found = score(check, options.seed)
    noticed = found < check.least
    print(
        f"{options.fault} on {check.env}, seed {options.seed}: {found:.2f}, required "
        f"{check.least:g}: {'noticed' if noticed else 'NOT NOTICED'}"
    )
    return 0 if noticed else 1


if __name__ == "__main__":
    sys.exit(main())
