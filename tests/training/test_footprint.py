"""Cost of an update of the paper's model: operations and bytes, not time.

Bounds lie a few percent above the recorded counts. If a change exceeds one, check whether the
change is worth its cost.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.training.tape import Watch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from drama import Agent, presets
from drama.ops import batch_norm, dispatch
from drama.replay import Purpose
from drama.training.trainer import Trainer

FRAMES = 2 * 64


@pytest.fixture(scope="module")
def made() -> Trainer:
    """A trainer of size XS on Pong with small batches: counts do not depend on them."""
    xs = presets.xs()
    config = dataclasses.replace(
        xs,
        device="cpu",
        replay=dataclasses.replace(xs.replay, capacity=200),
        world_model=dataclasses.replace(xs.world_model, batch_size=2, batch_length=64),
        behaviour=dataclasses.replace(xs.behaviour, batch_size=32),
        training=dataclasses.replace(xs.training, warmup_steps=150, precision="bfloat16"),
    )
    agent = Agent("ALE/Pong-v5", config=config)
    trainer = Trainer(agent.config, agent.env, agent.world_model, agent.behaviour)
    for _ in range(120):
        trainer.collect()
    return trainer


def counted(made: Trainer, purpose: Purpose) -> tuple[int, int]:
    """Compute and copy operations of one update, and bytes kept for its backward pass."""
    kept: dict[int, int] = {}
    models = (made.learner.world_model, made.learner.behaviour)
    weights = {p.untyped_storage().data_ptr() for model in models for p in model.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    made.learner.update(purpose)  # one-time work
    with Watch() as watch, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        made.learner.update(purpose)
    return watch.launches, sum(kept.values())


@pytest.mark.parametrize(
    ("purpose", "on_cpu", "launches"),
    [
        ("world_model", True, 1190),
        ("world_model", False, 1030),
        ("behaviour", True, 4090),
        ("behaviour", False, 3910),
    ],
)
def test_operations_per_update_stay_within_bounds(
    made: Trainer, purpose: Purpose, on_cpu: bool, launches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not on_cpu:
        monkeypatch.setattr(dispatch, "_HOSTS", ())
    found, _ = counted(made, purpose)
    assert 0.8 * launches < found <= launches


def test_operations_per_imagined_step_stay_within_bounds(
    made: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is repeated horizon times, so it dominates."""
    from drama.behaviour import Imagination
    from drama.training.device import autocast

    monkeypatch.setattr(dispatch, "_HOSTS", ())
    context = made.replay.windows(torch.arange(20, 52), 8)
    launches = []
    for horizon in (4, 5):
        config = dataclasses.replace(made.config.behaviour, horizon=horizon)
        imagination = Imagination(made.learner.world_model, made.learner.behaviour, config)
        with Watch() as watch, autocast(made.learner.device, made.learner.dtype):
            imagination.rollout(context, None)
        launches.append(watch.launches)
    assert 140 < launches[1] - launches[0] <= 185


def test_bytes_kept_for_the_backward_pass_stay_within_bounds(made: Trainer) -> None:
    _, kept = counted(made, "world_model")
    assert 1.1e6 < kept / FRAMES <= 1.175e6


class Made(TorchDispatchMode):
    """Counts the bytes of new tensors, and the elements of the largest float32 one."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0
        self.largest_float32 = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {t.untyped_storage().data_ptr() for t in tensors((args, kwargs))}
        for t in tensors(out):
            if t.untyped_storage().data_ptr() not in given:
                self.bytes += t.nbytes
                if t.dtype == torch.float32:
                    self.largest_float32 = max(self.largest_float32, t.numel())
        return out


def tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


@pytest.mark.parametrize(("purpose", "most"), [("world_model", 506e6), ("behaviour", 397e6)])
def test_bytes_allocated_stay_within_bounds(
    made: Trainer, purpose: Purpose, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory traffic, or cache traffic with blocking."""
    if purpose == "behaviour":
        monkeypatch.setattr(
            dispatch, "_HOSTS", ()
        )  # frames sampled twice are encoded twice: avoid random counts
    with Made() as seen:
        made.learner.update(purpose)
    assert 0.95 * most < seen.bytes <= most, seen.bytes


def test_nothing_as_large_as_the_frames_is_float32(made: Trainer) -> None:
    with Made() as seen:
        made.learner.update_world_model()
    assert seen.largest_float32 < FRAMES * 64 * 64 * 3


# -- number of multiplications, their type and layout ----------------------------------------------


