"""The picture of frames, reconstructions and a dream."""

from __future__ import annotations

import numpy as np
from lab import rollout_strip
from tests.training.runs import tiny

from drama import Agent
from drama.envs import make_env


def test_rollout_starts_after_the_context_frames() -> None:
    agent = Agent("drama/Catch-v0", tiny())
    found = rollout_strip.strips(agent, seed=3, seen=2, length=20, skip=0)
    assert found.dtype == np.uint8
    assert found.shape == (3, 7, 32, 32, 3)  # Catch lasts seven steps
    real, rebuilt, imagined = found
    assert (real[0] == make_env("drama/Catch-v0", 3).reset()[0]).all()
    assert (rebuilt[:2] == imagined[:2]).all()
    assert (rebuilt[2:] != imagined[2:]).any()
    again = Agent("drama/Catch-v0", tiny())  # its actions are sampled from the start
    later = rollout_strip.strips(again, seed=3, seen=2, length=3, skip=2)
    assert (later[0] == real[2:5]).all()  # the same episode, without its first two steps


def test_strip_has_lines_between_frames() -> None:
    rows = np.arange(2 * 3, dtype=np.uint8).reshape(2, 3, 1, 1, 1).repeat(3, axis=-1)
    rows = rows.repeat(2, axis=2)  # two strips of three frames, two pixels high and one wide
    picture = rollout_strip.drawn(rows, seen=2, scale=3)
    assert picture.shape == (2 * (6 + 2) + 2, 3 * (3 + 2) + 2, 3)
    assert (picture[2:8, 2:5] == 0).all()
    assert (picture[2:8, 7:10] == 1).all()
    assert (picture[10:16, 12:15] == 5).all()
    assert (picture[:, :2] == rollout_strip.GREY).all()
    assert (picture[2:8, 10:12] == rollout_strip.GREY).all()
    assert (
        picture[10:16, 10:12] == rollout_strip.AMBER
    ).all()  # behind the two frames that were read
