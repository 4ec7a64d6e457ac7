"""Selection of device, precision and process settings."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from drama.config import Precision, ReplayDevice, TrainingConfig
from drama.errors import ConfigError
from drama.text import brief
from drama.training.memory import keep_freed_memory


def pick_device(name: str) -> torch.device:
    """Resolve ``auto``, ``cpu``, ``cuda[:N]`` or ``mps``.

    Raises:
        ConfigError: The name is unknown or the device is not available.
    """
    return choose_device(name)[0]


def choose_device(name: str) -> tuple[torch.device, str]:
    """Resolve as :func:`pick_device` does; also returns the reason."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda"), "PyTorch finds a CUDA device"
        if torch.backends.mps.is_available():
            return torch.device("mps"), "PyTorch finds no CUDA device, but Apple's GPU"
        return torch.device("cpu"), "PyTorch finds no GPU"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"unknown device {brief(name)}: use auto, cpu, cuda or mps") from error
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if device.type not in there:
        raise ConfigError(f"unknown device {brief(name)}: use auto, cpu, cuda or mps")
    if not there[device.type]:
        raise ConfigError(f"device {name!r} is not available here: use cpu")
    return device, "requested"


def pick_replay_device(name: ReplayDevice, device: torch.device) -> torch.device:
    """Resolve the device of the replay: ``cpu``, ``model`` (the model's), ``auto``.

    ``auto`` is the model's device on CUDA, where sampling and updates then never wait for the host,
    and host memory elsewhere.
    """
    with_model = name == "model" or (name == "auto" and device.type == "cuda")
    return device if with_model else torch.device("cpu")


def device_name(device: torch.device) -> str:
    """Return the name of the GPU, or of the processor as far as the system reports it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, "") or platform.processor() or platform.machine()


def _cpu_bf16_units() -> str | None:
    """Name the CPU's bfloat16 instructions: AMX, AVX512-BF16 or Arm's BF16; None without."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return None
    known = ("bf16",) if platform.machine() in ("aarch64", "arm64") else ("amx_bf16", "avx512_bf16")
    return next((name for name in known if name in flags), None)


def pick_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """Return the type of matrix products; ``auto`` is bfloat16 only with hardware support."""
    return choose_dtype(precision, device)[0]


def choose_dtype(precision: Precision, device: torch.device) -> tuple[torch.dtype, str]:
    """Choose as :func:`pick_dtype` does; also returns the reason."""
    if precision == "float32":
        return torch.float32, "requested"
    if precision == "bfloat16":
        return torch.bfloat16, "requested"
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.bfloat16, "this GPU multiplies bfloat16"
        return torch.float32, "this GPU has no units for bfloat16"
    if device.type == "cpu":
        units = _cpu_bf16_units()
        if units is not None:
            return torch.bfloat16, f"this CPU has {units}"
        return torch.float32, "this CPU names no units for bfloat16"
    return torch.float32, f"bfloat16 is not used on {device.type}"


@contextlib.contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Set the number of PyTorch's CPU threads while inside; 0 does not change it."""
    before = torch.get_num_threads()
    if count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if count:
            torch.set_num_threads(before)


@contextlib.contextmanager
def process_settings(config: TrainingConfig, device: torch.device) -> Iterator[None]:
    """Set threads, memory management and cuDNN benchmarking for a run, and restore them afterwards.

    cuDNN benchmarks its convolutions at the first call and keeps the fastest: shapes are constant.
    """
    with contextlib.ExitStack() as stack:
        if device.type == "cuda":
            cudnn = torch.backends.cudnn
            stack.callback(setattr, cudnn, "benchmark", cudnn.benchmark)
            cudnn.benchmark = True
        stack.enter_context(cpu_threads(config.threads))
        if config.keep_memory and device.type == "cpu":
            stack.enter_context(keep_freed_memory())
        yield


def autocast(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager[None]:
    """Context in which matrix products use ``dtype``."""
    if dtype == torch.float32:
        return contextlib.nullcontext()
    context: contextlib.AbstractContextManager[None] = torch.autocast(device.type, dtype=dtype)
    return context


@contextlib.contextmanager
def training_mode(module: nn.Module) -> Iterator[None]:
    """Put ``module`` into training mode for one update, and back however the update ends.

    In training mode acting would normalise with the statistics of single frames and update the
    running ones.
    """
    module.train()
    try:
        yield
    finally:
        module.eval()
