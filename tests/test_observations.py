"""Observation spaces: leaves, their patterns, their files."""

from __future__ import annotations

import json

import numpy as np
import pytest
from gymnasium import spaces

from drama.errors import ConfigError
from drama.observations import Leaf, ObsSpace, matching

ROBOT = ObsSpace(
    (
        Leaf("image", (8, 8, 3), "robot/camera"),
        Leaf("vector", (2,), "robot/speed"),
        Leaf("one-hot", (2,), "door", (3, 2)),
    )
)


def test_a_space_is_that_of_its_gymnasium_space() -> None:
    assert ObsSpace.of(ROBOT.space) == ROBOT
    assert list(ROBOT.space.spaces) == ["robot/camera", "robot/speed", "door"]  # type: ignore[attr-defined]
    for single in (
        ObsSpace.image(8, 8, 3),
        ObsSpace.vector(2),
        ObsSpace((Leaf("one-hot", (2,), "", (3, 2)),)),
    ):
        assert ObsSpace.of(single.space) == single
        assert single.single is single.leaves[0]
        assert not isinstance(single.space, spaces.Dict)
    assert ROBOT.single is None
    assert ROBOT.nbytes == 8 * 8 * 3 + 2 * 4 + 2 * 4
    assert str(ROBOT) == (
        "robot/camera: image 8x8x3, robot/speed: vector 2, door: one-hot 2 of 2 to 3 classes"
    )


def test_columns_are_the_leaves_by_column() -> None:
    obs = {"robot/camera": np.zeros(1), "robot/speed": np.ones(2), "door": np.ones(3)}
    columns = ROBOT.columns(obs)
    assert list(columns) == ["obs.robot/camera", "obs.robot/speed", "obs.door"]
    assert ROBOT.from_columns({**columns, "reward": np.zeros(1)}) == obs
    single = np.zeros(2)
    assert ObsSpace.vector(2).columns(single) == {"obs": single}
    assert ObsSpace.vector(2).from_columns({"obs": single, "reward": single}) is single


def test_state_is_read_back_and_an_array_keeps_its_former_form() -> None:
    for space in (ROBOT, ObsSpace((Leaf("one-hot", (1,), "", (16,)),))):
        assert ObsSpace.from_state(json.loads(json.dumps(space.state()))) == space
    assert ObsSpace.image(8, 9, 3).state() == {"obs_shape": [8, 9, 3]}
    assert ObsSpace.from_state({"obs_shape": [8, 9, 3]}) == ObsSpace.image(8, 9, 3)
    assert ObsSpace.from_state({"obs_shape": [4]}) == ObsSpace.vector(4)


def test_leaves_that_are_not_reconstructed_are_not_decoded_and_not_shown() -> None:
    space = ROBOT.reconstructing(["robot/speed", "door"])
    assert [leaf.name for leaf in space.decoded.leaves] == ["robot/speed", "door"]
    assert space.shown.name == "robot/speed"
    assert ROBOT.shown.name == "robot/camera"
    assert space == ROBOT  # the same observations


NAMES = ["robot/camera", "robot/speed", "door"]


@pytest.mark.parametrize(
    ("patterns", "found"),
    [
        (["*"], NAMES),
        (["door"], ["door"]),
        (["robot"], NAMES[:2]),
        (["robot/*"], NAMES[:2]),
        (["*/camera", "d*"], ["robot/camera", "door"]),
    ],
)
def test_patterns(patterns: list[str], found: list[str]) -> None:
    assert matching(patterns, NAMES, "env.observe") == set(found)


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (["door", "robot/camra"], "'robot/camra'; did you mean robot/camera?"),
        (["zzz"], "'zzz'; there are robot/camera, robot/speed, door"),
        (["Door"], "'Door'; did you mean door?"),
        ([], "env.observe must name at least one observation; '\\*' names all"),
    ],
)
def test_patterns_that_fit_nothing_are_refused(patterns: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        matching(patterns, NAMES, "env.observe")


def test_a_single_array_has_no_names() -> None:
    assert matching(["*"], [""], "env.observe") == {""}
    with pytest.raises(ConfigError, match="names 'camera', but these observations are one array"):
        matching(["camera"], [""], "env.observe")
