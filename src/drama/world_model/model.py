"""The world model: encoder, latent, sequence model, decoder and heads, with their losses."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from drama.actions import ActionSpace
from drama.config import WorldModelConfig
from drama.dynamics import Unroll, make_dynamics, peek, step_inplace
from drama.ops.categorical import Randomness, mix_uniform
from drama.ops.dispatch import on_cpu
from drama.ops.rms_norm import RMSNormSiLU
from drama.types import Batch
from drama.world_model.decoder import ImageDecoder, VectorDecoder
from drama.world_model.encoder import ImageEncoder, VectorEncoder, feature_maps
from drama.world_model.heads import MLP
from drama.world_model.latent import kl_divergence, sample_one_hot
from drama.world_model.spatial import MapShape, SpatialEmbedding, SpatialHead, SpatialPrior
from drama.world_model.twohot import TwoHot


class Observed(NamedTuple):
    """Output of the world model for a window of real experience."""

    posterior: Tensor
    """Log-probabilities of ``q(z_t | o_t)``: ``(B, T, variables, classes)``."""
    stoch: Tensor
    """Samples of it, flattened: ``(B, T, Z)``."""
    deter: Tensor
    """``d_t`` after reading ``(z_t, a_t)``: ``(B, T, D)``."""
    state: Any
    """State of the sequence model after the window."""


class LossTerm(NamedTuple):
    """One term of the world-model loss."""

    value: Tensor
    """Scalar, logged as it is."""
    weight: float = 1.0
    """Factor in the loss."""
    metrics: Mapping[str, Tensor] = {}
    """Further detached scalars for the log."""
    losses: Tensor | None = None
    """Losses ``(B, T)`` that ``value`` averages; None excludes the term from window losses."""
    mask: Tensor | None = None
    """1 where a loss counts, ``(B, T)``; None counts all."""

    def window_losses(self) -> Tensor | float:
        """Weighted mean loss of each window, ``(B,)``, detached."""
        if self.losses is None:
            return 0.0
        mask = torch.ones_like(self.losses) if self.mask is None else self.mask
        sums = (self.losses.detach() * mask).sum(dim=1)
        return self.weight * sums / mask.sum(dim=1).clamp_min(1.0)


class WorldModel(nn.Module):
    """Discrete VAE and sequence model (section 2.2 of the paper).

    Args:
        config: Sizes and loss weights.
        obs_shape: ``(H, W, C)`` of uint8 frames or ``(N,)`` of float vectors.
        actions: The action space.
    """

    def __init__(
        self, config: WorldModelConfig, obs_shape: tuple[int, ...], actions: ActionSpace
    ) -> None:
        super().__init__()
        self.config = config
        self.actions = actions
        width = config.dynamics.width
        image = len(obs_shape) == 3
        self.encoder = (ImageEncoder if image else VectorEncoder)(obs_shape, config)
        self.decoder = (ImageDecoder if image else VectorDecoder)(obs_shape, config)
        self.latent_variables, _ = self.encoder.latent_shape
        self.stoch_size = math.prod(self.encoder.latent_shape)
        """Size Z of the flattened latent."""
        latents, units = self._latent_map(obs_shape), config.filters[-1]

        def head(outputs: int, *, zero_init: bool = False) -> nn.Module:
            """One hidden layer, on the output or on what convolutions make of it."""
            inputs = width if latents is None else 2 * units
            mlp = MLP(inputs, outputs, layers=1, units=config.head_units, zero_init=zero_init)
            return mlp if latents is None else SpatialHead(latents, width, units, mlp)

        self.embed: nn.Module
        if latents is None:
            inputs = self.stoch_size + actions.encoded_size
            self.embed = nn.Sequential(nn.Linear(inputs, width, bias=False), RMSNormSiLU(width))
        else:
            variables = config.spatial_latents
            self.embed = SpatialEmbedding(latents, variables, actions.encoded_size, width, units)
        self.dynamics = make_dynamics(config.dynamics)
        self.prior_head: nn.Module
        if latents is None:
            self.prior_head = nn.Linear(width, self.stoch_size)
        else:
            self.prior_head = SpatialPrior(latents, width, units)
        # It predicts 0 at first, as in DreamerV3.
        self.reward_head = head(config.bins, zero_init=True)
        self.termination_head = head(1)
        self.twohot = TwoHot(config.bins, config.bin_limit, config.twohot_decode)

    def _latent_map(self, obs_shape: tuple[int, ...]) -> MapShape | None:
        """Map of spatial latents, or None."""
        if len(obs_shape) != 3 or not self.config.spatial_latents:
            return None
        last = feature_maps(*obs_shape[:2], self.config)[-1]
        channels = self.config.spatial_latents * self.config.latent_classes
        return MapShape(last.height, last.width, channels)

    # -- one step or many ---------------------------------------------------------------------

    def posterior(self, obs: Tensor) -> Tensor:
        """``q(z_t | o_t)`` as log-probabilities ``(..., variables, classes)``, float32."""
        return mix_uniform(self.encoder(obs), self.config.unimix)

    def prior(self, deter: Tensor) -> Tensor:
        """``p(z_{t+1} | d_t)`` as log-probabilities ``(..., variables, classes)``, float32."""
        logits: Tensor = self.prior_head(deter)
        shape = (*deter.shape[:-1], self.latent_variables, self.config.latent_classes)
        return mix_uniform(logits.reshape(shape), self.config.unimix)

    def sequence_input(self, stoch: Tensor, action: Tensor) -> Tensor:
        """Join latent ``(..., Z)`` and action ``(...)`` into the sequence model's input."""
        encoded = self.actions.encode(action, stoch.dtype) * self.config.action_scale
        x: Tensor = self.embed(torch.cat([stoch, encoded], dim=-1))
        return x

    def step(
        self, stoch: Tensor, action: Tensor, state: Any, *, inplace: bool = False
    ) -> tuple[Tensor, Any]:
        """Read ``(z_t, a_t)``: return ``d_t`` ``(B, D)`` and the new state, at constant cost.

        With ``inplace`` the given state may be overwritten; without gradients only.
        """
        x = self.sequence_input(stoch, action)
        return step_inplace(self.dynamics, x, state) if inplace else self.dynamics.step(x, state)

    def null_action_output(self, stoch: Tensor, state: Any) -> Tensor:
        """Sequence-model output for ``z_t`` with a null action, ``(B, D)``; the state is unchanged.

        The last output ``d_{t-1}`` holds what predicts ``z_t``, and need not hold what else the
        state does.
        """
        null = self.actions.null(stoch.shape[:-1], stoch.device)
        return peek(self.dynamics, self.sequence_input(stoch, null), state)

    def reward(self, deter: Tensor) -> Tensor:
        """Expected reward of transition t from ``d_t``: ``(..., D)`` to ``(...)``."""
        return self.twohot.decode(self.reward_head(deter))

    def termination(self, deter: Tensor) -> Tensor:
        """Probability that transition t ends the episode: ``(..., D)`` to ``(...)``."""
        return torch.sigmoid(self.termination_head(deter).float()).squeeze(-1)

    def sample(self, log_probs: Tensor, random: Randomness) -> Tensor:
        """Sample a flattened one-hot latent ``(..., Z)`` with straight-through gradient."""
        return sample_one_hot(log_probs, random).flatten(-2)

    def decode(self, stoch: Tensor) -> Tensor:
        """Decode latents ``(..., Z)`` to observations in the dtype and range of the environment."""
        obs: Tensor = self.decoder.to_obs(self.decoder(stoch))
        return obs

    # -- windows ------------------------------------------------------------------------------

    def observe(
        self, batch: Batch, random: Randomness, posterior: Tensor | None = None
    ) -> Observed:
        """Run a window in one parallel pass: the posterior needs no recurrence.

        Args:
            batch: Windows ``(B, T)``.
            random: Source of randomness for the latents.
            posterior: Result of :meth:`posterior_of` for the batch; None computes it.
        """
        if posterior is None:
            posterior = self.posterior_of(batch)  # (B, T, K, C)
        stoch = self.sample(posterior, random)  # (B, T, Z)
        resets = batch.is_first if self.config.reset_at_episode_start else None
        x = self.sequence_input(stoch, batch.action)  # (B, T, D)
        deter, state = self.dynamics(x, resets)
        return Observed(posterior, stoch, deter, state)

    def observe_stepwise(
        self, batch: Batch, random: Randomness, posterior: Tensor, state: Unroll
    ) -> Observed:
        """Read a window as :meth:`observe` does, one step at a time, without gradients.

        Args:
            batch: Windows ``(B, T)``.
            random: Source of randomness for the latents.
            posterior: Result of :meth:`posterior_of` for the batch.
            state: At its start; it reads the window.

        Returns:
            As :meth:`observe`, with ``deter`` of the last step alone, ``(B, 1, D)``.
        """
        stoch = self.sample(posterior, random)  # (B, T, Z)
        x = self.sequence_input(stoch, batch.action)  # (B, T, D)
        for t in range(x.shape[1]):
            starts = batch.is_first[:, t]
            if self.config.reset_at_episode_start and bool(starts.any()):
                state.reset(starts)
            deter = state.step(x[:, t])
        return Observed(posterior, stoch, deter.unsqueeze(1), state)

    def posterior_of(self, batch: Batch) -> Tensor:
        """Posterior of each transition ``(B, T, K, C)``; repeated frames are encoded once.

        The short contexts of imagination overlap while the replay holds little. Only in evaluation
        mode, where BatchNorm does not mix frames, and on the CPU: elsewhere the number of distinct
        frames synchronises with the host.
        """
        if batch.slot is None or self.training or not on_cpu(batch.obs):
            return self.posterior(batch.obs)
        slots, inverse = torch.unique(batch.slot, return_inverse=True)
        count = batch.slot.numel()
        if slots.numel() > 0.8 * count:
            return self.posterior(batch.obs)
        frames = batch.obs.flatten(0, 1)  # (B * T, ...)
        found = torch.zeros_like(slots)
        found.scatter_(0, inverse.flatten(), torch.arange(count))  # any of equal frames
        return self.posterior(frames[found])[inverse]

    # -- loss ---------------------------------------------------------------------------------

    def loss(
        self, batch: Batch, random: Randomness, *, window_losses: bool = False
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of the paper's equations 6 and 7: the weighted sum of :meth:`loss_terms`.

        Args:
            batch: Windows ``(B, T)``.
            random: Source of randomness for the latents.
            window_losses: Also return ``window_losses``, the loss of each window ``(B,)``.

        Returns:
            The scalar loss, and detached scalars for the log: the loss, its terms before weighting,
            ``kl`` before free bits, and ``posterior_entropy``.
        """
        if self.training:
            for part in (self.encoder, self.decoder):
                part.update_moments(batch.obs)
        seen = self.observe(batch, random)
        terms = self.loss_terms(batch, seen)
        # A weight of 1 is no multiplication: one kernel less.
        weighted = (t.value if t.weight == 1.0 else t.weight * t.value for t in terms.values())
        loss = functools.reduce(torch.add, weighted)
        metrics = {"loss": loss.detach()}
        for name, term in terms.items():
            metrics |= {name: term.value.detach(), **term.metrics}
        with torch.no_grad():
            log_probs = seen.posterior
            metrics["posterior_entropy"] = -(log_probs.exp() * log_probs).sum(dim=(-2, -1)).mean()
        if window_losses:
            each = (term.window_losses() for term in terms.values())
            metrics["window_losses"] = torch.as_tensor(sum(each)).float()
        return loss, metrics

    def loss_terms(self, batch: Batch, seen: Observed) -> dict[str, LossTerm]:
        """Named terms of the loss, each a mean over batch and time.

        A further term is a method and an entry here; it is logged under its name.
        """
        return {
            "reconstruction": self.reconstruction_term(batch, seen),
            "reward": self.reward_term(batch, seen),
            "termination": self.termination_term(batch, seen),
            **self.kl_terms(batch, seen),
        }

    def reconstruction_term(self, batch: Batch, seen: Observed) -> LossTerm:
        """Squared error of the decoded latents, summed over each observation."""
        losses = self.decoder.loss(seen.stoch, batch.obs, batch.is_first)  # (B, T)
        return LossTerm(losses.mean(), losses=losses)

    def reward_term(self, batch: Batch, seen: Observed) -> LossTerm:
        """Cross-entropy to the two-hot rewards, where there was an action."""
        losses = self.twohot.loss(self.reward_head(seen.deter), batch.reward)  # (B, T)
        return _masked_term(losses, _acted(batch))

    def termination_term(self, batch: Batch, seen: Observed) -> LossTerm:
        """Binary cross-entropy to the terminations, where there was an action."""
        logits = self.termination_head(seen.deter).float().squeeze(-1)  # (B, T)
        target = batch.terminated.float()
        losses = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        return _masked_term(losses, _acted(batch))

    def kl_terms(self, batch: Batch, seen: Observed) -> dict[str, LossTerm]:
        """Dynamics loss ``KL[sg(q) || p]`` and representation loss ``KL[q || sg(p)]``.

        Each with free bits per step. No KL where transition t+1 starts an episode: the action
        before did not predict its frame.
        """
        config = self.config
        prior, posterior = self.prior(seen.deter[:, :-1]), seen.posterior[:, 1:]
        linked = (~batch.is_first[:, 1:]).float()  # (B, T - 1)
        dyn = kl_divergence(posterior.detach(), prior)
        rep = kl_divergence(posterior, prior.detach())
        kl = _masked_mean(dyn.detach(), linked)
        dyn_term = _masked_term(dyn.clamp_min(config.free_bits), linked, config.beta_dyn, kl=kl)
        rep_term = _masked_term(rep.clamp_min(config.free_bits), linked, config.beta_rep)
        return {"dyn": dyn_term, "rep": rep_term}


def _acted(batch: Batch) -> Tensor:
    """1 where there was an action, 0 at final observations: ``(B, T)``."""
    return (~batch.is_last).float()


def _masked_term(losses: Tensor, mask: Tensor, weight: float = 1.0, **metrics: Tensor) -> LossTerm:
    """Term of the losses ``(B, T)`` where ``mask`` is 1."""
    return LossTerm(_masked_mean(losses, mask), weight, metrics, losses, mask)


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of ``values`` where ``mask`` is 1; 0 where it is 1 nowhere."""
    return (values * mask).sum() / mask.sum().clamp_min(1.0)
