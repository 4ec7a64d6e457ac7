"""Which device and which precision, picked once and said aloud."""

from __future__ import annotations

import contextlib
import platform
from pathlib import Path

import torch

from drama.config import Precision
from drama.errors import ConfigError


def pick_device(name: str) -> torch.device:
    """Resolve ``auto``, ``cpu``, ``cuda[:N]`` or ``mps``.

    Raises:
        ConfigError: The name is unknown or the device is not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        if torch.backends.mps.is_available():
            return torch.device("mps")
        return torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"unknown device {name!r}: use auto, cpu, cuda or mps") from error
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if device.type not in there:
        raise ConfigError(f"unknown device {name!r}: use auto, cpu, cuda or mps")
    if not there[device.type]:
        raise ConfigError(f"device {name!r} is not available here: use cpu")
    return device


def device_name(device: torch.device) -> str:
    """Return the name of the GPU, or of the processor as well as the system tells it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, "") or platform.processor() or platform.machine()


def _cpu_has_bf16_units() -> bool:
    """Whether this CPU multiplies bfloat16 natively (AVX512-BF16, AMX or Arm's BF16)."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    if platform.machine() in ("aarch64", "arm64"):
        return " bf16" in flags
    return "avx512_bf16" in flags or "amx_bf16" in flags


def pick_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """Type of the matrix work. ``auto`` takes bfloat16 only where the hardware multiplies it."""
    if precision == "float32":
        return torch.float32
    if precision == "bfloat16":
        return torch.bfloat16
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    if device.type == "cpu" and _cpu_has_bf16_units():
        return torch.bfloat16
    return torch.float32


def autocast(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager[None]:
    """Context in which matrix work runs in ``dtype``."""
    if dtype == torch.float32:
        return contextlib.nullcontext()
    context: contextlib.AbstractContextManager[None] = torch.autocast(device.type, dtype=dtype)
    return context
