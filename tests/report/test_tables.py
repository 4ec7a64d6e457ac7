"""Tables: the right cells, in valid HTML, Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from tests.report.made_up import ALIEN, BOXING, CATCH, PONG, SPARSE, UNIFORM, XS, runs

from drama.evaluation import Estimate
from drama.report.summarise import summarise
from drama.report.summary import Summary
from drama.report.table import MISSING, Cell, Table
from drama.report.tables import (
    aggregate_table,
    improvement_table,
    interval,
    number,
    progress_table,
    runs_csv,
    score_table,
)
from drama.suite import Variant

STEPS = {"steps": 100_000}


def summary(root: Path, *given: dict[str, Any]) -> Summary:
    return summarise(root, "Made up", runs(root, *given))


def rows(table: Table) -> dict[str, dict[str, Cell]]:
    return {row[0].text: dict(zip(table.header, row, strict=True)) for row in table.rows}


def shown(cell: Cell) -> tuple[str, bool]:
    return cell.text, cell.bold


def read(text: str) -> dict[str, dict[str, str]]:
    """The rows of a CSV file by their first column."""
    return {next(iter(row.values())): row for row in csv.DictReader(io.StringIO(text))}


def test_atari_table_matches_hand_computed_values(tmp_path: Path) -> None:
    table = score_table(
        summary(
            tmp_path,
            *({"variant": XS, "game": PONG, "seed": s, "score": 14.0 + s, **STEPS} for s in (0, 1)),
            {"variant": XS, "game": BOXING, "score": 90.0, **STEPS},
            {"variant": XS, "game": ALIEN, "status": "interrupted", **STEPS},
        )
    )
    assert table.header[:4] == ("Game", "Random", "Human", "PPO")
    assert table.header[-2:] == ("Drama-XS (published)", "Drama XS")
    found = rows(table)
    assert found["Pong"]["Random"].text == "-21"
    assert found["Pong"]["Human"].text == "15"
    assert shown(found["Pong"]["Drama XS"]) == ("14.5 (2)", False)
    assert shown(found["Pong"]["TWM"]) == ("19", True)  # the best published one
    assert shown(found["Boxing"]["Drama XS"]) == ("90 (1)", True)
    assert found["Alien"]["Drama XS"] == Cell(MISSING)
    # (14.5 + 21) / 36 and (90 - 0) / 12, the mean of the two given games.
    mean = found["Mean (2 of 3 games)"]
    assert mean["Drama XS"].text == f"{(35.5 / 36 + 90 / 12) / 2:.3f}"
    # Published: Drama-XS 15 on Pong and 78 on Boxing.
    assert mean["Drama-XS (published)"].text == f"{(36 / 36 + 78 / 12) / 2:.3f}"
    assert found["Games above human (2 of 3 games)"]["Drama XS"].text == "1"
    assert any("cover only 2 games, in every column: Pong, Boxing." in n for n in table.notes)


def test_the_lowest_optimality_gap_is_the_best(tmp_path: Path) -> None:
    found = rows(
        score_table(
            summary(
                tmp_path,
                {"score": 1.0},
                {"variant": UNIFORM, "score": -0.75},
            )
        )
    )
    assert shown(found["Optimality gap"]["Base"]) == ("0.000", True)
    assert shown(found["Optimality gap"]["Uniform"]) == ("1.000", False)
    assert "Games above human" not in found


def test_a_run_that_stopped_early_is_labelled(tmp_path: Path) -> None:
    given = {"variant": XS, "game": PONG, "score": 1.0}
    table = score_table(summary(tmp_path / "a", {**given, "steps": 20_000}))
    assert table.header[-1] == "Drama XS (20,000 steps)"
    assert any("stopped at 20,000 environment steps" in note for note in table.notes)
    assert any("20,000 environment steps instead of 100,000" in note for note in table.notes)
    whole = score_table(summary(tmp_path / "b", {**given, **STEPS}))
    assert whole.header[-1] == "Drama XS"


def test_other_games_have_no_published_columns(tmp_path: Path) -> None:
    table = score_table(
        summary(
            tmp_path,
            *({"seed": s, "score": float(s)} for s in (0, 1)),
            {"variant": UNIFORM, "score": 0.5},
            {"game": SPARSE, "status": "missing"},
        )
    )
    assert table.header == ("Game", "Random", "Optimum", "Base", "Uniform")
    found = rows(table)
    assert found[CATCH]["Base"].text == "0.5 [0, 1] (2)"
    assert found[CATCH]["Uniform"].text == "0.5 (1)"
    assert found[CATCH]["Base"].bold
    assert found[CATCH]["Uniform"].bold  # a tie
    assert found[SPARSE]["Base"].text == MISSING
    # Without a known reference there is no normalisation, and so no aggregate.
    foreign = score_table(summary(tmp_path / "b", {"game": "CartPole-v1", "score": 9.0}))
    assert foreign.header == ("Game", "Base")
    assert [row[0].text for row in foreign.rows] == ["CartPole-v1"]


def test_aggregate_and_improvement_tables(tmp_path: Path) -> None:
    found = summary(
        tmp_path,
        *({"seed": s, "score": float(s)} for s in (0, 1)),
        {"variant": UNIFORM, "score": 0.5},
    )
    table = aggregate_table(found.blocks[0], 1)
    cells = rows(table)
    # Normalised 0.75 / 1.75 and 1; the interval of two runs reaches from one to the other.
    assert cells["Base"]["Mean"].text == "0.714 [0.429, 1.000]"
    assert cells["Uniform"]["Mean"].text == "0.714"
    assert cells["Base"]["Runs per game"].text == "2"
    assert any("cannot be resampled: Uniform" in note for note in table.notes)
    plain = read(table.csv())
    assert float(plain["Base"]["Mean"]) == pytest.approx((0.75 / 1.75 + 1) / 2)
    assert float(plain["Base"]["Mean low"]) == pytest.approx(0.75 / 1.75)
    assert plain["Base"]["Mean high"] == "1.0"
    assert (plain["Uniform"]["Mean low"], plain["Uniform"]["Runs per game"]) == ("", "1")
    (row,) = improvement_table(found).rows
    assert [cell.text for cell in row] == ["Base > Uniform", "0.50 [0.00, 1.00]", "1"]


def test_mean_over_runs_is_not_labelled_a_run(tmp_path: Path) -> None:
    found = summary(tmp_path, {"variant": XS, "game": PONG, "score": 15.0, **STEPS})
    cells = rows(aggregate_table(found.blocks[0], 1))
    # Of these only means over runs were published.
    for method in ("Drama-XS (published)", "EfficientZero"):
        assert cells[method]["Runs per game"].text == "means only"
    assert cells["DIAMOND"]["Runs per game"].text == "5"
    assert cells["Drama XS"]["Runs per game"].text == "1"


def test_progress_counts_finished_runs(tmp_path: Path) -> None:
    found = rows(
        progress_table(
            summary(
                tmp_path,
                {"seed": 0},
                {"seed": 1, "status": "interrupted"},
                {"seed": 2, "status": "missing"},
                {"variant": UNIFORM, "game": SPARSE},
            )
        )
    )
    assert found[CATCH]["Base"].text == "1 of 3"
    assert found[CATCH]["Uniform"].text == MISSING
    assert found[SPARSE]["Uniform"].text == "1 of 1"


def test_every_run_is_listed(tmp_path: Path) -> None:
    text = runs_csv(
        summary(
            tmp_path,
            {"seed": 0, "score": 0.125},
            {"seed": 1, "status": "failed", "reason": "killed, twice"},
            {"seed": 2, "score": 1.0, "protocol": {"train_steps": 1}},
        )
    )
    first, second, third = csv.DictReader(io.StringIO(text))
    assert (first["score"], first["normalised"], first["used"]) == ("0.125", "0.5", "1")
    assert (second["status"], second["score"], second["reason"]) == ("failed", "", "killed, twice")
    assert third["used"] == "0"
    assert [json.loads(row["protocol"])["train_steps"] for row in (first, third)] == [5000, 1]
    assert second["protocol"] == ""
    assert "another protocol" in third["reason"]


HARD = Table(
    "hard",
    "A <title> & more",
    ("Name", "50 %", "a_b"),
    ((Cell("x|y\\z"), Cell("1.5", bold=True), Cell()), (Cell("<b>&"), Cell("2, 3"), Cell("#{1}"))),
    notes=("n_1 < 2",),
    split=1,
)


def test_markdown_cells_are_escaped() -> None:
    lines = HARD.markdown().splitlines()
    assert lines[0] == "| Name | 50 % | a\\_b |"
    assert lines[1] == "| :--- | ---: | ---: |"
    assert lines[2] == "| x\\|y\\\\z | **1.5** | — |"
    assert lines[-1] == "- n\\_1 \\< 2"


def test_csv_is_plain_text() -> None:
    read = list(csv.reader(io.StringIO(HARD.csv())))
    assert read == [["Name", "50 %", "a_b"], ["x|y\\z", "1.5", ""], ["<b>&", "2, 3", "#{1}"]]


@pytest.mark.faults
@pytest.mark.parametrize("label", ["=1+1", "+1", "-HYPERLINK(0)", "@SUM(1)", "\t=1"])
def test_no_cell_of_a_csv_is_a_formula(label: str) -> None:
    table = Table("t", label, (label, "x"), ((Cell(label), Cell("-1.5", value=-1.5)),))
    for row in csv.reader(io.StringIO(table.csv())):
        assert row[0] == f"'{label}"
    assert row[1] == "-1.5"


def test_csv_has_one_number_per_cell(tmp_path: Path) -> None:
    table = score_table(
        summary(
            tmp_path,
            *({"seed": s, "score": s / 3} for s in (0, 1)),
            {"variant": UNIFORM, "score": 0.5},
            {"game": SPARSE, "status": "missing"},
        )
    )
    plain = read(table.csv())
    assert list(plain[CATCH]) == [
        *("Game", "Random", "Optimum", "Base", "Base low", "Base high", "Base seeds"),
        *("Uniform", "Uniform seeds"),
    ]
    assert list(plain[CATCH].values()) == [
        *(CATCH, "-0.75", "1.0", str(1 / 6), "0.0", str(1 / 3), "2", "0.5", "1"),
    ]
    assert list(plain[SPARSE].values())[3:] == [""] * 6


def test_a_line_break_breaks_no_table() -> None:
    table = Table("t", "T", ("A", "b\nc"), ((Cell("x\n\ny"), Cell("1")),), notes=("n\nm",))
    assert table.markdown().splitlines()[0] == "| A | b c |"
    assert "| x y | 1 |" in table.markdown().splitlines()
    assert table.markdown().splitlines()[-1] == "- n m"
    assert r"x y & 1 \\" in table.latex().splitlines()
    assert table.latex().splitlines()[-1] == "% n m"


@pytest.mark.parametrize("name", ["[x] a", "*a"])
def test_latex_cell_is_no_argument_of_the_line_break_before_it(name: str) -> None:
    table = Table("t", "T", ("A", "B"), ((Cell("y"), Cell("1")), (Cell(name), Cell("2"))))
    assert rf"{{}}{name} & 2 \\" in table.latex().splitlines()


def test_latex_is_escaped() -> None:
    lines = HARD.latex().splitlines()
    assert lines[1] == r"\begin{tabular}{lrr}"
    assert lines[3] == r"Name & 50 \% & a\_b \\"
    assert lines[5] == r"x|y\textbackslash{}z & \textbf{1.5} & --- \\"
    assert lines[6] == r"\midrule"
    assert lines[7] == r"\textless{}b\textgreater{}\& & 2, 3 & \#\{1\} \\"


def test_latex_uses_a_minus_in_numbers_and_a_hyphen_in_names() -> None:
    number = Cell("-1 [-2, 0]", bold=True, value=-1.0)
    table = Table("t", "T", ("A", "B"), ((Cell("Drama-XS"), number),))
    assert r"Drama-XS & \textbf{$-$1 [$-$2, 0]} \\" in table.latex().splitlines()


def test_html_is_escaped() -> None:
    text = HARD.html()
    assert "<caption>A &lt;title&gt; &amp; more</caption>" in text
    assert '<th scope="row">&lt;b&gt;&amp;</th>' in text
    assert "<td><b>1.5</b></td>" in text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (-0.0, "0"),
        (1234.5678, "1235"),
        (12.3456, "12.35"),
        (-0.75, "-0.75"),
        (1e6, "1000000"),
    ],
)
def test_numbers_are_formatted(value: float, text: str) -> None:
    assert number(value) == text


def test_intervals_are_formatted() -> None:
    assert interval(Estimate(0.5, 0.25, 1.0), 2) == "0.50 [0.25, 1.00]"
    assert interval(Estimate(3.0), 0) == "3"


def test_a_variant_without_runs_is_shown_as_missing(tmp_path: Path) -> None:
    late = Variant("late", "Late", "quick")
    table = score_table(summary(tmp_path, {"score": 1.0}, {"variant": late, "status": "missing"}))
    assert table.header[-1] == "Late"
    assert all(row[-1] == Cell(MISSING) for row in table.rows)
    assert "No results yet: Late." in table.notes
    assert not any("No aggregate" in note for note in table.notes)
