"""What this machine offers and what a run would use here."""

from __future__ import annotations

import importlib.metadata
import os
import platform

import torch

from drama.dynamics import DynamicsConfig, Mamba2Dynamics
from drama.ssm.backend import backend_of
from drama.training.device import device_name, pick_device, pick_dtype

PACKAGES = ("torch", "numpy", "gymnasium", "ale-py", "opencv-python-headless", "safetensors")


def machine_report() -> str:
    """Return device, precision and backend with their reasons, threads, versions, one a line."""
    device = pick_device("auto")
    dtype = pick_dtype("auto", device)
    if dtype == torch.bfloat16:
        why = "the device multiplies bfloat16 natively"
    else:
        why = "the device has no native bfloat16"
    with torch.device("meta"):  # its sizes are all that matters
        model = Mamba2Dynamics(DynamicsConfig())
    backend = backend_of(model, device, dtype=dtype, resets=False)
    versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in PACKAGES)
    return "\n".join(
        (
            f"device     {device} ({device_name(device)})",
            f"precision  {str(dtype).removeprefix('torch.')}: {why}",
            f"backend    {backend}",
            f"threads    {torch.get_num_threads()} of {os.cpu_count()} cores",
            f"python     {platform.python_version()} on {platform.system()}",
            f"packages   {versions}",
        )
    )
