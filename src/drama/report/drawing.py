"""How every figure is drawn: one style, one look for each variant, the same bytes each time."""

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
"""Okabe and Ito's colours, told apart by people with any kind of colour vision; brown in place of
their yellow, which is hard to see on white."""
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (5, 1.5, 1, 1.5)), (0, (1.5, 1.2)))
"""Lines, so that variants can also be told apart in grey."""
GREY = "#6b6b6b"
STYLE = {
    "svg.hashsalt": "drama",
    "svg.fonttype": "path",
    "font.family": ["DejaVu Sans"],
    "font.size": 10,
    "text.parse_math": False,  # a label may have a dollar in it
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
    """One drawn figure."""

    name: str
    """Stem of its files."""
    title: str
    caption: str
    """What one sees, for the reader."""
    alt: str
    """What it shows, for those who do not see it: the numbers in words."""
    svg: str
    png: bytes
    width: int
    """Natural width in CSS pixels."""
    height: int


@dataclass(frozen=True)
class Look:
    """How a variant is drawn in every figure."""

    colour: str
    dashes: Any


def looks(names: Sequence[str]) -> dict[str, Look]:
    """Return one look for each name, the same for the same names in the same order."""
    return {
        # Once round the colours, the lines are shifted: a colour comes back with another line.
        name: Look(PALETTE[i % len(PALETTE)], DASHES[(i + i // len(PALETTE)) % len(DASHES)])
        for i, name in enumerate(names)
    }


@contextmanager
def new_canvas(size: tuple[float, float]) -> Iterator[Canvas]:
    """A figure in our style, whatever the user's own settings are; no global state is kept."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)  # type: ignore[arg-type]
        yield Canvas(figsize=size, layout="constrained")


def legend(canvas: Canvas, handles: Mapping[str, Any]) -> None:
    """Name the lines over the picture, if there is more than one."""
    if len(handles) > 1:
        canvas.legend(
            list(handles.values()),
            list(handles),
            loc="outside upper left",  # where a reader on a phone begins
            ncols=min(4, len(handles)),
        )


def finished(canvas: Canvas, name: str, title: str, caption: str, alt: str) -> Figure:
    """Lay a canvas out and write it down, see :class:`Figure`."""
    svg, png = io.StringIO(), io.BytesIO()
    canvas.draw_without_rendering()  # lays out once for both files
    canvas.set_layout_engine("none")
    # No date and no version: the same runs give the same bytes.
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
