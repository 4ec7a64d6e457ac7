"""Backend selection: its reasons, and reported fallbacks."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tests.ops import fake_kernels

from drama.dynamics import DynamicsConfig, make_dynamics
from drama.errors import ConfigError
from drama.ops import backend
from drama.ops.backend import Backend, BackendFallback, backend_of, choose_backend
from drama.ops.kernels import LayerSizes, layer_obstacle, step_obstacle, window_obstacle
from drama.ssm import Mamba1, Mamba2

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
MAMBA1 = LayerSizes("mamba1", d_conv=4, channels=1024, d_state=16)
MAMBA2 = LayerSizes("mamba2", d_conv=4, channels=1056, d_state=16)
VERSIONS = "causal_conv1d 1.5.0, mamba_ssm 2.2.4"


@pytest.fixture(autouse=True)
def _fresh_look() -> Iterator[None]:
    backend._packages.cache_clear()
    yield
    backend._packages.cache_clear()


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_kernels.install(monkeypatch)


@pytest.fixture
def anywhere(installed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the stand-ins run on the CPU too."""
    monkeypatch.setattr(backend, "_device_obstacle", lambda device: None)


# -- before anything runs ----------------------------------------------------------------------


def test_cpu_uses_pytorch(installed: None) -> None:
    assert choose_backend(CPU) == Backend("torch", "tensors are on the CPU")
    assert choose_backend(torch.device("mps")) == Backend("torch", "tensors are on mps")
    assert str(choose_backend(CPU)) == "torch: tensors are on the CPU"


def test_cuda_uses_the_kernels_if_both_packages_are_installed(installed: None) -> None:
    assert choose_backend(CUDA) == Backend("kernels", VERSIONS)
    assert choose_backend(torch.device("cuda:1"), "kernels") == Backend("kernels", VERSIONS)


def test_pytorch_can_be_requested(installed: None) -> None:
    for device in (CPU, CUDA):
        assert choose_backend(device, "torch") == Backend("torch", "requested")


@pytest.mark.parametrize("missing", ["causal_conv1d", "mamba_ssm"])
def test_a_missing_package_is_named(
    missing: str, installed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_kernels.uninstall(monkeypatch, missing)
    found = choose_backend(CUDA)
    assert found.name == "torch"
    assert f"{missing} cannot be imported" in found.reason
    assert "pip install mamba-ssm causal-conv1d" in found.reason
    with pytest.raises(ConfigError, match=f"'kernels' cannot be used: {missing} cannot be"):
        choose_backend(CUDA, "kernels")


def test_incompatible_package_is_reported_in_one_line(
    installed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(name: str) -> None:
        raise OSError("libcudart.so.11: cannot open\n  shared object file")

    monkeypatch.setattr(backend.importlib, "import_module", broken)
    reason = choose_backend(CUDA).reason
    assert "causal_conv1d cannot be imported (libcudart.so.11: cannot open)" in reason
    assert "\n" not in reason


def test_unusable_packages_are_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend.importlib, "import_module", lambda name: pytest.fail(name))
    choose_backend(CPU)
    choose_backend(CUDA, "torch")
    assert "mamba_ssm" not in sys.modules


def test_kernels_on_the_cpu_are_refused(installed: None) -> None:
    with pytest.raises(ConfigError, match="tensors are on the CPU; take 'auto' or 'torch'"):
        choose_backend(CPU, "kernels")


@pytest.mark.parametrize("name", ["", "cuda", "Auto"])
def test_an_unknown_backend_is_refused(name: Any) -> None:
    with pytest.raises(ConfigError, match=r"one of auto, torch, kernels, got"):
        choose_backend(CPU, name)
    with pytest.raises(ConfigError, match="backend"):
        DynamicsConfig(backend=name)
    for layer in (Mamba1, Mamba2):
        with pytest.raises(ConfigError, match="backend"):
            layer(32, backend=name)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (MAMBA1, None),
        (MAMBA2, None),
        (LayerSizes("mamba2", 2, 8, 1000), None),
        (LayerSizes("mamba2", 1, 1056, 16), "d_conv is 1"),
        (LayerSizes("mamba1", 5, 1024, 16), "d_conv is 5"),
        (LayerSizes("mamba2", 4, 1052, 16), "there are 1052"),
        (LayerSizes("mamba1", 4, 1024, 256), None),
        (LayerSizes("mamba1", 4, 1024, 257), "up to 256, and it is 257"),
    ],
)
def test_sizes_outside_of_the_kernels_limits_use_pytorch(
    layer: LayerSizes, words: str | None, installed: None
) -> None:
    obstacle = layer_obstacle(layer)
    if words is None:
        assert obstacle is None
        assert choose_backend(CUDA, "kernels", layer).name == "kernels"
        return
    assert obstacle is not None
    assert words in obstacle
    assert choose_backend(CUDA, "auto", layer) == Backend("torch", obstacle)
    with pytest.raises(ConfigError, match=words):
        choose_backend(CUDA, "kernels", layer)


