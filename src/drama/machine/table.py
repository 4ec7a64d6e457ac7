"""The calibration as a text table, printed line by line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from drama.machine.costs import Calibration, PresetCost, Unmeasured
from drama.text import duration, size

COLUMNS = (
    "preset",
    "env step",
    "acting",
    "world model",
    "imagination",
    "behaviour",
    "env steps/s",
    "100 000 steps",
    "memory",
)
CELL = len("~12.3 ms")
"""Least width of a column of times."""
FOOTER = (
    "times per env step, action and update; env steps/s include all updates; the time of "
    "100 000 steps excludes evaluation and checkpoints"
)


class CalibrationTable:
    """Table with one row per preset, whose rows are printed as they are measured.

    Args:
        presets: Names of all presets, which set the column width.
    """

    def __init__(self, presets: Iterable[str]) -> None:
        first = max(map(len, (COLUMNS[0], *presets)))
        self._widths = (first, *(max(len(name), CELL) for name in COLUMNS[1:]))

    def header(self, calibration: Calibration) -> list[str]:
        """Return the lines above the first row."""
        read = calibration.observations
        what = f"{calibration.env} ({read}, {calibration.num_actions} actions)"
        if not read:
            what = calibration.env or "random frames"
        elif calibration.env is None:
            what = f"random frames ({read}): ale-py is missing, so game stepping is not measured"
        return [f"calibration on {what}", self._line(COLUMNS)]

    def row(self, cost: PresetCost | Unmeasured) -> str:
        """Return the row of one preset."""
        if isinstance(cost, PresetCost):
            return self._line(_row(cost))
        return self._line((cost.preset, *["-"] * (len(COLUMNS) - 1)))

    def footer(self, calibration: Calibration) -> list[str]:
        """Return the lines below the last row."""
        lines: list[str] = []
        for cost in calibration.presets:
            if isinstance(cost, PresetCost):
                lines += _notes(cost)
            else:
                lines.append(f"{cost.preset}: {cost.error}")
        return [*lines, FOOTER, f"calibrated in {calibration.seconds:.0f} s"]

    def _line(self, cells: Sequence[str]) -> str:
        first, *others = self._widths
        rest = (cell.rjust(width) for cell, width in zip(cells[1:], others, strict=True))
        return "  ".join((cells[0].ljust(first), *rest))


def _row(cost: PresetCost) -> tuple[str, ...]:
    numbers = cost.to_dict()
    seconds, estimated = numbers["seconds"], numbers["estimated"]
    mark = {name: "~" if estimated.get(name) else "" for name in seconds}
    extrapolated = "~" if any(mark.values()) else ""
    return (
        cost.preset,
        *(f"{mark[name]}{duration(seconds[name])}" for name in seconds),
        f"{extrapolated}{1 / cost.step_seconds:.3g}",
        f"{extrapolated}{duration(3600 * cost.hours())}",
        _memory(cost),
    )


def _notes(cost: PresetCost) -> list[str]:
    found = []
    parts = {"world model": cost.world_model, "imagination and behaviour": cost.behaviour}
    smaller = [
        f"{name} {part.measured:,} of {part.full:,}"
        for name, part in parts.items()
        if part.estimate
    ]
    if smaller:
        found.append(f"{cost.preset}: ~ = extrapolated from smaller batches ({', '.join(smaller)})")
    if cost.memory.updates is None:
        found.append(f"{cost.preset}: this system does not report the memory of an update")
    if not cost.memory.fits:
        memory = cost.memory
        for need, free, where in (
            (memory.host, memory.host_available, "host memory"),
            (memory.device, memory.device_available, "GPU memory"),
        ):
            if need is not None and free is not None and need > free:
                found.append(
                    f"{cost.preset}: does not fit: needs {size(need)} of {where}, {size(free)} free"
                )
    return found


def _memory(cost: PresetCost) -> str:
    memory = cost.memory
    text = _size(memory.host)
    if memory.device is not None:
        text += f" + {_size(memory.device)} GPU"
    return text if memory.fits else f"{text} (too much)"


def _size(count: int | None) -> str:
    return "?" if count is None else size(count)
