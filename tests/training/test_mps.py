"""Code for Apple's GPU, run on the CPU; operations that it lacks are errors.

The values that Metal's kernels compute are not tested here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchgen
from tests.training.runs import tiny
from tests.training.test_static_updates import ALGORITHMS, BACKBONES, PURPOSES, learn, trainer
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from drama import Agent, DreamEnv
from drama.ops import dispatch
from drama.training.device import autocast, pick_dtype, pick_replay_device, process_settings

MPS = torch.device("mps")
TYPES = {torch.float32, torch.int64, torch.int32, torch.uint8, torch.bool}
"""Dtypes that training may use: no float64, and bfloat16 depends on the system."""
MAKERS = {
    getattr(torch, name)
    for name in ("arange", "empty", "eye", "full", "linspace", "ones", "rand", "randint", "randn",
                 "randperm", "tensor", "zeros")
}  # fmt: skip
ANOTHER_KERNEL = {"_scaled_dot_product_flash_attention_for_cpu"}
"""Operations for which PyTorch selects another kernel on Apple's GPU."""


@cache
def has_kernel(operation: str) -> bool:
    """Whether PyTorch's declarations name a kernel for Apple's GPU.

    A composite operation counts as having one: its parts are dispatched separately.
    """
    declared = declarations()[operation]
    delegate = re.search(r"^  structured_delegate: (\S+)", declared, re.MULTILINE)
    if delegate is not None:
        return has_kernel(delegate[1])
    if "\n  dispatch:" not in declared:
        return True
    keys = re.findall(r"^    (\w[\w, ]*): ", declared, re.MULTILINE)
    names = {name.strip() for line in keys for name in line.split(",")}
    return any(name == "MPS" or name.startswith("Composite") for name in names)


@cache
def declarations() -> dict[str, str]:
    path = Path(torchgen.__file__).parent / "packaged/ATen/native/native_functions.yaml"
    blocks = path.read_text(encoding="utf-8").split("\n- func: ")[1:]
    return {block.partition("(")[0]: block for block in blocks}


class AppleGPU(TorchDispatchMode):
    """Raises at operations and dtypes that Apple's GPU lacks."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        schema = func._schema
        name = schema.name.removeprefix("aten::")
        name += f".{schema.overload_name}" if schema.overload_name else ""
        if schema.name.startswith("aten::") and name not in ANOTHER_KERNEL:
            assert has_kernel(name), f"{name} has no kernel"
        assert not kwargs.get("pin_memory"), f"{name} pins memory"
        assert name not in ("pin_memory", "_pin_memory"), f"{name} pins memory"
        assert not kwargs.get("non_blocking"), f"{name} does not wait for its copy"
        if schema.name in ("aten::index_add", "aten::index_add_"):
            # A check in its kernel, in older versions of PyTorch.
            assert args[3].dtype != torch.int64, "index_add of int64"
        out = func(*args, **kwargs)
        found = {t.dtype for t in pytree.tree_leaves(out) if isinstance(t, Tensor)}
        assert found <= TYPES, f"{name} makes {found - TYPES}"
        return out


class NamedDevices(TorchFunctionMode):
    """Raises if a tensor is created without a device: it would be in host memory."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in MAKERS:
            assert kwargs.get("device") is not None, f"{func.__name__} names no device"
        return func(*args, **kwargs)