@pytest.mark.parametrize(
    ("layer", "dtype", "resets", "carried", "words"),
    [
        (MAMBA2, torch.bfloat16, True, True, None),
        (MAMBA2, torch.float16, False, False, None),
        (MAMBA2, torch.float32, False, False, "TF32"),
        (MAMBA2, torch.float64, False, False, "float64"),
        (MAMBA1, torch.bfloat16, False, False, None),
        (MAMBA1, torch.float32, False, False, None),
        (MAMBA1, torch.float64, False, False, "float64"),
        (MAMBA1, torch.bfloat16, True, False, "resets"),
        (MAMBA1, torch.bfloat16, False, True, "carried"),
    ],
)
def test_windows_outside_of_the_kernels_limits_use_pytorch(
    layer: LayerSizes,
    dtype: torch.dtype,
    resets: bool,
    carried: bool,
    words: str | None,
    installed: None,
) -> None:
    obstacle = window_obstacle(layer, dtype, resets=resets, carried=carried)
    assert (words is None) == (obstacle is None)
    if carried:
        return  # not known beforehand
    found = choose_backend(CUDA, "auto", layer, dtype=dtype, resets=resets)
    if obstacle is None:
        assert found == Backend("kernels", VERSIONS)
        return
    assert str(words) in obstacle
    # Single steps still use the kernels, and the reason names what does not.
    assert found == Backend("kernels", f"{VERSIONS}; windows in PyTorch: {obstacle}")
    with pytest.raises(ConfigError, match=words):
        choose_backend(CUDA, "kernels", layer, dtype=dtype, resets=resets)


def test_steps_outside_of_the_kernels_limits_use_pytorch() -> None:
    assert step_obstacle(torch.float32, grad=False) is None
    assert step_obstacle(torch.bfloat16, grad=False) is None
    assert "gradient" in str(step_obstacle(torch.float32, grad=True))
    assert "float64" in str(step_obstacle(torch.float64, grad=False))


def test_backend_of_a_model_follows_from_its_layers(installed: None) -> None:
    def decide(config: DynamicsConfig, **known: Any) -> Backend:
        model: Any = make_dynamics(config)
        known = {"dtype": torch.bfloat16, "resets": False, **known}
        return backend_of(model, CUDA, config.backend, **known)

    assert decide(DynamicsConfig(width=32, headdim=16)) == Backend("kernels", VERSIONS)
    assert decide(DynamicsConfig(width=32, headdim=16, backend="torch")).reason == "requested"
    assert "d_conv is 1" in decide(DynamicsConfig(width=32, headdim=16, d_conv=1)).reason
    assert "resets" in decide(DynamicsConfig("mamba1", width=32), resets=True).reason
    assert "TF32" in decide(DynamicsConfig(width=32, headdim=16), dtype=torch.float32).reason
    gru = decide(DynamicsConfig("gru", width=32))
    assert gru == Backend("torch", "the model has no Mamba layer")
    with pytest.raises(ConfigError, match="no Mamba layer"):
        decide(DynamicsConfig("gru", width=32, backend="kernels"))


