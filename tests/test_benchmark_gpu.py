"""The GPU benchmark, run small on the CPU; on a GPU its checks are the tests."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # benchmarks/ is part of a checkout, not of the package

from benchmarks import gpu, gpu_checks, measure  # noqa: E402

CATCH = "drama/Catch-v0"


@pytest.mark.parametrize("name", list(gpu_checks.CHECKS))
def test_a_check_passes_on_the_cpu(name: str) -> None:
    gpu_checks.CHECKS[name](gpu.configured("cpu", CATCH, True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", list(gpu_checks.CHECKS))
def test_a_check_passes_on_the_gpu(name: str) -> None:
    gpu_checks.CHECKS[name](gpu.configured("cuda", CATCH, True))


def test_wrong_scan_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = gpu_checks.ssd, iter([False, True])

    def wrong(*args: Any, **kwargs: Any) -> Any:
        y, state = original(*args, **kwargs)
        return (y * 1.01, state) if next(calls) else (y, state)

    monkeypatch.setattr(gpu_checks, "ssd", wrong)
    with pytest.raises(AssertionError, match="ssd 0"):
        gpu_checks.scans(gpu.configured("cpu", CATCH, True))


def test_nan_is_never_close() -> None:
    with pytest.raises(AssertionError, match="distances above"):
        gpu_checks.require({"x": float("nan")}, 1.0)


def test_differing_updates_are_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    original = gpu_checks._trained
    calls = iter([0, 1])

    def one_more(config: Any, updates: int, **training: Any) -> Any:
        return original(config, updates + next(calls), **training)

    monkeypatch.setattr(gpu_checks, "_trained", one_more)
    with pytest.raises(AssertionError):
        gpu_checks.graphs(gpu.configured("cpu", CATCH, True))


def test_phases_add_up_to_the_whole(capsys: pytest.CaptureFixture[str]) -> None:
    found = gpu.phases("cpu", CATCH, True, "graphs", 2)
    assert found["step"] == pytest.approx(sum(v["median"] for v in found["seconds"].values()))
    assert found["peak bytes"] is None
    whole = gpu.end_to_end("cpu", CATCH, True, 0.2, overlap=True)
    assert whole["steps"] >= 10
    assert sum(whole["time"].values()) == pytest.approx(1.0, abs=0.05)
    request = {"device": "cpu", "env": CATCH, "small": True, "seconds": 0.1}
    assert gpu.main(["--child", json.dumps(request)]) == 0
    assert json.loads(capsys.readouterr().out)["steps_per_second"] > 0


@pytest.mark.slow
def test_complete_command_runs(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    assert gpu.main(["--device", "cpu", "--env", CATCH, "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert not found["errors"]
    assert found["measured"] is False
    names = set(found["sections"])
    assert {f"check: {name}" for name in gpu_checks.CHECKS} < names
    assert {"ceilings", "phases: graphs", "profile: eager", "end to end", "packed: 2"} < names
    assert gpu.markdown({**found, "measured": False}).startswith("Not yet measured")


def test_failed_part_is_recorded_and_the_rest_runs(tmp_path: Path) -> None:
    report = gpu.Report(tmp_path / "gpu.json", 1000.0, {"head": 1})
    assert report.add("good", lambda: 7) == 7
    assert report.add("bad", lambda: 1 / 0) is None
    assert report.add("late", lambda: 8, needs=10_000.0) is None
    assert report.add("last", lambda: 9) == 9
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["sections"] == {"good": 7, "last": 9}
    assert found["errors"]["bad"].startswith("ZeroDivisionError")
    assert "skipped" in found["errors"]["late"]


def test_page_without_and_with_a_measurement() -> None:
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    block = page.split("<!-- begin gpu -->")[1].split("<!-- end gpu -->")[0].strip()
    path = ROOT / "docs" / "assets" / "performance" / "gpu.json"
    result = json.loads(path.read_text()) if path.exists() else {"measured": False}
    assert block == gpu.markdown(result)
    phase = {"seconds": {k: {"median": 0.01} for k in ("world_model", "behaviour")}, "step": 0.02}
    machine = {**measure.machine(1), "gpu": "some GPU"}
    measured = {
        "measured": True,
        "command": "c",
        "goal": 60.0,
        "machine": machine,
        "errors": {"check: graphs": "AssertionError"},
        "sections": {
            "check: scans": {},
            "phases: graphs": {**phase, "peak bytes": 3e9},
            "end to end": {"steps_per_second": 61.0},
            "packed: 2": {"steps_per_second": 59.0},
        },
    }
    text = gpu.markdown(measured)
    assert "| graphs | 10.0 | 10.0 | 20.0 | 50 | 3.0 |" in text
    assert "| end to end | 61.0 | yes |" in text
    assert "| packed: 2 | 59.0 | no |" in text
    assert "Checks passed: 1; failed: check: graphs." in text


def test_missing_gpu_is_reported(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 2
    assert capsys.readouterr().err.count("\n") == 1
