"""The layers against the mixers of ``transformers``, with the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from drama.ssm import Mamba1, Mamba2

transformers = pytest.importorskip("transformers")

VERSION = tuple(int(part) for part in transformers.__version__.split(".")[:2])
GROUPS = [
    1,
    pytest.param(
        2,
        marks=pytest.mark.skipif(
            VERSION < (5, 23), reason="Mamba-2 of transformers before 5.23 differs with groups"
        ),
    ),
]
LENGTHS = [1, 2, 3, 63, 64, 65, 128, 200]
WIDTH = 256  # two heads at least in each group of the gated norm


def mamba2_pair(ngroups: int, headdim: int) -> tuple[Mamba2, nn.Module, Any]:
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

    config = transformers.Mamba2Config(
        hidden_size=WIDTH,
        num_heads=2 * WIDTH // headdim,
        head_dim=headdim,
        state_size=16,
        n_groups=ngroups,
        conv_kernel=4,
        expand=2,
        chunk_size=64,
        num_hidden_layers=1,
    )
    torch.manual_seed(0)
    theirs = Mamba2Mixer(config, layer_idx=0)
    ours = Mamba2(WIDTH, 16, headdim=headdim, ngroups=ngroups, chunk_size=64)
    return load(ours, theirs), theirs, config


def mamba1_pair() -> tuple[Mamba1, nn.Module, Any]:
    from transformers.models.mamba.modeling_mamba import MambaMixer

    config = transformers.MambaConfig(
        hidden_size=WIDTH, state_size=16, conv_kernel=4, expand=2, num_hidden_layers=1
    )
    torch.manual_seed(0)
    theirs = MambaMixer(config, layer_idx=0)
    return load(Mamba1(WIDTH), theirs), theirs, config


def load(ours: Any, theirs: nn.Module) -> Any:
    """Randomise constant parameters, then copy every parameter by name."""
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours


def assert_parity(ours: nn.Module, theirs: nn.Module, x: Tensor, y: Tensor, z: Tensor) -> None:
    """``y`` is the output of our layer and ``z`` of theirs for ``x``."""
    assert (y - z).abs().max() <= 1e-4
    torch.manual_seed(1)
    weights = torch.randn(y.shape)
    names = [name for name, _ in ours.named_parameters()]
    mine = torch.autograd.grad((y * weights).sum(), [x, *ours.parameters()])
    others = dict(theirs.named_parameters())
    wanted = torch.autograd.grad((z * weights).sum(), [x, *(others[name] for name in names)])
    for name, ours_, theirs_ in zip(["x", *names], mine, wanted, strict=True):
        assert (ours_ - theirs_).norm() <= 1e-3 * theirs_.norm(), name


@pytest.mark.parametrize("headdim", [64, 128])
@pytest.mark.parametrize("ngroups", GROUPS)
@pytest.mark.parametrize("length", LENGTHS)
def test_mamba2_equals_transformers(length: int, ngroups: int, headdim: int) -> None:
    ours, theirs, _ = mamba2_pair(ngroups, headdim)
    x = torch.randn(2, length, WIDTH, requires_grad=True)
    assert_parity(ours, theirs, x, ours(x)[0], theirs(x))


@pytest.mark.parametrize("length", LENGTHS)
def test_mamba1_equals_transformers(length: int) -> None:
    ours, theirs, _ = mamba1_pair()
    x = torch.randn(2, length, WIDTH, requires_grad=True)
    assert_parity(ours, theirs, x, ours(x)[0], theirs(x))


@pytest.mark.parametrize("headdim", [64, 128])
@pytest.mark.parametrize("ngroups", GROUPS)
@pytest.mark.parametrize("length", LENGTHS)
def test_mamba2_with_carried_state_equals_transformers(
    length: int, ngroups: int, headdim: int
) -> None:
    ours, theirs, config = mamba2_pair(ngroups, headdim)
    before = torch.randn(2, 10, WIDTH)
    x = torch.randn(2, length, WIDTH, requires_grad=True)
    cache = transformers.DynamicCache(config=config)  # second argument, whose name differs
    with torch.no_grad():
        theirs(before, cache)
        _, state = ours(before)
        assert (ours(x, None, state)[0] - theirs(x, cache)).abs().max() <= 1e-4
    # Their cache is overwritten in place, so for gradients they read the whole window.
    z = theirs(torch.cat([before, x], dim=1))[:, 10:]
    y = ours(x, None, ours(before)[1])[0]
    assert_parity(ours, theirs, x, y, z)


@pytest.mark.parametrize("length", LENGTHS)
def test_mamba1_with_carried_state_equals_transformers(length: int) -> None:
    ours, theirs, config = mamba1_pair()
    before = torch.randn(2, 10, WIDTH)
    x = torch.randn(2, length, WIDTH, requires_grad=True)
    cache = transformers.DynamicCache(config=config)
    with torch.no_grad():
        theirs(before, cache)
        _, state = ours(before)
        y, _ = ours.step(x[:, 0], state)  # their cache takes single steps only
        assert (y - theirs(x[:, :1], cache)[:, 0]).abs().max() <= 1e-4
    z = theirs(torch.cat([before, x], dim=1))[:, 10:]
    y = ours(x, None, ours(before)[1])[0]
    assert_parity(ours, theirs, x, y, z)


def test_default_sizes_give_the_parameter_shapes_of_mamba_ssm() -> None:
    ours, theirs, _ = mamba2_pair(1, 64)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {
        k: v.shape for k, v in theirs.state_dict().items()
    }
    # As published for mamba_ssm: in_proj [z, x, B, C, dt], convolution over x, B and C.
    layer = Mamba2(256)
    assert layer.in_proj.weight.shape == (2 * 512 + 2 * 128 + 8, 256)
    assert layer.conv1d.weight.shape == (512 + 2 * 128, 1, 4)
    assert layer.A_log.shape == layer.D.shape == layer.dt_bias.shape == (8,)
    assert layer.norm.weight.shape == (512,)
    first = Mamba1(256)
    assert first.in_proj.weight.shape == (1024, 256)
    assert first.x_proj.weight.shape == (16 + 32, 512)
    assert first.dt_proj.weight.shape == (512, 16)
    assert first.A_log.shape == (512, 16)
