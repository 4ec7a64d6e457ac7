"""Settings of the training loop and of the optimisers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from drama.validation import Section, fraction, learning, output, positive, require, speed

Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True)
class OptimConfig(Section):
    """LaProp with a linear warm-up and a clip on the global gradient norm."""

    lr: float = learning(4e-5)
    """Learning rate after the warm-up."""
    eps: float = learning(1e-20)
    """Added to the root of the second moment."""
    beta1: float = learning(0.9)
    """Decay of the momentum, in [0, 1)."""
    beta2: float = learning(0.999)
    """Decay of the second moment, in [0, 1)."""
    warmup: int = learning(1000)
    """Updates over which the learning rate rises linearly from lr / warmup to lr; 0 = off."""
    grad_clip: float = learning(1000.0)
    """Largest global gradient norm."""

    def _check(self) -> None:
        positive("optim", lr=self.lr, eps=self.eps, grad_clip=self.grad_clip)
        fraction("optim", beta1=self.beta1, beta2=self.beta2)
        require(self.beta1 < 1 and self.beta2 < 1, "optim.beta1 and beta2 must be below 1")
        require(0 <= self.warmup < 2**40, f"optim.warmup must lie in [0, 2**40), got {self.warmup}")
        for name, value in (("lr", self.lr), ("eps", self.eps)):
            require(value > 1e-37, f"optim.{name} is 0 in float32, got {value}")


@dataclass(frozen=True)
class TrainingConfig(Section):
    """The training loop: update ratios, precision, logs and checkpoints."""

    warmup_steps: int = learning(1024)
    """Environment steps with random actions before the first update."""
    random_action_repeat: float = learning(1.0)
    """Mean steps for which a random action of the warm-up is repeated; 1 = off.

    Repeated actions find rewards that take many equal actions in a row.
    """
    world_model_ratio: float = learning(1.0)
    """World-model updates per environment step, in [0, 1000]."""
    behaviour_ratio: float = learning(1.0)
    """Behaviour updates per environment step, in [0, 1000]."""
    precision: Precision = speed("auto")
    """Matrix products in ``float32`` or ``bfloat16``; ``auto``: by device."""
    threads: int = speed(0, most=4096)
    """CPU threads of PyTorch, also in evaluation; 0 = PyTorch's choice. Affects rounding."""
    keep_memory: bool = speed(True)
    """CPU: keep freed memory for the next update; faster, larger resident size."""
    cuda_graphs: bool = speed(True)
    """CUDA: capture whole updates as CUDA graphs; needs the replay buffer on the GPU."""
    compile: bool = speed(False)
    """Compile losses and the imagined step with `torch.compile`; takes a minute at the start.

    It needs a C++ compiler, on CUDA also Triton.
    """
    overlap: bool = learning(False)
    """Launch updates before the environment steps, so that a GPU works in parallel; paper: off.

    These updates cannot sample the transition of their own step.
    """
    log_every: int = output(250)
    """Environment steps between lines of ``metrics.jsonl``."""
    checkpoint_every: int = output(5000)
    """Environment steps between checkpoints; the end of training always writes one."""
    checkpoint_minutes: float = output(10.0)
    """Longest time between checkpoints in minutes; 0 = off."""
    keep_checkpoints: int = output(2)
    """Checkpoints kept on disk."""
    tensorboard: bool = output(True)
    """Write TensorBoard events in addition to ``metrics.jsonl``."""
    wandb: bool = output(False)
    """Log the same metrics to Weights & Biases (extra ``wandb``)."""

    def _check(self) -> None:
        section = "training"
        positive(
            section,
            log_every=self.log_every,
            checkpoint_every=self.checkpoint_every,
            keep_checkpoints=self.keep_checkpoints,
        )
        require(
            0 <= self.checkpoint_minutes < math.inf,
            f"{section}.checkpoint_minutes must not be negative, got {self.checkpoint_minutes}",
        )
        require(self.threads >= 0, f"{section}.threads must not be negative")
        require(self.warmup_steps >= 0, f"{section}.warmup_steps must not be negative")
        require(
            1 <= self.random_action_repeat < math.inf,
            f"{section}.random_action_repeat must be at least 1 step and finite, "
            f"got {self.random_action_repeat}",
        )
        for name in ("world_model_ratio", "behaviour_ratio"):
            value = getattr(self, name)
            require(0 <= value <= 1000, f"{section}.{name} must lie in [0, 1000], got {value}")