@pytest.fixture(autouse=True)
def apple(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat the CPU as Apple's GPU, and forbid CUDA."""
    monkeypatch.setattr(dispatch, "_HOSTS", ())
    monkeypatch.setattr(dispatch, "_WITHOUT_FLOAT64", ("cpu",))

    def forbidden(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("CUDA is not there")

    for name in ("CUDAGraph", "Stream", "current_stream", "graph", "stream", "synchronize"):
        monkeypatch.setattr(torch.cuda, name, forbidden)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("sampler", ["dfs", "dfs-trained", "uniform"])
def test_updates_and_acting_use_supported_operations(
    backbone: str, algorithm: str, sampler: str
) -> None:
    """The replay is on the model's device, so sampling is tested too."""
    made = trainer(
        **{
            "world_model.dynamics.name": backbone,
            "behaviour.algorithm": algorithm,
            "replay.sampler": sampler,
            "world_model.dynamics.width": 256,  # large enough for the CPU's special paths
        }
    )
    obs, first = made.replay.columns["obs"][:1], torch.tensor([True])
    with AppleGPU(), NamedDevices():
        for purpose in PURPOSES:
            made.meter.add(learn(made, purpose), purpose)
        made.collector.player.act(obs, made.collector.player_state, first, made.random.acting)
        made.collector.player.act(
            obs, made.collector.player_state, ~first, latents="mode", actions="argmax"
        )
        means = made.meter.means()
    assert np.isfinite(list(means.values())).all()


def test_random_shift_and_motion_weight_use_supported_operations() -> None:
    made = trainer(**{"replay.random_shift": (1, 1), "world_model.motion_weight": 10.0})
    with AppleGPU(), NamedDevices():
        made.meter.add(learn(made, "world_model"), "world_model")
        means = made.meter.means()
    assert np.isfinite(list(means.values())).all()


@pytest.mark.parametrize("env", ["drama/Catch-v0", "CartPole-v1"])
def test_training_resume_evaluation_and_dreams_use_supported_operations(
    env: str, tmp_path: Path
) -> None:
    """From the first step to a dream; creating and loading weights happens on the host."""
    agent = Agent(env, config=tiny({"training.tensorboard": True}))
    with AppleGPU():
        agent.learn(40, run_dir=tmp_path / "run")
    agent = Agent.load(tmp_path / "run")
    with AppleGPU():
        agent.learn(20)
        assert agent.num_timesteps == 60
        assert len(agent.evaluate().episodes) == agent.config.evaluation.episodes
        dream = DreamEnv(agent)
        obs, _ = dream.reset(seed=0)
        dream.step(0)
        action, _ = agent.predict(obs)
    assert agent.action_space.contains(action)


def test_device_dispatch_for_mps() -> None:
    config = tiny().training
    assert config.cuda_graphs
    assert pick_dtype("auto", MPS) == torch.float32
    assert pick_replay_device("auto", MPS).type == "cpu"
    assert pick_replay_device("model", MPS) == MPS
    for dtype in (torch.float32, torch.bfloat16):
        with process_settings(config, MPS), autocast(MPS, dtype):
            pass
    made = trainer()
    made.learner.device = made.replay.device = MPS
    assert not made.learner.records


def test_transitions_are_copied_before_append_returns() -> None:
    """Only CUDA stages copies, so only there a copy may be asynchronous."""
    made = trainer()
    batch = made.replay.windows(torch.tensor([5]), 4)
    with AppleGPU():
        batch.to(torch.device("cpu"))
        row = {name: column[0].numpy() for name, column in made.replay.columns.items()}
        made.replay.append(transition(row))


def transition(row: dict[str, Any]) -> Any:
    from drama.types import Transition

    return Transition(**{k: v if k == "obs" else v.item() for k, v in row.items()})


@pytest.mark.faults
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda x: x.double(), "makes"),
        (lambda x: x.bfloat16(), "makes"),
        (lambda x: torch.linalg.eigvals(x), "no kernel"),
        (lambda x: torch.empty(3, device="cpu", pin_memory=True), "pins"),
        (lambda x: x.to(torch.uint8, non_blocking=True), "wait"),
        (lambda x: torch.zeros(3).sum(), "names no device"),
        (lambda x: torch.arange(3, device="cpu").index_add_(
            0, torch.arange(3, device="cpu"), torch.arange(3, device="cpu")), "index_add"),
    ],
)  # fmt: skip
def test_guards_detect_unsupported_operations(
    wrong: Callable[[Tensor], Tensor], message: str
) -> None:
    """Each of these in a loss raises, so the tests above can fail."""
    made = trainer()
    x = torch.eye(3)
    original = made.learner.world_model.twohot.loss

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        wrong(x)
        return original(logits, target)

    made.learner.world_model.twohot.loss = loss  # type: ignore[method-assign]
    with pytest.raises(AssertionError, match=message), AppleGPU(), NamedDevices():
        learn(made, "world_model")


def test_kernel_declarations_are_parsed() -> None:
    assert has_kernel("searchsorted.Tensor")
    assert has_kernel("expm1")  # through the operation that it delegates to
    assert has_kernel("_foreach_mul_.Scalar")  # made of others
    assert has_kernel("matmul")  # has no separate kernel on any device
    assert has_kernel("linalg_eigvals")  # made of one that has none:
    assert not has_kernel("linalg_eig")
    assert not has_kernel("_scaled_dot_product_flash_attention_for_cpu")
