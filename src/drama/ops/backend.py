"""Backend of the Mamba layers: PyTorch, or the kernels of ``mamba_ssm`` and ``causal_conv1d``.

:func:`choose_backend` decides by what is known before a call: device, packages, sizes.
:func:`window_backend` and :func:`step_backend` decide for one call of a layer: where the kernels
cannot run it, it runs in PyTorch, with a warning that Python shows once for each reason.
"""

from __future__ import annotations

import functools
import importlib
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from drama.errors import ConfigError
from drama.ops.backend_name import BackendName as BackendName
from drama.ops.backend_name import ChosenBackend
from drama.ops.backend_name import check_backend_name as check_backend_name
from drama.ops.kernels import LayerSizes, layer_obstacle, step_obstacle, window_obstacle

_MODULES = (
    "causal_conv1d",
    "mamba_ssm.ops.selective_scan_interface",
    "mamba_ssm.ops.triton.selective_state_update",
    "mamba_ssm.ops.triton.ssd_combined",
)


class BackendFallback(RuntimeWarning):
    """A call ran in PyTorch although the backend is ``kernels``; the message says why."""


@dataclass(frozen=True)
class Backend:
    """The backend of the SSM layers, and the reason for it."""

    name: ChosenBackend
    reason: str

    def __str__(self) -> str:
        """Return both, for a line of a report."""
        return f"{self.name}: {self.reason}"


# -- by device, packages and sizes --------------------------------------------------------------


def choose_backend(
    device: torch.device,
    requested: BackendName = "auto",
    layer: LayerSizes | None = None,
    *,
    dtype: torch.dtype | None = None,
    resets: bool = False,
) -> Backend:
    """Choose the backend of SSM layers on ``device``.

    Args:
        device: Device of the tensors.
        requested: ``auto``, ``torch`` or ``kernels``.
        layer: Sizes of the layer; None decides by device and packages alone.
        dtype: Type of the matrix products in its windows, if known.
        resets: Whether its windows contain resets.

    Raises:
        ConfigError: ``kernels`` is requested and cannot be used; the message says what is missing.
    """
    check_backend_name(requested)
    if requested == "torch":
        return Backend("torch", "requested")
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
    """Choose the backend of a model by its first SSM layer; arguments as :func:`choose_backend`.

    Raises:
        ConfigError: ``kernels`` is requested and cannot be used, or there is no SSM layer.
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
    """Return the versions of the kernels' packages, and why they cannot be used, if so."""
    versions = []
    for name in _MODULES:
        package = name.split(".")[0]
        try:
            importlib.import_module(name)
            version = getattr(importlib.import_module(package), "__version__", "?")
        except Exception as error:  # built for another torch or CUDA, they fail in many ways
            lines = str(error).strip().splitlines()
            return "", (
                f"{package} cannot be imported ({lines[0] if lines else type(error).__name__}); "
                "pip install mamba-ssm causal-conv1d"
            )
        versions.append(f"{package} {version}")
    return ", ".join(dict.fromkeys(versions)), None


# -- call by call ---------------------------------------------------------------------------------


def window_backend(
    requested: BackendName, layer: LayerSizes, x: Tensor, is_first: Tensor | None, state: object
) -> ChosenBackend:
    """Choose the backend of one window of a layer.

    Args:
        requested: The backend that the layer was built with.
        layer: Its sizes.
        x: Input of its convolution.
        is_first: Resets, or None.
        state: State carried in, or None.

    Raises:
        ConfigError: As :func:`choose_backend`.
    """
    if choose_backend(x.device, requested, layer).name == "torch":
        return "torch"
    return _kernels_unless(
        window_obstacle(layer, x.dtype, resets=is_first is not None, carried=state is not None)
    )


def step_backend(requested: BackendName, layer: LayerSizes, x: Tensor) -> ChosenBackend:
    """Choose the backend of one step of a layer; arguments as :func:`window_backend`."""
    if choose_backend(x.device, requested, layer).name == "torch":
        return "torch"
    return _kernels_unless(step_obstacle(x.dtype, grad=torch.is_grad_enabled()))


def _kernels_unless(obstacle: str | None) -> ChosenBackend:
    if obstacle is None:
        return "kernels"
    warnings.warn(f"a call runs in PyTorch: {obstacle}", BackendFallback, stacklevel=2)
    return "torch"
