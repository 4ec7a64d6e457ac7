"""Imagination: a world model and a policy, stepped together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, cast

import torch
from torch import Tensor

from drama.behaviour.base import Behaviour, IntrinsicReward
from drama.behaviour.imagined import ImaginedStep, LatentState, Prediction, Successors
from drama.config import BehaviourConfig
from drama.dynamics import Unroll, map_state, restart, unroll
from drama.ops.categorical import Randomness, uniform_numbers
from drama.ops.dispatch import on_cpu
from drama.types import Batch, Rollout
from drama.world_model import Observed, WorldModel

CPU_BATCH = 1024
"""Trajectories imagined at a time on a CPU, which bounds memory: the sequence model keeps 210 MB of
the paper's 1024. Fewer at a time are slower: smaller matrix products and more calls."""
LOOKAHEAD_BATCH = 1024
"""Latents sampled at a time in the lookahead: samples times trajectories times actions."""


class Policy(Protocol):
    """The part of a behaviour that imagination and acting need."""

    def act(
        self, features: Tensor, random: Randomness, greedy: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Choose actions ``(B,)`` and their log-probabilities for features ``(B, F)``."""
        ...


def policy_features(stoch: Tensor, context: Tensor) -> Tensor:
    """Input of actor and critic: ``concat(z_t, d_{t-1})``, or the null-action output for d."""
    return torch.cat([stoch, context], dim=-1)


class Imagination:
    """Steps a world model under a policy: in training, on the real environment, in `DreamEnv`.

    ``rollout`` is the imagination that actor and critic learn from. ``start`` and ``step`` are
    single steps from real observations with given actions; ``open_loop`` predicts what follows a
    context under recorded actions.

    Args:
        world_model: Expected in evaluation mode.
        policy: Chooses actions.
        config: Settings of the policy's input and of the rollouts.
        intrinsic_reward: Added to predicted rewards in rollouts, for training only.
    """

    def __init__(
        self,
        world_model: WorldModel,
        policy: Policy,
        config: BehaviourConfig,
        intrinsic_reward: IntrinsicReward | None = None,
    ) -> None:
        self.world_model = world_model
        self.policy = policy
        self.config = config
        self.intrinsic_reward = intrinsic_reward
        self.compiled_step: Callable[..., ImaginedStep] | None = None
        """Compiled :meth:`imagined_step`; it takes random numbers in place of a generator."""

    # -- single steps -------------------------------------------------------------------------

    def start(self, obs: Tensor, random: Randomness) -> LatentState:
        """Return the state at the first observations of ``B`` episodes: sampled posterior, d = 0.

        Args:
            obs: ``(B, H, W, C)`` uint8 or ``(B, N)`` float32.
            random: Source of randomness for the latents.
        """
        stoch = self.world_model.sample(self.world_model.posterior(obs), random)
        deter = stoch.new_zeros(len(obs), self.world_model.config.dynamics.width)
        return LatentState(stoch, deter, self.world_model.dynamics.init_state(len(obs)))

    def step(self, state: LatentState, action: Tensor, random: Randomness) -> LatentState:
        """Read ``(z_t, a_t)`` and sample ``z_{t+1}`` from the prior.

        Args:
            state: Before the action; ``state.dynamics`` may be overwritten.
            action: ``(B,)`` int64.
            random: Source of randomness for the latents.
        """
        deter, dynamics = self.world_model.step(state.stoch, action, state.dynamics, inplace=True)
        deter = deter.float()
        stoch = self.world_model.sample(self.world_model.prior(deter), random)
        return LatentState(stoch, deter, dynamics)

    def outcome(self, deter: Tensor) -> tuple[Tensor, Tensor]:
        """Predict reward and termination probability ``(...)`` of action t from ``d_t``."""
        return self.world_model.reward(deter), self.world_model.termination(deter)

    def features(self, state: LatentState) -> Tensor:
        """Return the policy features ``(B, Z + D)`` of a state, which is left unchanged."""
        context = state.deter
        if self.config.policy_context == "current":
            context = self.world_model.null_action_output(state.stoch, state.dynamics).float()
        return policy_features(state.stoch, context)

    # -- rollouts -----------------------------------------------------------------------------

    @torch.no_grad()
    def open_loop(
        self, obs: Tensor, action: Tensor, generator: torch.Generator | None
    ) -> Prediction:
        """Read ``C`` observations of each episode, then predict ``H`` steps from the actions alone.

        Args:
            obs: The context, ``(B, C, ...)``, as the environment gives it.
            action: Recorded actions from the first observation on, ``(B, C + H)`` int64.
            generator: Source of randomness for the latents.
        """
        world_model, context = self.world_model, obs.shape[1]
        seen = world_model.sample(world_model.posterior(obs), generator)  # (B, C, Z)
        dynamics = world_model.dynamics.init_state(len(obs))
        for t in range(context):
            deter, dynamics = world_model.step(seen[:, t], action[:, t], dynamics, inplace=True)
        deter = deter.float()
        stoch = world_model.sample(world_model.prior(deter), generator)
        state = LatentState(stoch, deter, dynamics)
        predicted, deters = [], []
        for t in range(context, action.shape[1]):
            predicted.append(world_model.decode(state.stoch))
            state = self.step(state, action[:, t], generator)
            deters.append(state.deter)
        return Prediction(torch.stack(predicted, 1), *self.outcome(torch.stack(deters, 1)))

    @torch.no_grad()
    def rollout(self, context: Batch, generator: torch.Generator | None) -> Rollout:
        """Read ``context`` in parallel, then act for ``config.horizon`` steps on sampled latents.

        The first imagined state follows the last context transition ``t``: latent
        ``z ~ p(. | d_t)`` and ``d_t``. Where transition ``t`` is the first of an episode,
        imagination starts at it instead, with its posterior latent, ``d = 0`` and an empty state,
        as acting does on a first frame.

        Rollouts continue after an imagined end; ``termination`` marks it. No gradient flows: the
        behaviour computes the score-function gradient of the actor.

        On a CPU the batch is imagined in parts of :data:`CPU_BATCH`, which only changes the
        assignment of random numbers to trajectories.

        Args:
            context: ``(B, C)`` windows whose last transition has a future.
            generator: Source of randomness.
        """
        world_model = self.world_model
        posterior = world_model.posterior_of(context)  # of all parts: frames are shared
        batch = len(context.action)
        width = world_model.stoch_size + world_model.config.dynamics.width
        features = posterior.new_empty(batch, self.config.horizon + 1, width)
        size = batch
        if on_cpu(posterior):
            size = max(1, CPU_BATCH // (world_model.actions.count if self._all_actions else 1))
        parts = []
        for begin in range(0, batch, size):
            part = slice(begin, begin + size)
            state = self._start_after(_part(context, part), posterior[part], generator)
            parts.append(self._unroll(state, features[part], generator))
        columns = (torch.cat(column) for column in zip(*parts, strict=True))
        return Rollout(features, *columns)

    @property
    def _all_actions(self) -> bool:
        return self.config.actor_gradient == "all-actions"

    def _start_after(
        self, context: Batch, posterior: Tensor, generator: torch.Generator | None
    ) -> LatentState:
        """State from which imagination continues a context, see :meth:`rollout`."""
        world_model = self.world_model
        seen = self._observe(context, posterior, generator)
        deter, dynamics = seen.deter[:, -1].float(), seen.state
        stoch = world_model.sample(world_model.prior(deter), generator)  # (B, Z)
        fresh = context.is_first[:, -1]
        # On a CPU the check is free and may save two copies of the state; elsewhere it would wait.
        if not on_cpu(fresh) or bool(fresh.any()):
            stoch = torch.where(fresh.unsqueeze(-1), seen.stoch[:, -1], stoch)
            deter = deter.masked_fill(fresh.unsqueeze(-1), 0.0)
            dynamics = restart(world_model.dynamics, dynamics, fresh)
        return LatentState(stoch, deter, dynamics)

    def _observe(
        self, context: Batch, posterior: Tensor, generator: torch.Generator | None
    ) -> Observed:
        """Observe a context, step by step where the sequence model has a faster form of that."""
        world_model = self.world_model
        state: Unroll | None = None
        if on_cpu(posterior) and self.compiled_step is None and not self._all_actions:
            batch, length = context.action.shape
            state = unroll(world_model.dynamics, batch, length + self.config.horizon + 1)
        if state is None:
            return world_model.observe(context, generator, posterior)
        return world_model.observe_stepwise(context, generator, posterior, state)

    def _unroll(
        self, state: LatentState, features: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, ...]:
        """Fill ``features`` ``(B, H + 1, Z + D)``; return the other columns of a rollout."""
        actions, log_probs, deters, q_values = [], [], [], []
        features[:, 0] = current = self.features(state)
        for t in range(1, features.shape[1]):
            random = self._random(len(current), current, generator)
            step = (self.compiled_step or self.imagined_step)(state, current, random)
            state = step.state
            features[:, t] = current = step.features
            actions.append(step.action)
            log_probs.append(step.log_prob)
            deters.append(state.deter)
            if step.q_values is not None:
                q_values.append(step.q_values)
        after = torch.stack(deters, dim=1)  # (B, H, D): d_t, after action t
        reward, termination = self.outcome(after)
        reward = self._training_reward(reward, after, features[:, 1:])
        columns = [torch.stack(actions, dim=1), torch.stack(log_probs, dim=1), reward, termination]
        return (*columns, *([torch.stack(q_values, dim=1)] if q_values else []))

    def imagined_step(
        self, state: LatentState, features: Tensor, random: tuple[Randomness, Randomness]
    ) -> ImaginedStep:
        """Act on policy features and predict the next state.

        Args:
            state: Its dynamics may be overwritten.
            features: Policy features of ``state``, ``(B, Z + D)``.
            random: Sources of randomness for action and latent.
        """
        action, log_prob = self.policy.act(features, random[0])
        if self._all_actions:
            ahead = self.one_step_q(state, random[1])
            count = self.world_model.actions.count
            taken = torch.arange(len(action), device=action.device) * count + action
            state = map_state(lambda x: x[taken], ahead.state)
            return ImaginedStep(action, log_prob, state, ahead.features[taken], ahead.q_values)
        state = self.step(state, action, random[1])
        return ImaginedStep(action, log_prob, state, self.features(state), None)

    def _random(
        self, batch: int, like: Tensor, generator: torch.Generator | None
    ) -> tuple[Randomness, Randomness]:
        """Randomness of one step, for action and latent."""
        if self.compiled_step is None:
            return generator, generator
        variables = self.world_model.latent_variables
        noise = self.world_model.actions.noise(batch, like, generator)
        return noise, uniform_numbers((batch, variables), like, generator)

    def _training_reward(self, reward: Tensor, deter: Tensor, features: Tensor) -> Tensor:
        """Add the intrinsic reward, if there is one."""
        if self.intrinsic_reward is None:
            return reward
        intrinsic = self.intrinsic_reward(self.world_model, deter, features)
        return reward if intrinsic is None else reward + intrinsic

    # -- one-step lookahead -------------------------------------------------------------------

    def one_step_q(self, state: LatentState, random: Randomness, samples: int = 1) -> Successors:
        """Compute ``Q(s, a) = r + gamma (1 - e) V(s')`` of all actions, with sampled latents.

        The latents after the actions of one state use the same uniform numbers: common random
        numbers reduce the variance of differences between actions.

        Args:
            state: Before the action; it is left unchanged.
            random: Source of randomness; uniform numbers suffice for one sample only.
            samples: Latents sampled after each action.
        """
        world_model, policy = self.world_model, cast("Behaviour", self.policy)
        batch, count = len(state.stoch), world_model.actions.count

        def repeated(x: Tensor) -> Tensor:
            return x.repeat_interleave(count, dim=0)

        action = world_model.actions.every(state.stoch.device).repeat(batch)
        before = map_state(repeated, state.dynamics)
        deter, after = world_model.step(repeated(state.stoch), action, before, inplace=True)
        deter = deter.float()
        prior, variables = world_model.prior(deter), world_model.latent_variables
        reward, termination = self.outcome(deter)
        total = torch.zeros_like(reward)
        at_once = min(samples, max(1, LOOKAHEAD_BATCH // (batch * count)))
        for begin in range(0, samples, at_once):
            share = min(at_once, samples - begin)

            def several(x: Tensor, share: int = share) -> Tensor:
                return x if share == 1 else x.repeat(share, *[1] * (x.dim() - 1))

            numbers = random
            if not isinstance(numbers, Tensor):
                numbers = uniform_numbers((share * batch, variables), deter, numbers)
            stoch = world_model.sample(several(prior), repeated(numbers))
            # The state is large, and only the context "current" reads it.
            current = self.config.policy_context == "current"
            reached = map_state(several, after) if current else after
            features = self.features(LatentState(stoch, several(deter), reached))
            total_reward = self._training_reward(several(reward), several(deter), features)
            values = policy.one_step_return(features, total_reward, several(termination))
            total = total + values.view(share, batch * count).sum(dim=0)
        last = slice(-batch * count, None)
        reached = LatentState(stoch[last], deter, after)
        return Successors(reached, features[last], total.view(batch, count) / samples)


def _part(batch: Batch, part: slice) -> Batch:
    columns = {k: column[part] for k, column in batch._asdict().items() if column is not None}
    return Batch(**columns)