# -- call by call ------------------------------------------------------------------------------


def window(layer: Any, *, reset: bool = False, carried: bool = False) -> tuple[list[str], Any]:
    """Read a window; return the kernels that ran, and the output."""
    x = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0)).to(layer.A_log.dtype)
    is_first = torch.tensor([[0, 0, 1, 0, 0], [1, 0, 0, 0, 1]]).bool() if reset else None
    fake_kernels.calls.clear()
    result = layer(x, is_first, layer.init_state(2) if carried else None)
    return list(fake_kernels.calls), result


def test_layer_that_requires_kernels_names_what_is_missing() -> None:
    for layer in (Mamba1(32, backend="kernels"), Mamba2(32, headdim=16, backend="kernels")):
        with pytest.raises(ConfigError, match="'kernels' cannot be used: tensors are on the CPU"):
            layer(torch.randn(1, 3, 32))
        with pytest.raises(ConfigError, match="tensors are on the CPU"):
            layer.step(torch.randn(1, 32), layer.init_state(1))


def test_mamba2_runs_on_the_kernels(anywhere: None) -> None:
    layer = Mamba2(32, d_state=16, headdim=16)
    expected = ["causal_conv1d_fn", "mamba_chunk_scan_combined"]
    with torch.autocast("cpu", torch.bfloat16):
        for reset in (False, True):
            for carried in (False, True):
                assert window(layer, reset=reset, carried=carried)[0] == expected
    with torch.no_grad():
        fake_kernels.calls.clear()
        layer.step(torch.randn(2, 32), layer.init_state(2))
    assert fake_kernels.calls == ["causal_conv1d_update", "selective_state_update"]


def test_mamba1_runs_on_the_kernels(anywhere: None) -> None:
    layer = Mamba1(32)
    assert window(layer)[0] == ["causal_conv1d_fn", "selective_scan_fn"]
    with torch.no_grad():
        fake_kernels.calls.clear()
        layer.step(torch.randn(2, 32), layer.init_state(2))
    assert fake_kernels.calls == ["causal_conv1d_update", "selective_state_update"]


@pytest.mark.parametrize("name", ["torch", "auto"])
def test_requested_pytorch_is_used(
    name: Any, installed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "torch":
        monkeypatch.setattr(backend, "_device_obstacle", lambda device: None)
    assert window(Mamba1(32, backend=name))[0] == []
    assert window(Mamba2(32, headdim=16, backend=name))[0] == []


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (lambda: Mamba2(32, headdim=16), {}, "TF32"),
        (lambda: Mamba2(32, headdim=16).double(), {}, "float64"),
        (lambda: Mamba1(32), {"reset": True}, "resets"),
        (lambda: Mamba1(32), {"carried": True}, "carried"),
    ],
)
def test_fallback_to_pytorch_is_reported(
    make: Any, options: dict[str, bool], words: str, anywhere: None
) -> None:
    layer = make()
    with pytest.warns(BackendFallback, match=words):
        ran, (y, state) = window(layer, **options)
    assert ran == []
    layer.backend = "torch"
    _, (expected, expected_state) = window(layer, **options)
    assert torch.equal(y, expected)
    assert all(torch.equal(a, b) for a, b in zip(state, expected_state, strict=True))


def test_step_with_a_gradient_falls_back_to_pytorch(anywhere: None) -> None:
    for layer in (Mamba1(32), Mamba2(32, headdim=16)):
        x = torch.randn(2, 32, requires_grad=True)
        with pytest.warns(BackendFallback, match="gradient"):
            y, _ = layer.step(x, layer.init_state(2))
        assert fake_kernels.calls == []
        (gradient,) = torch.autograd.grad(y.sum(), x)
        assert gradient.abs().sum() > 0


def test_each_reason_is_reported_once(anywhere: None) -> None:
    layer = Mamba2(32, headdim=16)
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("default")
        for _ in range(3):
            layer(torch.randn(1, 4, 32))
    assert len(shown) == 1