def flops(update: Callable[[], Any]) -> dict[str, int]:
    """FLOPs of an update's matrix products by kind; multiply and add count as two."""
    with FlopCounterMode(display=False) as counter:
        update()
    counts = counter.get_flop_counts()["Global"]
    found = {"convolutions": 0, "others": 0}
    for operation, count in counts.items():
        found["convolutions" if "conv" in str(operation) else "others"] += count
    return found


def convolution_flops(module: nn.Module, side: int) -> list[int]:
    """Forward FLOPs of each convolution per frame; ``side`` is the size of the module's input."""
    found = []
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            side //= layer.stride[0]
            found.append(2 * side**2 * layer.weight.numel())
        elif isinstance(layer, nn.ConvTranspose2d):
            found.append(2 * side**2 * layer.weight.numel())
            side *= layer.stride[0]
    return found


def test_world_model_update_computes_each_product_once(made: Trainer) -> None:
    """Each layer runs once forward and twice for its two gradients; frames need no gradient."""
    model = made.learner.world_model
    first, *rest = convolution_flops(model.encoder, 64)
    convolutions = 2 * first + 3 * sum(rest) + 3 * sum(convolution_flops(model.decoder, 4))
    linear = 3 * 2 * sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear))
    found = flops(made.learner.update_world_model)
    assert found["convolutions"] == FRAMES * convolutions
    assert 1.0 < found["others"] / (FRAMES * linear) <= 1.025  # the scan multiplies a little too


def test_imagination_encodes_once_and_steps_once(
    made: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        dispatch, "_HOSTS", ()
    )  # there a frame is encoded as often as it is sampled
    c = made.config.behaviour
    found = flops(made.learner.update_behaviour)
    encoder = sum(convolution_flops(made.learner.world_model.encoder, 64))
    assert found["convolutions"] == c.batch_size * c.context * encoder
    each = found["others"] / (c.batch_size * (c.context + c.horizon))
    assert 16.5e6 < each <= 17.2e6


class Products(TorchDispatchMode):
    """Records products not in bfloat16, and images not in channels-last layout.

    Batched products belong to the scan: small, and float32 on purpose where they reach a state.
    """

    def __init__(self) -> None:
        super().__init__()
        self.slow: list[str] = []
        self.seen = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        if name in ("convolution", "convolution_backward", "mm", "addmm"):
            given = [a for a in args if isinstance(a, Tensor) and a.dim() > 1]
            self.seen += 1
            self.slow += [f"{name} in {t.dtype}" for t in given if t.dtype != torch.bfloat16]
            if name.startswith("conv"):
                plain = [t for t in given if not t.is_contiguous(memory_format=torch.channels_last)]
                self.slow += [f"{name} of {tuple(t.shape)}, not channels-last" for t in plain]
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("purpose", ["world_model", "behaviour"])
def test_products_use_bfloat16_and_channels_last(made: Trainer, purpose: Purpose) -> None:
    with Products() as products:
        made.learner.update(purpose)
    assert products.seen > 40
    assert not set(products.slow)


# -- the checks fail when they should --------------------------------------------------------------


def twice(module: nn.Module) -> Callable[..., Any]:
    """Duplicated work: a second call whose result is ignored."""
    original = module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        original(*args, **kwargs)
        return original(*args, **kwargs)

    return forward


@pytest.mark.faults
def test_duplicated_work_is_detected(made: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (made.learner.world_model.encoder, made.learner.world_model.prior_head):
        with monkeypatch.context() as patch:
            patch.setattr(module, "forward", twice(module))
            for test in (
                test_world_model_update_computes_each_product_once,
                lambda made: test_imagination_encodes_once_and_steps_once(made, monkeypatch),
            ):
                with pytest.raises(AssertionError):
                    test(made)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x: x.contiguous(), "not channels-last"),
        (lambda x: x.float(), "torch.float32"),
    ],
)
def test_slow_type_or_layout_is_detected(
    made: Trainer,
    spoil: Callable[[Tensor], Tensor],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layer = made.learner.world_model.encoder.layers[3]
    original = torch.nn.functional.conv2d

    def forward(x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            x = spoil(x)
            return original(x, layer.weight.to(x.dtype), None, layer.stride, layer.padding)

    monkeypatch.setattr(layer, "forward", forward)
    with pytest.raises(AssertionError, match=message):
        test_products_use_bfloat16_and_channels_last(made, "world_model")


@pytest.mark.faults
def test_tensor_kept_in_float32_is_detected(made: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """BatchNorm and SiLU of all maps in float32: their saved tensors take twice the memory."""
    original = batch_norm.batch_norm_silu
    monkeypatch.setattr(batch_norm, "batch_norm_silu", lambda norm, x: original(norm, x.float()))
    with pytest.raises(AssertionError):
        test_bytes_kept_for_the_backward_pass_stay_within_bounds(made)
