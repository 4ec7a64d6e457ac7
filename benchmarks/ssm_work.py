"""Work of the benchmarks of the Mamba layers: sizes, passes, and the floor of their time.

**The floor** of a row is ``operations / rate + bytes / bandwidth``: the time of the matrix products
at the rate of a 2048×2048 product in the same number type, plus one sequential pass over memory for
everything between them. Rate and bandwidth are measured in the same run, the latter on as many
bytes as the row moves.

- Operations of a projection with W weights on n = B·T steps: 2 n W forward, twice that backward.
- Operations of Mamba-2's scan, per step: 4 H P N (write to the state, read from it) or, with all
  of the window in one quadratic product, T (G N + H P), the causal half of C·Bᵀ and of its
  product with x: the smaller one forward, twice that backward.
- Operations of Mamba-1's scan, per step, channel and state: 7 forward (Δ A, exp, Δ x B, a h + …,
  C h summed) and 15 backward (adjoint, and the gradients of B, C, Δ x, Δ and A).
- Bytes: the input, the output and their gradients once each; the weights and their gradients once
  each; and of the two tensors on either side of the scan, the output of ``in_proj`` and the input
  of ``out_proj``, five times: written and read forward, read again backward, their gradients
  written and read. 4 bytes per element; under autocast 2 for tensors between the products.
- ``step``: 2 operations per weight and 5 per element of the state, for each sequence; weights are
  read, the state is read and written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import measure
from drama.dynamics import map_state
from drama.ssm import Mamba1, Mamba2

Run = Callable[[], object]


@dataclass(frozen=True)
class Plan:
    """Sizes of a run; the defaults are those of the published table."""

    width: int = 512
    batch: int = 16
    length: int = 128
    long: int = 4096
    lengths: tuple[int, ...] = (128, 256, 512, 1024)
    step_batches: tuple[int, ...] = (1, 1024)
    early: int = 10
    late: int = 10_000
    drama: tuple[int, int, int] = (16, 128, 64)
    """State size, head size and chunk of Drama's configuration."""
    default: tuple[int, int, int] = (128, 64, 256)
    """The same for the usual defaults of the layer."""
    their_chunk: int = 256
    """Default chunk of the other implementation."""
    chunks: tuple[int, ...] = (64, 128)
    """Further chunks to measure it with, besides ours."""
    memory: tuple[str, ...] = ("mamba1", "mamba2-drama", "mamba2-default")
    """Rows whose peak memory is measured."""
    row_seconds: float = 30.0
    """Time limit of a row in seconds, after at least three rounds."""
    rate_seconds: float = 0.3
    """Measurement time of each rate of the machine, in seconds."""


SMOKE = Plan(
    width=32,
    batch=2,
    length=16,
    long=64,
    lengths=(16,),
    step_batches=(8,),
    late=50,
    drama=(4, 16, 8),
    default=(8, 8, 16),
    their_chunk=16,
    chunks=(8,),
    memory=("mamba1",),
    rate_seconds=0.01,
)

# -------------------------------------------------------------------------------------- passes


def ours(layer: str, width: int, sizes: Sequence[int] = ()) -> nn.Module:
    """Return our layer with fixed weights."""
    torch.manual_seed(0)
    if layer == "mamba1":
        return Mamba1(width)
    d_state, headdim, chunk = sizes
    return Mamba2(width, d_state, headdim=headdim, chunk_size=chunk)


def theirs(layer: str, width: int, sizes: Sequence[int] = ()) -> nn.Module:
    """Return the layer of mambapy (Mamba-1) or transformers (Mamba-2) with our weights."""
    if layer == "mamba1":
        from mambapy.mamba import MambaBlock, MambaConfig

        module = MambaBlock(MambaConfig(d_model=width, n_layers=1, pscan=True))
    else:
        from transformers import Mamba2Config
        from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

        d_state, headdim, chunk = sizes
        config = Mamba2Config(
            hidden_size=width,
            num_heads=2 * width // headdim,
            head_dim=headdim,
            state_size=d_state,
            n_groups=1,
            conv_kernel=4,
            expand=2,
            chunk_size=chunk,
            num_hidden_layers=1,
        )
        module = Mamba2Mixer(config, layer_idx=0)
    module.load_state_dict(ours(layer, width, sizes).state_dict())
    return cast("nn.Module", module)


