"""The two updates: world model on replayed windows, behaviour on imagined trajectories."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from drama.behaviour import Behaviour, Imagination
from drama.config import Config
from drama.errors import NonFiniteError
from drama.ops.categorical import Randomness, uniform_numbers
from drama.ops.dispatch import on_cpu
from drama.replay import Purpose, ReplayBuffer
from drama.training.clock import Clock
from drama.training.compiled import compile_functions
from drama.training.device import autocast, pick_dtype, training_mode
from drama.training.graphs import Recorded, Update, shared_place
from drama.training.optim import Optimiser
from drama.training.randomness import RandomSources
from drama.training.weights import model_tensors
from drama.types import Batch
from drama.world_model import WorldModel


class Learner:
    """Models and optimisers, and the gradient steps that train them.

    Args:
        config: Settings; batch sizes are read at each update.
        world_model: Trained in place, in evaluation mode between updates.
        behaviour: Likewise.
        replay: Source of the windows.
        random: Source of randomness.
        clock: Charged with sampling and imagination.
    """

    def __init__(
        self,
        config: Config,
        world_model: WorldModel,
        behaviour: Behaviour,
        replay: ReplayBuffer,
        random: RandomSources,
        clock: Clock,
    ) -> None:
        self.config = config
        self.world_model = world_model.eval()
        self.behaviour = behaviour.eval()
        self.replay = replay
        self.random = random
        self.clock = clock
        self.device = next(world_model.parameters()).device
        self.dtype = pick_dtype(config.training.precision, self.device)
        self.optimisers = {
            "world_model": Optimiser(world_model.named_parameters(), config.world_model.optim),
            "behaviour": Optimiser(behaviour.named_parameters(), config.behaviour.optim),
        }
        self.updates: dict[Purpose, int] = {"world_model": 0, "behaviour": 0}
        """Updates of each kind so far."""
        self.imagination = Imagination(
            world_model, behaviour, config.behaviour, behaviour.intrinsic_reward
        )
        self._compiled = None
        if config.training.compile:
            self._compiled = compile_functions(world_model, behaviour, self.imagination)
            self.imagination.compiled_step = self._compiled.imagined_step
        self._programs = self._make_programs()

    # -- the two updates ----------------------------------------------------------------------

    def update(self, purpose: Purpose) -> dict[str, Tensor]:
        """Make one update.

        Returns:
            Detached scalars for the log, on the device.

        Raises:
            NonFiniteError: On the CPU: a loss or gradient is NaN or Inf; no step was taken.
        """
        metrics = self._programs[purpose]()
        self.updates[purpose] += 1
        return metrics

    def update_world_model(self) -> dict[str, Tensor]:
        """Make one gradient step of the world model on replayed windows."""
        c = self.config.world_model
        sampler = self.replay.sampler
        ends, batch = self._sample("world_model", c.batch_size, c.batch_length)
        random: Randomness = self.random.learning
        loss_of = self.world_model.loss
        if self._compiled is not None:
            loss_of = self._compiled.world_model_loss
            shape = (c.batch_size, c.batch_length, self.world_model.latent_variables)
            random = uniform_numbers(shape, batch.reward, self.random.learning)
        with training_mode(self.world_model):
            with autocast(self.device, self.dtype):
                loss, metrics = loss_of(batch, random, window_losses=sampler.wants_losses)
            window_losses = metrics.pop("window_losses", None)
            norm = self._step("world_model", loss, metrics)
        if window_losses is not None:
            sampler.update(ends, window_losses.to(self.replay.device))
        return {**metrics, "grad_norm": norm}

    def update_behaviour(self) -> dict[str, Tensor]:
        """Make the gradient steps of actor and critic on one imagined rollout."""
        c = self.config.behaviour
        _, context = self._sample("behaviour", c.batch_size, c.context)
        with self.clock.phase("imagination"), autocast(self.device, self.dtype):
            rollout = self.imagination.rollout(context, self.random.learning)
        loss_of = self._compiled.behaviour_loss if self._compiled else self.behaviour.loss
        steps = []
        with training_mode(self.behaviour):
            with autocast(self.device, self.dtype):
                batches = self.behaviour.batches(rollout, self.random.learning)
            for batch in batches:
                with autocast(self.device, self.dtype):
                    loss, metrics = loss_of(batch)
                norm = self._step("behaviour", loss, metrics)
                self.behaviour.after_step()
                steps.append({**metrics, "grad_norm": norm})
        return {name: torch.stack([step[name] for step in steps]).mean() for name in steps[0]}

    def _sample(self, purpose: Purpose, batch_size: int, length: int) -> tuple[Tensor, Batch]:
        """Sample windows onto the models' device; their ends stay on the replay's."""
        with self.clock.phase("replay"):
            ends, batch = self.replay.sample_with_ends(
                purpose, batch_size, length, self.random.replay
            )
            return ends, batch if self.replay.device == self.device else batch.to(self.device)

    def _step(self, purpose: Purpose, loss: Tensor, metrics: dict[str, Tensor]) -> Tensor:
        """Take one optimiser step; returns the gradient norm before clipping."""
        optimiser = self.optimisers[purpose]
        norm = optimiser.backward(loss)
        # On the CPU the check is free and stops a bad step before it is taken. Elsewhere it would
        # synchronise, so the running means are checked when they are flushed.
        if on_cpu(self.device) and not bool(torch.isfinite(norm) & torch.isfinite(loss)):
            raise NonFiniteError(f"{_cause(optimiser, metrics, purpose)} is NaN or Inf")
        optimiser.step()
        return norm.detach()

    # -- CUDA graphs --------------------------------------------------------------------------

    @property
    def records(self) -> bool:
        """Whether updates are recorded as CUDA graphs and replayed."""
        same_device = self.device.type == "cuda" and self.replay.device == self.device
        return same_device and self.config.training.cuda_graphs

    def record_again(self) -> None:
        """Discard recorded graphs, after a size has changed."""
        self._programs = self._make_programs()

    def _make_programs(self) -> dict[Purpose, Update]:
        """Return both updates, to be recorded as CUDA graphs where that is possible."""
        programs: dict[Purpose, Update] = {
            "world_model": self.update_world_model,
            "behaviour": self.update_behaviour,
        }
        if not self.records:
            return programs
        shared = shared_place(self.device)
        generators = (self.random.learning, self.random.replay)
        return {k: Recorded(p, generators, self.device, shared) for k, p in programs.items()}

    # -- saving -------------------------------------------------------------------------------

    def check_weights(self) -> None:
        """Check all weights and buffers.

        Raises:
            NonFiniteError: One is NaN or Inf.
        """
        for name, tensor in model_tensors(self.world_model, self.behaviour).items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise NonFiniteError(f"weight {name} is NaN or Inf")

    def state(self) -> dict[str, dict[str, Any]]:
        """Return weights, optimiser state and update counts, by file of a checkpoint."""
        moments: dict[str, Tensor] = {}
        scalars: dict[str, Any] = {}
        for name, optimiser in self.optimisers.items():
            tensors, scalars[name] = optimiser.state()
            moments |= {f"{name}.{key}": tensor for key, tensor in tensors.items()}
        return {
            "model": model_tensors(self.world_model, self.behaviour),
            "optimiser": moments,
            "state": {"updates": dict(self.updates), "optimisers": scalars},
        }

    def load_state(self, saved: Mapping[str, Mapping[str, Any]]) -> None:
        """Restore optimisers and update counts; weights are read by `weights.load_weights`.

        Raises:
            CheckpointError: A tensor is missing or does not fit.
        """
        for name, optimiser in self.optimisers.items():
            prefix = f"{name}."
            own = {
                key.removeprefix(prefix): tensor
                for key, tensor in saved["optimiser"].items()
                if key.startswith(prefix)
            }
            optimiser.load_state(own, saved["state"]["optimisers"][name])
        self.updates = {kind: saved["state"]["updates"][kind] for kind in self.updates}


def _cause(optimiser: Optimiser, metrics: dict[str, Tensor], purpose: Purpose) -> str:
    """Name the first loss or gradient that is not finite."""
    bad = next((k for k, v in metrics.items() if not bool(torch.isfinite(v))), None)
    if bad is not None:
        return f"loss {purpose}/{bad}"
    gradient = optimiser.non_finite_gradient()
    return f"gradient of {purpose}.{gradient}" if gradient else f"gradient norm of {purpose}"
