"""Figures: the plotted numbers, and the same bytes from the same runs."""

from __future__ import annotations

import re
import struct
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from tests.report.made_up import CATCH, PONG, SPARSE, UNIFORM, XS, runs

from drama.report import curves, drawing
from drama.report.curves import curve
from drama.report.drawing import PALETTE, Figure, looks
from drama.report.figures import draw_all
from drama.report.runs import Episodes, Run
from drama.report.summarise import summarise
from drama.suite import load_spec


def run(steps: list[float], returns: list[float]) -> Run:
    return Run(
        "v", CATCH, 0, Path(), "finished", episodes=Episodes(np.array(steps), np.array(returns))
    )


def draw(root: Path, *given: dict[str, Any]) -> dict[str, Figure]:
    found = draw_all(summarise(root, "Made up", runs(root, *given)))
    return {figure.name: figure for figure in found}


def test_curve_matches_hand_computed_values() -> None:
    # Running means of 2: one seed 1, 3 after steps 20, 30; the other 10, 20 after steps 15, 28.
    one = run([10, 20, 30], [0.0, 2.0, 4.0])
    other = run([5, 15, 28], [10.0, 10.0, 30.0])
    found = curve([one, other], width=2)
    assert found is not None
    # From step 20, when both have a mean, to step 28, the end of the shorter one.
    assert found.steps.tolist() == [20.0, 28.0]
    assert found.mean.tolist() == [(1 + 10) / 2, (1 + 20) / 2]
    assert found.low.tolist() == [1.0, 1.0]
    assert found.high.tolist() == [10.0, 20.0]
    assert found.seeds == 2


def test_curve_has_at_most_the_requested_points() -> None:
    steps = [float(s) for s in range(1, 1001)]
    found = curve([run(steps, steps)], width=1, points=50)
    assert found is not None
    assert len(found.steps) == 50
    assert (found.steps[0], found.steps[-1]) == (1.0, 1000.0)
    # Each point is that of the latest whole episode, not of a later one.
    assert np.all(found.mean <= found.steps)
    assert np.all(found.mean > found.steps - 1)


def test_too_few_episodes_give_no_curve() -> None:
    assert curve([run([1, 2], [0.0, 0.0])], width=3) is None
    assert curve([], width=3) is None
    # Two seeds that never overlap.
    assert curve([run([1, 2], [0, 0]), run([5, 6], [0, 0])], width=1) is None
    few, enough = run([1], [0.0]), run([1, 2, 3], [3.0, 6.0, 9.0])
    found = curve([few, enough], width=3)
    assert found is not None
    assert (found.seeds, found.mean.tolist()) == (1, [6.0])


def test_variant_has_the_same_style_in_every_figure() -> None:
    style = looks(["a", "b", "c"])
    assert [style[name].colour for name in "abc"] == list(PALETTE[:3])
    assert len({str(style[name].dashes) for name in "abc"}) == 3


def test_variants_have_distinct_styles() -> None:
    names = [variant.name for variant in load_spec("atari100k-ablations").variants]
    assert len({look.colour for look in looks(names).values()}) == len(names)
    many = looks([str(i) for i in range(4 * len(PALETTE))]).values()
    assert len({(look.colour, str(look.dashes)) for look in many}) == 4 * len(PALETTE)


GIVEN = (
    {"seed": 0, "score": 0.5},
    {"seed": 1, "score": 0.75},
    {"seed": 2, "status": "interrupted"},
    {"game": SPARSE, "score": 0.25},
    {"variant": UNIFORM, "score": 0.25},
    {"variant": UNIFORM, "game": SPARSE, "score": 0.25},
)


