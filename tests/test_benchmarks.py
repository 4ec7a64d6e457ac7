"""The benchmarks run, and their statistics are correct."""

# One file: the benchmarks share the measuring functions and the page they write to.

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # benchmarks/ is part of a checkout, not of the package

from benchmarks import measure, precision, scaling, ssm, ssm_page, step  # noqa: E402

from drama import presets  # noqa: E402

DOCS = ROOT / "docs"


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """A folder like docs/, with text around and between the blocks of its page."""
    marks = [f"<!-- begin {name} -->\nold\n<!-- end {name} -->" for name in ("ssm", "scaling")]
    (tmp_path / "performance.md").write_text("above\n\n" + "\n\nbetween\n\n".join(marks) + "\n")
    return tmp_path


def result(docs: Path, name: str) -> dict:
    return json.loads((docs / "assets" / "performance" / f"{name}.json").read_text())


def test_ssm_runs(docs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("mambapy")
    ssm.main(["--smoke", "--threads", "1", "--rounds", "2", "--docs", str(docs)])
    found = result(docs, "ssm")
    assert found["command"] == "python -m benchmarks.ssm --threads 1 --rounds 2"
    assert {"cpu", "cores", "threads", "python", "torch", "date", "mambapy"} <= set(
        found["machine"]
    )
    assert set(found["rates"]) == {"float32", "bfloat16", "memory"}
    rows = {row["row"]: row for row in found["rows"]}
    assert {row["table"] for row in rows.values()} == set(ssm_page.TABLES)
    for row in rows.values():
        assert row["ratio"]["lower"] <= row["ratio"]["median"] <= row["ratio"]["upper"]
        assert row["met"] is (row["ratio"]["median"] <= row["target"])
        floor = row["floor"]["seconds"]
        assert row["over_floor"] == pytest.approx(row["measured"]["median"] / floor)
    assert len(rows["mamba2-drama"]["all_compared"]) == len({8, 16})
    assert rows["mamba1"]["memory"]["ours"] > 0
    page = (docs / "performance.md").read_text()
    assert page.startswith("above\n")
    assert "old\n<!-- end scaling" in page
    for row in rows.values():
        assert row["title"] in page
    capsys.readouterr()


def test_unknown_row_is_reported_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        ssm.main(["--smoke", "--threads", "1", "--only", "mamba3"])
    assert "no row mamba3; there are mamba2-drama" in capsys.readouterr().err


def test_scaling_runs(docs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scaling.main(["--smoke", "--threads", "1", "--rounds", "2", "--docs", str(docs)])
    found = result(docs, "scaling")
    assert set(found["series"]) == {"training", "imagination"}
    for series in found["series"].values():
        for entry in series.values():
            assert [point["length"] for point in entry["points"]] == found["lengths"]
            assert all(point["seconds"] > 0 for point in entry["points"])
            assert set(entry["slope"]) == {"seconds", "bytes"}
        assert set(series) == {"Mamba-2"}
        assert series["Mamba-2"]["target"] == 1.1
    assert (docs / "assets" / "performance" / "scaling.png").stat().st_size > 10_000
    page = (docs / "performance.md").read_text()
    assert "old\n<!-- end ssm" in page
    assert "| Mamba-2 |" in page
    capsys.readouterr()


@pytest.mark.parametrize("label", list(scaling.SERIES))
def test_every_series_is_measured(label: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def here(function: str, threads: int, for_memory: bool = False, **arguments: Any) -> Any:
        return getattr(scaling, function.partition(":")[2])(**arguments)

    monkeypatch.setattr(measure, "in_child", here)
    short, long = scaling.series("training", label, 128, [4, 8], 2, 1)
    assert (short["length"], long["length"]) == (4, 8)
    assert long["timed"]["rounds"] == 2
    assert long["seconds"] == long["timed"]["median"] > 0
    short, long = scaling.series("imagination", label, 128, [4, 40], 2, 1)
    assert (short["length"], long["length"]) == (4, 40)
    if label == "Transformer, full":  # 16 steps, multiplied
        assert long["seconds"] == pytest.approx(long["spent"] * 40 / 16)
    else:  # one rollout: the second point includes the first
        assert long["seconds"] == long["spent"] > short["seconds"]


@pytest.mark.parametrize(
    "module", [ssm, scaling, step, precision], ids=lambda module: module.__name__
)
def test_page_matches_the_results(module, tmp_path: Path) -> None:
    name = module.__name__.rpartition(".")[2]
    page = tmp_path / "performance.md"
    page.write_text((DOCS / "performance.md").read_text(encoding="utf-8"), encoding="utf-8")
    measure.replace_block(page, name, module.markdown(result(DOCS, name)))
    assert page.read_bytes() == (DOCS / "performance.md").read_bytes()


def test_slope_of_a_power_law_is_fitted() -> None:
    points = [{"length": n, "seconds": 3e-4 * n**1.7} for n in (64, 512, 1024, 2048, 4096)]
    points[0]["seconds"] = 5.0  # fixed cost, below the fitted range
    points.append({"length": 8192, "seconds": 1e9, "skipped": True})
    assert scaling.slope(points, "seconds", 512) == pytest.approx(1.7)
    assert scaling.slope(points, "seconds", 2048) is None  # two points make no slope
    # Hand-computed, for log2: x = 0, 1, 2 and y = 18, 21, 21 have the slope 3 / 2.
    points = [{"length": n, "bytes": b} for n, b in ((1, 2**18), (2, 2**21), (4, 2**21))]
    assert scaling.slope(points, "bytes", 1) == pytest.approx(1.5)
    points[0]["bytes"] = 7  # too little to be distinguished from zero
    assert scaling.slope(points, "bytes", 1) == pytest.approx(1.5)


def test_target_requires_both_slopes() -> None:
    def points(time: float, memory: float) -> list:
        return [
            {"length": n, "seconds": n**time, "bytes": 2**20 * n**memory} for n in (512, 1024, 2048)
        ]

    assert scaling.summarise("Mamba-2", points(1.0, 1.05), 512)["met"] is True
    assert scaling.summarise("Mamba-1", points(1.0, 1.2), 512)["met"] is False
    assert scaling.summarise("Mamba-1", points(1.2, 1.0), 512)["met"] is False
    assert scaling.summarise("Mamba-1", points(1.0, 1.0)[:2], 512)["met"] is False
    assert scaling.summarise("GRU", points(3.0, 3.0), 512)["met"] is None


def test_point_beyond_the_budget_is_skipped_with_its_extrapolation() -> None:
    def points(*pairs: tuple) -> list:
        return [{"seconds": 10 * spent, "spent": spent, "bytes": size} for spent, size in pairs]

    gib = 2**30
    assert scaling.beyond_budget(points((50, 3 * gib)), 8) is None  # nothing to extrapolate
    assert scaling.beyond_budget(points((1, gib // 4), (2, gib)), 8) is None
    beyond = scaling.beyond_budget(points((1, gib), (2, 3 * gib)), 8)
    told = {"length": 8, "skipped": True, "seconds": 40, "spent": 4, "bytes": 9 * gib}
    assert beyond == told
    beyond = scaling.beyond_budget(points((4, gib), (20, gib)), 8)  # 5 times, taken as 4
    assert beyond == {**told, "seconds": 800, "spent": 80, "bytes": gib}


def test_skipped_points_are_marked_in_text_and_figure(tmp_path: Path) -> None:
    run = [{"length": n, "seconds": n / 1e3, "bytes": n * 2**20} for n in (512, 1024, 2048)]
    skipped = {"length": 4096, "skipped": True, "seconds": 1.0, "spent": 70.0, "bytes": 9 * 2**30}
    entry = scaling.summarise("Transformer, full", [*run, skipped], 512)
    told = {
        "command": "python",
        "machine": measure.machine(1),
        "lengths": [512, 1024, 2048, 4096, 8192],
        "fit_from": 512,
        "budget": {"seconds": 60.0, "bytes": 4 * 2**30},
        "series": {"training": {"Transformer, full": entry}, "imagination": {"GRU": entry}},
    }
    text = scaling.markdown(told)
    expected = "T = 4096 and longer (expected at that length: 70 s, 9216 MiB)"
    assert f"Transformer, full, training, {expected}; GRU, imagination, {expected}." in text
    scaling.draw(told, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").is_file()


def test_only_the_block_is_replaced(docs: Path) -> None:
    page = docs / "performance.md"
    measure.replace_block(page, "ssm", "\nnew\nlines\n\n")
    assert page.read_text() == (
        "above\n\n<!-- begin ssm -->\nnew\nlines\n<!-- end ssm -->\n\nbetween\n\n"
        "<!-- begin scaling -->\nold\n<!-- end scaling -->\n"
    )


@pytest.mark.parametrize(
    "text",
    [
        "no marks",
        "<!-- begin x -->",
        "<!-- end x --> <!-- begin x -->",
        "<!-- begin x --> <!-- begin x --> <!-- end x -->",
        "<!-- begin x --> <!-- end x --> <!-- end x -->",
    ],
)
def test_page_without_markers_is_refused_and_unchanged(tmp_path: Path, text: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(ValueError, match="once each"):
        measure.replace_block(page, "x", "new")
    assert page.read_text() == text


def test_every_case_is_timed_once_per_round() -> None:
    calls: list[str] = []
    cases = {name: lambda name=name: calls.append(name) for name in "abc"}
    times = measure.interleaved(cases, rounds=5, warmup=1)
    assert {name: len(samples) for name, samples in times.items()} == dict.fromkeys("abc", 5)
    assert calls[:3] == ["a", "b", "c"]  # the warm-up
    rounds = [calls[begin : begin + 3] for begin in range(3, len(calls), 3)]
    assert [sorted(calls) for calls in rounds] == [["a", "b", "c"]] * 5
    assert len({tuple(calls) for calls in rounds}) > 1


def test_a_sample_of_a_short_call_is_the_mean_of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(measure.time, "perf_counter", lambda: clock[0])

    def run() -> None:
        clock[0] += 0.25

    calls = 1 + 1 + 3 * 4  # warm-up, one calibration call, three samples of four
    assert measure.interleaved({"a": run}, rounds=3, warmup=1, sample_seconds=1.0) == {
        "a": [0.25] * 3
    }
    assert clock[0] == 0.25 * calls
    # The budget is spent after one round, but three are made.
    times = measure.interleaved({"a": run}, rounds=9, warmup=0, budget_seconds=0.1)
    assert times == {"a": [0.25] * 3}


def test_quartiles_and_ratios_are_paired_by_round() -> None:
    assert measure.spread([4.0, 1.0, 3.0, 2.0, 5.0]) == {"median": 3.0, "lower": 2.0, "upper": 4.0}
    assert measure.spread([7.0]) == {"median": 7.0, "lower": 7.0, "upper": 7.0}
    # Paired by round: 2, 2 and 1/10. The quotient of the medians would be 3/10.
    found = measure.quotients([2.0, 20.0, 3.0], [1.0, 10.0, 30.0])
    assert found == pytest.approx({"median": 2.0, "lower": 1.05, "upper": 2.0})


ALLOCATE = """
import torch
from benchmarks import measure


def allocate(mebibytes: int) -> int:
    torch.ones(400 * 2**18)  # a larger peak before must not hide or add to it
    meter = measure.PeakMemory()
    for _ in range(2):  # one after the other: the peak is that of one
        torch.ones(mebibytes * 2**18)
    return meter.read()
"""


def test_peak_memory_of_a_known_allocation_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In a separate process, as in the benchmarks: the pages that a used heap gives to the second
    # allocation are unpredictable.
    (tmp_path / "probe.py").write_text(ALLOCATE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = measure.in_child("probe:allocate", 1, for_memory=True, mebibytes=100)
    assert 98 <= found / 2**20 < 108  # the kernel counts pages in batches


def test_child_process_gets_arguments_and_threads_and_reports_failure(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert measure.in_child("torch:get_num_threads", 2) == 2
    with pytest.raises(RuntimeError, match="ended with exit code 1"):
        measure.in_child("benchmarks.scaling:build", 1, name="none", width=8, full=False, length=1)
    assert "none" in capfd.readouterr().err


def test_flops_match_hand_computed_values() -> None:
    # Mamba-1, width 16: inner 32, rank 1. Weights 16·64 + 32·33 + 32 + 32·16 = 2624.
    operations, moved = ssm.work("mamba1", 16, (), 2, 3)
    assert operations == 6 * (6 * 2624 + 32 * 16 * 22)
    assert moved == 4 * 6 * (4 * 16 + 5 * (64 + 32)) + 8 * 2624
    # Mamba-2, width 16, state 4, head 8: in_proj gives 2·32 + 2·4 + 4 = 76; weights 16·76 + 32·16.
    # Scan: of 4·32·4 = 512 and T·(4 + 32) the smaller, three times.
    for length, scan in ((3, 108), (100, 512)):
        operations, moved = ssm.work("mamba2", 16, (4, 8, 64), 2, length, bf16=True)
        assert operations == 2 * length * (6 * 1728 + 3 * scan)
        assert moved == 2 * 2 * length * (4 * 16 + 5 * (76 + 32)) + 8 * 1728
    operations, moved = ssm.step_work("mamba2", 16, (4, 8, 64), 10)
    # All parameters: the projections, conv 40·5, dt_bias, A_log and D of 4 heads, norm 32.
    weights, state = 1728 + 200 + 12 + 32, 10 * 32 * 4
    assert (operations, moved) == (20 * weights + 5 * state, 4 * (weights + 2 * state))


def test_different_work_is_not_compared() -> None:
    x, dy = ssm.window(2, 8, 32)
    mine = ssm.training_pass(ssm.ours("mamba1", 32), x, dy)
    other = ssm.ours("mamba1", 32)
    assert ssm.difference(mine, ssm.training_pass(other, x, dy), bf16=False) == 0
    with torch.no_grad():
        other.D += 1e-2
    with pytest.raises(ValueError, match="not the same work"):
        ssm.difference(mine, ssm.training_pass(other, x, dy), bf16=False)


def test_step_runs(docs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--preset", "quick", "--env", "drama/Catch-v0", "--threads", "1", "--rounds", "1"]
    with (docs / "performance.md").open("a") as page:
        page.write("\n<!-- begin step-quick -->\n<!-- end step-quick -->\n")
    step.main([*arguments, "--docs", str(docs)])
    found = result(docs, "step-quick")
    for case in ("as run", "plain"):
        seconds = {phase: value["median"] for phase, value in found["seconds"][case].items()}
        assert seconds.pop("step") == pytest.approx(sum(seconds.values()))
        assert set(seconds) == set(step.PHASES)
    update = found["seconds"]["as run"]["world_model"]["median"]
    assert 0 < sum(found["floor"].values()) < update
    assert found["update over floor"] == pytest.approx(update / sum(found["floor"].values()))
    assert "world-model update" in (docs / "performance.md").read_text()
    capsys.readouterr()


def test_precision_runs(docs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (docs / "performance.md").open("a") as page:
        page.write("\n<!-- begin precision -->\n<!-- end precision -->\n")
    case = "quick:drama/Catch-v0"
    arguments = ["--cases", case, "--threads", "1", "--rounds", "1", "--docs", str(docs)]
    precision.main(arguments)
    found = result(docs, "precision")
    (row,) = found["rows"]
    assert found["command"].endswith(f"--threads 1 --cases {case}")
    for phase in (*step.PHASES, "step"):
        float32, bfloat16 = (row["seconds"][name][phase]["median"] for name in precision.PRECISIONS)
        assert row["ratio"][phase]["median"] == pytest.approx(bfloat16 / float32)
    assert found["reason"] in (docs / "performance.md").read_text()
    with pytest.raises(SystemExit):
        precision.main(["--cases", "quick"])
    assert "quick is not PRESET:ENV" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("auto", "ratio", "verdict"),
    [
        ("bfloat16", 0.7, "yes"),
        ("bfloat16", 1.3, "**no**"),
        ("float32", 1.3, "yes"),
        ("float32", 0.7, "**no**"),
    ],
)
def test_page_states_whether_auto_is_right(auto: str, ratio: float, verdict: str) -> None:
    found = json.loads((DOCS / "assets" / "performance" / "precision.json").read_text())
    spread = {"median": ratio, "lower": ratio, "upper": ratio}
    row = {"preset": "quick", "env": "x", "ratio": dict.fromkeys((*step.PHASES, "step"), spread)}
    text = precision.markdown({**found, "auto": auto, "rows": [row]})
    assert f"| {verdict} |" in text


def test_lower_bound_of_a_step_counts_every_product() -> None:
    trainer = step.build(step.small(presets.quick(), "drama/Catch-v0"), 2048)
    found = step.products(trainer)
    convolutions = (torch.nn.Conv2d, torch.nn.ConvTranspose2d)
    images = [p for p in found if isinstance(p.module, convolutions)]
    modules = list(trainer.learner.world_model.modules())
    assert len(images) == len([m for m in modules if isinstance(m, convolutions)])
    assert [p.needs_input_grad for p in images].count(False) == 1, "frames need no gradient"
    linear = {id(m) for m in modules if isinstance(m, torch.nn.Linear)}
    assert {id(p.module) for p in found if not isinstance(p.module, convolutions)} == linear


def test_plain_layout_is_contiguous() -> None:
    trainer = step.build(step.small(presets.quick(), "drama/Catch-v0"), 2048)
    step.in_plain_layout(trainer)
    seen: list[bool] = []
    for module in trainer.learner.world_model.encoder.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda _m, _x, y: seen.append(y.is_contiguous()))
    trainer.update("world_model")
    assert len(seen) == len(trainer.config.world_model.filters)
    assert all(seen)
