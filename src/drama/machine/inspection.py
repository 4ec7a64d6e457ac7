"""Hardware of this machine, and the device and settings of a run on it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from dataclasses import asdict, dataclass
from typing import Any

import torch

from drama.dynamics import DynamicsConfig, Mamba2Dynamics
from drama.ops.backend import Backend, backend_of
from drama.text import size
from drama.training.device import choose_device, choose_dtype, device_name
from drama.training.memory import available_bytes

PACKAGES = ("torch", "numpy", "gymnasium", "ale-py", "opencv-python-headless", "safetensors")


@dataclass(frozen=True)
class Machine:
    """Device, precision and backend of a run on this machine, with reasons."""

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
    """Load average of the last minute; None where the system reports none."""
    memory_available: int | None
    """Host memory available to a new process, in bytes."""
    device_memory_available: int | None
    """Free GPU memory in bytes; None without a GPU."""
    python: str
    system: str
    packages: dict[str, str | None]
    """Installed versions; None for a missing package."""

    def render(self) -> str:
        """Return one line each for device, precision, backend, threads, memory and versions."""
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
        return f"; load average {self.load:.1f}: an idle machine would be faster"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return asdict(self)


def inspect_machine(device: str = "auto") -> Machine:
    """Inspect this machine.

    Args:
        device: ``auto`` or the name of a device.

    Raises:
        ConfigError: The device is missing.
    """
    chosen, device_reason = choose_device(device)
    dtype, precision_reason = choose_dtype("auto", chosen)
    with torch.device("meta"):  # only its sizes matter
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


def _size(count: int | None) -> str:
    return "?" if count is None else size(count)