def test_figures_are_valid_and_reproducible_to_the_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = draw(tmp_path / "a", *GIVEN)
    assert list(first) == [
        "curves",
        "ablation-replay-sampling",
        "aggregates-1",
        "improvement",
        "profile-1",
    ]
    before = dict(mpl.rcParams)
    monkeypatch.setitem(mpl.rcParams, "axes.linewidth", 9.0)  # matplotlib settings of the user
    monkeypatch.setitem(mpl.rcParams, "font.size", 30.0)
    second = draw(tmp_path / "b", *GIVEN)
    assert first == second
    monkeypatch.undo()
    assert dict(mpl.rcParams) == before
    for figure in first.values():
        root = ET.fromstring(figure.svg)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert len(root.findall(".//{http://www.w3.org/2000/svg}path")) > 10
        assert not re.search(r"\d{4}-\d\d-\d\d", figure.svg), "a date"
        width, height = struct.unpack(">II", figure.png[16:24])
        assert figure.png[:4] == b"\x89PNG"
        assert (width, height) == pytest.approx(
            (figure.width * 160 / 96, figure.height * 160 / 96), abs=2
        )
        assert figure.title
        assert len(figure.alt) > 20
        assert len(figure.caption) > 20


def test_figure_descriptions_match_their_data(tmp_path: Path) -> None:
    found = draw(tmp_path, *GIVEN)
    # The last mean of five of 0 1 2 3 4 5.
    assert "drama/Catch-v0, Base: 3 after 60 steps (2 seeds)" in found["curves"].alt
    assert "Unfinished runs drawn: 1" in found["curves"].alt
    assert "unfinished run (1 of them)" in found["curves"].caption
    assert "Base over Uniform: 0.75" in found["improvement"].alt
    assert "Uniform: 50 % of runs above 0.5" in found["profile-1"].alt


def test_each_game_has_its_own_axis_of_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[list[float]] = []

    def finished(canvas: Any, *args: Any) -> Figure:
        ends.append([axes.get_xlim()[1] for axes in canvas.axes])
        return drawing.finished(canvas, *args)

    monkeypatch.setattr(curves, "finished", finished)
    found = draw(
        tmp_path,
        {"score": 0.5, "steps": 60},
        {"game": SPARSE, "score": 0.25, "steps": 6_000, "returns": [0.0] * 600},
    )
    short, long = ends[0]
    assert 60 <= short < 100
    assert 6_000 <= long < 7_000
    assert "drama/Sparse-v0, Base: 0 after 6,000 steps (1 seed)" in found["curves"].alt


def test_variants_without_a_curve_are_named(tmp_path: Path) -> None:
    found = draw(
        tmp_path,
        {"score": 0.5},
        {"seed": 1, "score": 0.5, "returns": (1.0, 2.0)},
        {"game": SPARSE, "score": 0.5, "returns": (1.0, 2.0)},
        {"variant": UNIFORM, "status": "missing"},
        {"variant": UNIFORM, "game": SPARSE, "score": 0.25},
    )
    absent = "No curve yet, too few episodes: "
    first, ablation = found["curves"], found["ablation-replay-sampling"]
    assert first.caption.endswith(f"{absent}drama/Sparse-v0.")
    assert "Excluded: finished seeds with fewer than 5 episodes (1)." in first.caption
    ending = f"{absent}drama/Catch-v0 (Uniform), drama/Sparse-v0 (Base)."
    assert ablation.caption.endswith(ending)
    assert ablation.alt.endswith(ending)
    whole = draw(tmp_path / "whole", *GIVEN)
    assert absent not in whole["curves"].caption


def test_no_data_gives_no_figure(tmp_path: Path) -> None:
    assert draw(tmp_path, {"status": "missing"}) == {}
    assert list(draw(tmp_path / "b", {"score": 0.0, "returns": (1.0, 2.0)})) == ["aggregates-1"]


def test_published_methods_are_plotted_with_intervals_on_atari(tmp_path: Path) -> None:
    found = draw(
        tmp_path,
        *(
            {"variant": XS, "game": PONG, "seed": s, "score": 3.0 + s, "steps": 100_000}
            for s in (0, 1)
        ),
    )
    alt = found["aggregates-1"].alt
    assert re.search(r"DIAMOND: mean 1\.\d+ \[1\.\d+, 1\.\d+\]", alt)
    assert "Drama-XS (published): mean 1.000," in alt
    assert "SPR" not in alt
