"""The compatibility page matches its results, and its script detects faults."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # benchmarks/ is part of a checkout, not of the package

from benchmarks import compatibility  # noqa: E402
from benchmarks.compatibility_cases import CASES, Case, make  # noqa: E402

PAGE = ROOT / "docs" / "compatibility.md"
RESULTS = ROOT / "docs" / "assets" / "compatibility.json"


def test_there_are_enough_cases_with_unique_names():
    names = Counter(case.name for case in CASES)
    assert len(names) >= 60
    assert max(names.values()) == 1


def test_page_matches_the_results():
    result = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert result["cases"].keys() == {case.name for case in CASES}
    assert compatibility.markdown(result) == PAGE.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def docs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three cases, run in separate processes."""
    docs = tmp_path_factory.mktemp("docs")
    compatibility.main(["--docs", str(docs), "--only", "own-class", "pendulum", "reward-nan"])
    return docs


def results(docs: Path) -> dict[str, Any]:
    return json.loads((docs / "assets" / "compatibility.json").read_text(encoding="utf-8"))["cases"]


def cells(docs: Path, name: str) -> dict[str, str]:
    [case] = (case for case in CASES if case.name == name)
    return compatibility.status(case, results(docs)[name])


def test_valid_environment_passes(docs: Path):
    found = cells(docs, "own-class")
    assert found["read"] == "vector 3"
    assert found["trains"] == "yes"
    assert found["copy"] == found["resume"] == found["evaluate"] == "same"
    assert found["load"] in ("same", "`env=`")


@pytest.mark.parametrize(
    ("name", "message"), [("pendulum", "action space"), ("reward-nan", "the reward is nan")]
)
def test_a_refusal_is_quoted_below_the_table(docs: Path, name: str, message: str):
    assert cells(docs, name)["trains"] == "refused"
    page = (docs / "compatibility.md").read_text(encoding="utf-8")
    [line] = (line for line in page.splitlines() if line.endswith(f"`: {name} (train)"))
    assert line.startswith("- `")
    assert message in line


def test_results_are_kept_until_the_code_changes(docs: Path, monkeypatch: pytest.MonkeyPatch):
    before, ran = results(docs), []
    three = [case for case in CASES if case.name in before]
    monkeypatch.setattr(compatibility, "CASES", three)
    monkeypatch.setattr(compatibility, "run_case", lambda case, *_: ran.append(case.name) or {})
    compatibility.main(["--docs", str(docs)])
    assert ran == []
    assert results(docs) == before
    monkeypatch.setattr(compatibility, "code_version", lambda: "another")
    compatibility.main(["--docs", str(docs)])
    assert ran == [case.name for case in three]


SOUND: dict[str, Any] = {
    "train": {
        "train": "yes",
        "read": {"kind": "vector", "shape": [4]},
        "repeats": True,
        "copy": [],
        "evaluate": {"greedy": [[1.0, 1]]},
    },
    "load": {"load": [], "evaluate": {"greedy": [[1.0, 1]]}},
    "resume": {"resume": []},
}


@pytest.mark.parametrize(
    ("stage", "changes", "complaint"),
    [
        ("train", {"train": "crash"}, "trains: crash"),
        ("train", {"read": {"kind": "picture", "shape": [64, 64, 3]}}, "read: picture 64×64×3"),
        ("train", {"copy": ["rewards"]}, "copy: differs"),
        ("train", {"evaluate": "hang"}, "evaluate: hang"),
        ("train", {"overwritten": 1}, "evaluate: same, overwritten files"),
        ("train", {"normalised": True}, "evaluate: same, normalised lives"),
        ("load", {"load": ["playing: rewards"]}, "load: other"),
        ("load", {"load": "refused", "load_env": ["describe: id"]}, "load: `env=` other"),
        ("load", {"evaluate": {"greedy": [[2.0, 1]]}}, "evaluate: differs"),
        ("resume", {"resume": ["model.safetensors"]}, "resume: differs"),
        ("resume", {"died": "exit code -11"}, "resume: died"),
    ],
)
def test_each_fault_is_detected(stage: str, changes: dict[str, Any], complaint: str):
    case = Case("one", "A group", (make("CartPole-v1"),), "object", "vector", lives=True)
    assert compatibility.wrong(case, SOUND) == []
    found = {**SOUND, stage: {**SOUND[stage], **changes}}
    assert compatibility.wrong(case, found) == [complaint]


def test_nondeterministic_environments_need_not_repeat():
    case = Case("one", "A group", (make("CartPole-v1"),), "object", "vector")
    found = {**SOUND, "train": {**SOUND["train"], "repeats": False, "copy": ["observations"]}}
    assert compatibility.status(case, found)["copy"] == "unseeded"
    assert compatibility.wrong(case, found) == []
