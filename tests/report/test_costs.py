"""Training costs of a suite."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
from tests.report.made_up import CATCH, SPARSE, UNIFORM, cell, runs

from drama.report.costs import cost_table
from drama.report.runs import CpuTime, read_run
from drama.report.summarise import summarise
from drama.report.tables import runs_csv


def test_rows_match_hand_computed_values(tmp_path: Path) -> None:
    given = [
        {"seed": 0, "score": 1.0, "cpu": 360.0},
        {"seed": 1, "score": 0.5, "cpu": 1080.0},
        {"variant": UNIFORM, "score": 0.25, "cpu": 3600.0},
        {"game": "CartPole-v1", "score": 9.0, "cpu": 36.0},
        {"game": SPARSE, "score": 1.0},  # its CPU time is not recorded
    ]
    table = cost_table(summarise(tmp_path, "Made up", runs(tmp_path, *given)))
    assert table is not None
    assert [tuple(cell.text for cell in row) for row in table.rows] == [
        # The random policy returns -0.75: (0.75 + 0.75) / 0.2 h and (0.25 + 0.75) / 1 h.
        (CATCH, "Base", "0.20", "0.03", "7.5"),
        (CATCH, "Uniform", "1.00", "0.03", "1"),
        ("CartPole-v1", "Base", "0.01", "0.03", "—"),
    ]


def test_suite_without_recorded_cpu_time_has_no_table(tmp_path: Path) -> None:
    assert cost_table(summarise(tmp_path, "Made up", runs(tmp_path, {"score": 1.0}))) is None


def test_cpu_time_is_interpolated_between_rows() -> None:
    cpu = CpuTime(np.array([100.0, 200.0]), np.array([10.0, 50.0]))
    assert cpu.at(np.array([50.0, 100.0, 150.0, 900.0])).tolist() == [5.0, 10.0, 30.0, 50.0]


def test_cpu_time_is_listed_for_each_run(tmp_path: Path) -> None:
    found = summarise(
        tmp_path, "Made up", runs(tmp_path, {"score": 1.0, "cpu": 36.0}, {"seed": 1, "score": 1.0})
    )
    rows = list(csv.DictReader(io.StringIO(runs_csv(found))))
    assert [row["cpu_seconds"] for row in rows] == ["36.0", ""]


def test_cpu_time_needs_every_row(tmp_path: Path) -> None:
    made = cell(tmp_path, score=1.0, cpu=36.0)
    assert read_run(made).cpu is not None
    with (made.path / "metrics.jsonl").open("a") as log:
        log.write('{"step": 90, "time/wall_seconds": 1.0}\n')  # by an earlier version
    assert read_run(made).cpu is None
