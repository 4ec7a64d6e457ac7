"""What this machine offers and what a run would use here."""

from __future__ import annotations

import importlib.metadata
import os
import platform

import torch

from drama.training.device import pick_device, pick_dtype

PACKAGES = ("torch", "numpy", "gymnasium", "ale-py", "opencv-python-headless", "safetensors")


def machine_report() -> str:
    """Return device, precision with the reason for it, threads and versions, one a line."""
    device = pick_device("auto")
    dtype = pick_dtype("auto", device)
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = platform.processor() or platform.machine()
    if dtype == torch.bfloat16:
        why = "the device multiplies bfloat16 natively"
    else:
        why = "the device has no native bfloat16"
    versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in PACKAGES)
    return "\n".join(
        (
            f"device     {device} ({name})",
            f"precision  {str(dtype).removeprefix('torch.')}: {why}",
            f"threads    {torch.get_num_threads()} of {os.cpu_count()} cores",
            f"python     {platform.python_version()} on {platform.system()}",
            f"packages   {versions}",
        )
    )
