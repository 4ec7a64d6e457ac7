"""What runs the SSM layers: PyTorch, or the kernels of ``mamba_ssm`` and ``causal_conv1d``.

Decided here alone, and always with a reason. :func:`choose_backend` looks at what is known before
anything runs: device, packages, sizes. What one call rules out beside that is found when it is
made, by :func:`window_operations` and :func:`step_operations`: the layer then makes that call in
PyTorch, with a warning that Python shows once for each reason.
"""

from __future__ import annotations

import functools
import importlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from drama.errors import ConfigError
from drama.ops import kernels
from drama.ops.backend_name import BackendName as BackendName
from drama.ops.backend_name import check_backend_name as check_backend_name
from drama.ops.conv1d import causal_conv1d_silu, causal_conv1d_silu_step
from drama.ops.kernels import LayerSizes, layer_obstacle, step_obstacle, window_obstacle
from drama.ssm.scan import selective_scan, selective_scan_step
from drama.ssm.ssd import ssd, ssd_step

_MODULES = (
    "causal_conv1d",
    "mamba_ssm.ops.selective_scan_interface",
    "mamba_ssm.ops.triton.selective_state_update",
    "mamba_ssm.ops.triton.ssd_combined",
)


class BackendFallback(RuntimeWarning):
    """A call was made in PyTorch although the backend is ``kernels``; the message says why."""


@dataclass(frozen=True)
class Backend:
    """What runs the SSM layers, and why."""

    name: Literal["torch", "kernels"]
    reason: str

    def __str__(self) -> str:
        """Return both, for a line of a report."""
        return f"{self.name}: {self.reason}"


class Operations(NamedTuple):
    """What the layers are made of, in one implementation; all with the same signatures."""

    conv: Callable[..., tuple[Tensor, Tensor]]
    conv_step: Callable[..., tuple[Tensor, Tensor]]
    ssd: Callable[..., tuple[Tensor, Tensor]]
    ssd_step: Callable[..., tuple[Tensor, Tensor]]
    scan: Callable[..., tuple[Tensor, Tensor]]
    scan_step: Callable[..., tuple[Tensor, Tensor]]


TORCH = Operations(
    causal_conv1d_silu,
    causal_conv1d_silu_step,
    ssd,
    ssd_step,
    selective_scan,
    selective_scan_step,
)
KERNELS = Operations(
    kernels.causal_conv1d_silu,
    kernels.causal_conv1d_silu_step,
    kernels.ssd,
    kernels.ssd_step,
    kernels.selective_scan,
    kernels.selective_scan_step,
)


# -- before anything runs -------------------------------------------------------------------------


def choose_backend(
    device: torch.device,
    requested: BackendName = "auto",
    layer: LayerSizes | None = None,
    *,
    dtype: torch.dtype | None = None,
    resets: bool = False,
) -> Backend:
    """Decide what runs SSM layers on ``device``.

    Args:
        device: Where the tensors are.
        requested: ``auto``, ``torch`` or ``kernels``.
        layer: The layer in question; None asks for device and packages alone.
        dtype: Type of the matrix products in its windows, where that is known.
        resets: Whether its windows will hold resets.

    Raises:
        ConfigError: ``kernels`` is asked for and cannot be used; the message says what is missing.
    """
    check_backend_name(requested)
    if requested == "torch":
        return Backend("torch", "asked for")
    obstacle = _device_obstacle(device) or _packages()[1]
    windows = None
    if layer is not None:
        obstacle = obstacle or layer_obstacle(layer)
        if dtype is not None:
            windows = window_obstacle(layer, dtype, resets=resets, carried=False)
    if requested == "kernels" and (obstacle or windows):
        raise ConfigError(
            f"backend 'kernels' cannot be used: {obstacle or windows}; take 'auto' or 'torch'"
        )
    if obstacle:
        return Backend("torch", obstacle)
    versions = _packages()[0]
    return Backend("kernels", f"{versions}; windows in PyTorch: {windows}" if windows else versions)


def backend_of(
    model: nn.Module,
    device: torch.device,
    requested: BackendName = "auto",
    *,
    dtype: torch.dtype,
    resets: bool,
) -> Backend:
    """Decide for a whole model by its first SSM layer; arguments as :func:`choose_backend`.

    Raises:
        ConfigError: ``kernels`` is asked for and cannot be used, or there is no SSM layer.
    """
    for module in model.modules():
        layer = getattr(module, "kernel_sizes", None)
        if isinstance(layer, LayerSizes):
            own: BackendName = getattr(module, "backend", requested)
            return choose_backend(device, own, layer, dtype=dtype, resets=resets)
    if requested == "kernels":
        raise ConfigError(
            "backend 'kernels' cannot be used: the model has no Mamba layer; take 'auto' or 'torch'"
        )
    return Backend("torch", "the model has no Mamba layer")


def _device_obstacle(device: torch.device) -> str | None:
    if device.type == "cuda":
        return None
    return f"tensors are on {'the CPU' if device.type == 'cpu' else device.type}"


@functools.cache
def _packages() -> tuple[str, str | None]:
    """Return the versions of the kernels' packages, and what keeps them from being used."""
    versions = []
    for name in _MODULES:
        package = name.split(".")[0]
        try:
            importlib.import_module(name)
            version = getattr(importlib.import_module(package), "__version__", "?")
        except Exception as error:  # built for another torch or CUDA, they fail in many ways
            said = str(error).strip().splitlines()
            return "", (
                f"{package} cannot be imported ({said[0] if said else type(error).__name__}); "
                "pip install mamba-ssm causal-conv1d"
            )
        versions.append(f"{package} {version}")
    return ", ".join(dict.fromkeys(versions)), None


# -- call by call ---------------------------------------------------------------------------------


def window_operations(
    requested: BackendName, layer: LayerSizes, x: Tensor, is_first: Tensor | None, state: object
) -> Operations:
    """Return what is to run one window of a layer.

    Args:
        requested: The backend that the layer was made with.
        layer: Its sizes.
        x: What it is about to convolve.
        is_first: Resets, or None.
        state: The state carried in, or None.

    Raises:
        ConfigError: As :func:`choose_backend`.
    """
    if choose_backend(x.device, requested, layer).name == "torch":
        return TORCH
    return _unless(
        window_obstacle(layer, x.dtype, resets=is_first is not None, carried=state is not None)
    )


def step_operations(requested: BackendName, layer: LayerSizes, x: Tensor) -> Operations:
    """Return what is to run one step of a layer; arguments as :func:`window_operations`."""
    if choose_backend(x.device, requested, layer).name == "torch":
        return TORCH
    return _unless(step_obstacle(x.dtype, grad=torch.is_grad_enabled()))


def _unless(obstacle: str | None) -> Operations:
    if obstacle is None:
        return KERNELS
    warnings.warn(f"a call is made in PyTorch: {obstacle}", BackendFallback, stacklevel=2)
    return TORCH
