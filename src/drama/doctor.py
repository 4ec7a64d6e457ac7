"""What this machine offers, what a run would use here, and what it would cost."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from drama.costs import Calibration, PresetCost, Unmeasured
from drama.dynamics import DynamicsConfig, Mamba2Dynamics
from drama.ssm.backend import Backend, backend_of
from drama.text import duration, size
from drama.training.device import choose_device, choose_dtype, device_name
from drama.training.memory import available_bytes

PACKAGES = ("torch", "numpy", "gymnasium", "ale-py", "opencv-python-headless", "safetensors")


@dataclass(frozen=True)
class Machine:
    """What would be used here, and why."""

    device: str
    device_name: str
    device_reason: str
    precision: str
    precision_reason: str
    backend: str
    backend_reason: str
    threads: int
    cores: int | None
    load: float | None
    """Processes that wanted a core, averaged over the last minute; None where it is not told."""
    memory_available: int | None
    """Bytes of host memory that a further process could take."""
    device_memory_available: int | None
    """Bytes that are free on the GPU, if there is one."""
    python: str
    system: str
    packages: dict[str, str | None]
    """Versions; None for one that is not installed."""

    def render(self) -> str:
        """Return device, precision and backend with their reasons, and the rest, one a line."""
        memory = f"{_size(self.memory_available)} free"
        if self.device_memory_available is not None:
            memory += f", {_size(self.device_memory_available)} free on {self.device}"
        versions = (f"{name} {version or 'missing'}" for name, version in self.packages.items())
        return "\n".join(
            (
                f"device     {self.device} ({self.device_name}): {self.device_reason}",
                f"precision  {self.precision}: {self.precision_reason}",
                f"backend    {self.backend}: {self.backend_reason}",
                f"threads    {self.threads} of {self.cores} cores{self._busy()}",
                f"memory     {memory}",
                f"python     {self.python} on {self.system}",
                f"packages   {', '.join(versions)}",
            )
        )

    def _busy(self) -> str:
        if self.load is None or self.cores is None or self.load < 0.5:
            return ""
        return f"; a load of {self.load:.1f} already: times are longer than on an idle machine"

    def to_dict(self) -> dict[str, Any]:
        """Return the same as a tree for JSON."""
        return asdict(self)


def inspect_machine(device: str = "auto") -> Machine:
    """Look at what there is.

    Args:
        device: ``auto``, or the one that is asked for.

    Raises:
        ConfigError: There is no such device.
    """
    chosen, device_reason = choose_device(device)
    dtype, precision_reason = choose_dtype("auto", chosen)
    with torch.device("meta"):  # its sizes are all that matters
        model = Mamba2Dynamics(DynamicsConfig())
    backend: Backend = backend_of(model, chosen, dtype=dtype, resets=False)
    return Machine(
        device=str(chosen),
        device_name=device_name(chosen),
        device_reason=device_reason,
        precision=str(dtype).removeprefix("torch."),
        precision_reason=precision_reason,
        backend=backend.name,
        backend_reason=backend.reason,
        threads=torch.get_num_threads(),
        cores=os.cpu_count(),
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        memory_available=available_bytes(torch.device("cpu")),
        device_memory_available=available_bytes(chosen) if chosen.type == "cuda" else None,
        python=platform.python_version(),
        system=platform.system(),
        packages={name: _version(name) for name in PACKAGES},
    )


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


# -- the calibration as text ----------------------------------------------------------------------

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
"""Narrowest column of times."""
FOOTER = (
    "times of one env step, one action, one update each; env steps/s with all training; "
    "hours without evaluation and checkpoints"
)


class CalibrationTable:
    """What each preset would cost, as lines of a table that are known one after the other.

    Args:
        presets: Names of all presets to come.
    """

    def __init__(self, presets: Iterable[str]) -> None:
        first = max(map(len, (COLUMNS[0], *presets)))
        self._widths = (first, *(max(len(name), CELL) for name in COLUMNS[1:]))

    def header(self, calibration: Calibration) -> list[str]:
        """Return the lines above the first preset."""
        shape = "x".join(map(str, calibration.obs_shape))
        what = f"{calibration.env} ({shape}, {calibration.num_actions} actions)"
        if not shape:
            what = calibration.env or "random frames"
        elif calibration.env is None:
            what = f"random {shape} frames; stepping a game is not counted: ale-py is missing"
        return [f"calibration on {what}", self._line(COLUMNS)]

    def row(self, cost: PresetCost | Unmeasured) -> str:
        """Return the line of one preset."""
        if isinstance(cost, PresetCost):
            return self._line(_row(cost))
        return self._line((cost.preset, *["-"] * (len(COLUMNS) - 1)))

    def footer(self, calibration: Calibration) -> list[str]:
        """Return the lines below the last preset."""
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
    guessed = "~" if any(mark.values()) else ""
    return (
        cost.preset,
        *(f"{mark[name]}{duration(seconds[name])}" for name in seconds),
        f"{guessed}{1 / cost.step_seconds:.3g}",
        f"{guessed}{duration(3600 * cost.hours())}",
        _memory(cost),
    )


def _notes(cost: PresetCost) -> list[str]:
    found = []
    parts = {"world model": cost.world_model, "imagination and behaviour": cost.behaviour}
    estimates = [f"{name} from {part.estimate}" for name, part in parts.items() if part.estimate]
    if estimates:
        found.append(f"{cost.preset}: ~ is estimated, {'; '.join(estimates)}")
    if cost.memory.updates is None:
        found.append(f"{cost.preset}: the memory of an update cannot be seen on this system")
    if not cost.memory.fits:
        memory = cost.memory
        for need, room, place in (
            (memory.host, memory.host_available, "host memory"),
            (memory.device, memory.device_available, "GPU memory"),
        ):
            if need is not None and room is not None and need > room:
                found.append(
                    f"{cost.preset}: does not fit: needs {_size(need)} of {place}, "
                    f"{_size(room)} free"
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
