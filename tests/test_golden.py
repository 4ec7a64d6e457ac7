"""Golden runs of every release load, evaluate to the recorded numbers and resume.

``tests/golden/make.py`` makes those of a release. Returns and lengths of evaluation episodes must
be equal. Metrics of the continuation are compared within a tolerance, for processors and versions
of PyTorch add in different orders: without vector instructions the largest difference was 4e-7 of
a value (2e-5 of an explained variance, a difference of large numbers). One gradient with the wrong
sign moved at least one metric by 5e-4.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from drama import Agent
from drama.errors import CheckpointError
from drama.training.checkpoint import FORMAT

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.golden.make import CASES, config, continuation, evaluation, unpack  # noqa: E402

RELATIVE = 2e-4
ABSOLUTE = 5e-5
ARCHIVES = sorted((ROOT / "tests" / "golden").glob("*/*.tar.xz"))


def _name(archive: Path) -> str:
    return f"{archive.parent.name}-{archive.name.partition('.')[0]}"


@pytest.fixture(params=ARCHIVES, ids=_name)
def archive(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


@pytest.fixture
def run(archive: Path, tmp_path: Path) -> Path:
    return unpack(archive, tmp_path / "run")


@pytest.fixture
def expected(archive: Path) -> dict[str, Any]:
    text = archive.with_name(archive.name.replace(".tar.xz", ".json")).read_text(encoding="utf-8")
    return dict(json.loads(text))


def differences(
    found: Sequence[Mapping[str, float]], expected: Sequence[Mapping[str, float]]
) -> list[str]:
    """Name what is missing from the rows of a log or beyond the tolerance; new keys are none."""
    if len(found) != len(expected):
        return [f"{len(found)} rows, not {len(expected)}"]
    return [
        f"step {right['step']}: {key} is {row.get(key)}, not {value}"
        for row, right in zip(found, expected, strict=True)
        for key, value in right.items()
        if key not in row or not math.isclose(row[key], value, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
    ]


def test_golden_runs_exist_and_are_small() -> None:
    assert len(ARCHIVES) >= 4
    for version in {archive.parent for archive in ARCHIVES}:
        assert sum(path.stat().st_size for path in version.iterdir()) < 700_000


def test_script_can_make_golden_runs_of_this_version() -> None:
    assert {config(name).steps for name in CASES} == {60}


def test_evaluation_equals_the_recorded_numbers(run: Path, expected: dict[str, Any]) -> None:
    agent = Agent.load(run)
    assert agent.num_timesteps == expected["steps"]
    assert evaluation(agent) == expected["evaluation"]


def test_resume_equals_the_recorded_metrics(run: Path, expected: dict[str, Any]) -> None:
    found = continuation(Agent.load(run), run)
    for log, right in expected["continuation"].items():
        assert not differences(found[log], right)


@pytest.mark.parametrize("part", ["world_model", "behaviour"])
def test_wrong_gradient_sign_is_detected(part: str, run: Path, expected: dict[str, Any]) -> None:
    """The tolerance finds one gradient with the wrong sign, in the largest trained tensor."""
    agent = Agent.load(run)
    trained = [p for p in getattr(agent, part).parameters() if p.requires_grad]
    max(trained, key=torch.numel).register_hook(torch.neg)
    assert differences(continuation(agent, run)["metrics"], expected["continuation"]["metrics"])


def test_run_of_a_newer_version_is_refused_in_one_line(run: Path) -> None:
    [path] = (run / "checkpoints").glob("*/manifest.json")
    manifest = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**manifest, "format": FORMAT + 1}), encoding="utf-8")
    with pytest.raises(CheckpointError, match="newer version of drama wrote it") as caught:
        Agent.load(run)
    assert "\n" not in str(caught.value)
