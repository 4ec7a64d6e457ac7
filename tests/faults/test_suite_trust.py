"""An untrusted suite directory runs no code; a suite file of the user is trusted."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.faults.test_trust import MODULE
from tests.suite.suites import edit_json, run_suite, tiny_spec

from drama.cli import main
from drama.suite.layout import begin_suite
from drama.suite.local import LocalPool

pytestmark = pytest.mark.faults

CODE = "strangers_code:make"
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user account without earlier runs, and a module that is not imported yet."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "strangers_code.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "strangers_code", raising=False)


def game(tree: dict[str, Any]) -> None:
    tree["spec"]["games"] = [CODE]


def variant(tree: dict[str, Any]) -> None:
    tree["spec"]["variants"][0]["overrides"]["env.wrappers"] = ["strangers_code:Wrap"]


def preset(tree: dict[str, Any]) -> None:
    tree["presets"]["quick"]["env"]["wrappers"] = ["strangers_code:Wrap"]


@pytest.mark.parametrize("change", [game, variant, preset])
def test_code_named_by_an_untrusted_suite_is_not_imported(
    change: Callable[[Any], None], tmp_path: Path, capfd: Capture
) -> None:
    suite = tmp_path / "suite"
    begin_suite(suite, tiny_spec(["CartPole-v1"]))
    edit_json(suite / "suite.json", change)
    for more in ([], ["--dry-run"], ["--seeds", "0"]):
        assert main(["suite", "run", str(suite), *more]) == 2
        [line] = capfd.readouterr().err.splitlines()
        assert "suite.json would import 'strangers_code:" in line
        assert line.endswith("if you trust it, add --trust-env")
    assert main(["suite", "status", str(suite)]) == 0
    assert main(["suite", "show", str(suite)]) == 0
    assert main(["report", str(suite)]) != 1  # the report says that nothing is finished
    assert "strangers_code" not in sys.modules
    assert {path.name for path in suite.iterdir()} <= {"suite.json", "report", ".lock"}


def test_run_of_another_environment_in_a_suite_is_not_resumed(tmp_path: Path) -> None:
    """The child process trusts the suite's names, so the run must name nothing else."""
    suite = tmp_path / "suite"
    run_suite(suite, tiny_spec(["CartPole-v1"]))
    run = suite / "one" / "CartPole-v1" / "seed-0"
    edit_json(suite / "suite.json", lambda tree: tree["spec"].update(steps=50))
    edit_json(run / "config.json", lambda tree: tree["env"].update(id=CODE))
    assert main(["suite", "run", str(suite)]) == 1
    assert "strangers_code" not in sys.modules


def test_a_report_of_finished_runs_imports_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = tmp_path / "suite"
    run_suite(suite, tiny_spec([CODE]))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another-account"))
    monkeypatch.delitem(sys.modules, "strangers_code")
    assert main(["report", str(suite)]) == 0
    assert (suite / "report" / "index.html").is_file()
    # Nothing is left to run, so no trust is needed or recorded.
    assert main(["suite", "run", str(suite)]) == 0
    assert "strangers_code" not in sys.modules
    assert not (tmp_path / "another-account").exists()


def test_own_suite_resumes_without_trust(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    spec = tmp_path / "mine.json"
    spec.write_text(json.dumps(tiny_spec([CODE]).to_dict()))
    started: list[str] = []

    def start(pool: LocalPool, cell: Any) -> Any:
        started.append(cell.name)
        raise KeyboardInterrupt  # before its first run

    monkeypatch.setattr(LocalPool, "start", start)
    suite = str(tmp_path / "suite")
    run_it = ["suite", "run", str(spec), "--dir", suite]
    for args in (run_it, run_it, ["suite", "run", suite]):
        assert main(args) == 130
    assert len(started) == 3
    # On another account it is untrusted, by any path.
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another-account"))
    for args in (run_it, ["suite", "run", suite]):
        capfd.readouterr()
        assert main(args) == 2
        assert "would import" in capfd.readouterr().err
    assert main(["suite", "run", suite, "--trust-env"]) == 130