def window(batch: int, length: int, width: int) -> tuple[Tensor, Tensor]:
    """Return an input and a gradient of the output, both ``(B, T, D)``."""
    generator = torch.Generator().manual_seed(1)
    x, dy = (torch.randn(batch, length, width, generator=generator) for _ in range(2))
    return x.requires_grad_(), dy


def training_pass(
    module: nn.Module, x: Tensor, dy: Tensor, *, bf16: bool = False
) -> Callable[[], tuple[Tensor, ...]]:
    """Return output, gradient of the input and gradients of the parameters."""
    wanted = [x, *module.parameters()]

    def run() -> tuple[Tensor, ...]:
        with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
            y = module(x)
        y = y[0] if isinstance(y, tuple) else y
        return y.detach(), *torch.autograd.grad(y, wanted, dy.to(y.dtype))

    return run


def difference(
    run: Callable[[], tuple[Tensor, ...]], other: Callable[[], tuple[Tensor, ...]], *, bf16: bool
) -> float:
    """Return the largest relative difference of output and input gradient.

    Raises:
        ValueError: It is more than rounding: what would be compared is not the same work.
    """
    pairs = zip(run()[:2], other()[:2], strict=True)
    found = max(float((a.float() - b.float()).norm() / b.float().norm()) for a, b in pairs)
    if not found <= (2e-2 if bf16 else 1e-5):
        raise ValueError(f"outputs or gradients differ by {found:.1e}: not the same work")
    return found


def training_memory(
    kind: str, layer: str, width: int, sizes: Sequence[int], batch: int, length: int
) -> int:
    """Return peak bytes of a training pass minus weights and input; needs a new process."""
    module = (ours if kind == "ours" else theirs)(layer, width, sizes)
    training_pass(module, *window(1, 2, width))()
    run = training_pass(module, *window(batch, length, width))
    meter = measure.PeakMemory()
    run()
    return meter.read()


def projections_pass(layer: Any, x: Tensor, dy: Tensor) -> Run:
    """Return ``in_proj`` and ``out_proj`` alone, forward and backward."""
    first, last = layer.in_proj.weight, layer.out_proj.weight
    inner = torch.randn(*x.shape[:2], last.shape[1], requires_grad=True)
    dwide = torch.randn(*x.shape[:2], first.shape[0])

    def run() -> None:
        torch.autograd.grad(F.linear(x, first), [x, first], dwide)
        torch.autograd.grad(F.linear(inner, last), [inner, last], dy)

    return run


def state_after(layer: Any, steps: int, batch: int) -> Any:
    """Return the state after ``steps`` steps of up to 8 sequences, repeated to ``batch``.

    The window pass gives it, which equals single steps, as the tests of the layers show.
    """
    rows = min(batch, 8)
    generator = torch.Generator().manual_seed(2)
    state = layer.init_state(rows)
    for begin in range(0, steps, 500):
        x = torch.randn(rows, min(500, steps - begin), layer.d_model, generator=generator)
        _, state = layer(x, None, state)
    return map_state(lambda t: t.repeat(batch // rows, *[1] * (t.dim() - 1)), state)


# ----------------------------------------------------------------------------------- the floors


def work(
    layer: str, width: int, sizes: Sequence[int], batch: int, length: int, *, bf16: bool = False
) -> tuple[float, float]:
    """Return operations and bytes of a training pass by the formulas of the module docstring."""
    steps, inner = batch * length, 2 * width
    if layer == "mamba1":
        d_state, rank = 16, -(-width // 16)
        wide = 2 * inner
        weights = width * wide + inner * (rank + 2 * d_state) + rank * inner + inner * width
        scan = inner * d_state * (7 + 15)
    else:
        d_state, headdim, _ = sizes
        wide = 2 * inner + 2 * d_state + inner // headdim
        weights = width * wide + inner * width
        scan = 3 * min(4 * inner * d_state, length * (d_state + inner))
    size = 2 if bf16 else 4
    moved = size * steps * (4 * width + 5 * (wide + inner)) + 4 * 2 * weights
    return steps * (6 * weights + scan), moved


def step_work(layer: str, width: int, sizes: Sequence[int], batch: int) -> tuple[float, float]:
    """Return operations and bytes of a step."""
    inner = 2 * width
    d_state = 16 if layer == "mamba1" else sizes[0]
    weights = sum(p.numel() for p in ours(layer, width, sizes).parameters())
    state = batch * inner * d_state
    return 2 * batch * weights + 5 * state, 4 * (weights + 2 * state)
