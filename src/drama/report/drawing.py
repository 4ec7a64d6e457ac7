"""Drawing style: one look per variant, reproducible bytes."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure as Canvas

from drama.text import one_line

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8A6240")
"""Okabe-Ito palette, safe for colour-blind readers; brown replaces the faint yellow."""
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (5, 1.5, 1, 1.5)), (0, (1.5, 1.2)))
"""Line styles, which distinguish variants in greyscale."""
GREY = "#6b6b6b"
STYLE = {
    "svg.hashsalt": "drama",
    "svg.fonttype": "path",
    "font.family": ["DejaVu Sans"],
    "font.size": 10,
    "text.parse_math": False,  # labels may contain dollar signs
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "path.simplify": True,
}


@dataclass(frozen=True)
class Figure:
    """A drawn figure."""

    name: str
    """Stem of the file names."""
    title: str
    caption: str
    """Description of lines, bars and bands."""
    alt: str
    """Alternative text: the numbers in words."""
    svg: str
    png: bytes
    width: int
    """Width in CSS pixels."""
    height: int


@dataclass(frozen=True)
class Look:
    """Colour and line style of a variant in every figure."""

    colour: str
    dashes: Any


def looks(names: Sequence[str]) -> dict[str, Look]:
    """Return one look per name; the same names in the same order give the same looks."""
    return {
        # After one cycle of colours the line styles shift, so no pair repeats early.
        name: Look(PALETTE[i % len(PALETTE)], DASHES[(i + i // len(PALETTE)) % len(DASHES)])
        for i, name in enumerate(names)
    }


@contextmanager
def new_canvas(size: tuple[float, float]) -> Iterator[Canvas]:
    """Yield a figure in this style, independent of the user's settings; restores global state."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)  # type: ignore[arg-type]
        yield Canvas(figsize=size, layout="constrained")


def legend(canvas: Canvas, handles: Mapping[str, Any]) -> None:
    """Add a legend if there is more than one line."""
    if len(handles) > 1:
        canvas.legend(
            list(handles.values()),
            list(handles),
            loc="outside upper left",  # visible first on a phone
            ncols=min(4, len(handles)),
        )


def finished(canvas: Canvas, name: str, title: str, caption: str, alt: str) -> Figure:
    """Lay out a canvas and render it as SVG and PNG, see :class:`Figure`."""
    svg, png = io.StringIO(), io.BytesIO()
    canvas.draw_without_rendering()  # one layout for both files
    canvas.set_layout_engine("none")
    # No date or version, so that the same runs give the same bytes.
    canvas.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    canvas.savefig(png, format="png", dpi=160, metadata={"Software": None})
    width, height = canvas.get_size_inches()
    return Figure(
        name=name,
        title=title,
        caption=one_line(caption),
        alt=alt,
        svg=svg.getvalue(),
        png=png.getvalue(),
        width=round(96 * width),
        height=round(96 * height),
    )
