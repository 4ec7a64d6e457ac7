"""Trajectories dreamt by the world model under the current policy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from drama.behaviour.lookahead import OneStepReturn, features_of, one_step_q
from drama.config import PolicyContext
from drama.dynamics import map_state, where_state
from drama.ops.dispatch import on_cpu
from drama.types import Batch, Rollout
from drama.world_model import WorldModel
from drama.world_model.latent import Randomness, uniform_numbers
from drama.world_model.model import Observed

CPU_PIECE = 1024
"""Trajectories dreamt at a time on a CPU, to bound memory: the paper's 1024 carry 134 MB of state.
Fewer at a time would be slower, by smaller matrix products and more calls; the state is read and
written once a step in either case, see :func:`drama.ops.blocking.state_blocks`."""


class Policy(Protocol):
    """What imagination and acting need of a behaviour."""

    def act(
        self, features: Tensor, random: Randomness, greedy: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Choose actions ``(B,)`` and their log-probabilities for features ``(B, F)``."""
        ...


class ImaginedStep(NamedTuple):
    """One imagined step of ``B`` trajectories."""

    action: Tensor
    """``(B,)`` int64."""
    log_prob: Tensor
    """Of that action, ``(B,)``."""
    observed: Tensor
    """What the policy sees next: a prior sample, and its memory: ``(B, Z + D)``."""
    deter: Tensor
    """``d_t`` after the action, float32: ``(B, D)``."""
    state: Any
    """State of the sequence model; what was given may have been overwritten."""
    q_values: Tensor | None
    """What each of the ``A`` actions promised, ``(B, A)``, where that was asked for."""


def imagine_step(
    world_model: WorldModel,
    policy: Policy,
    observed: Tensor,
    state: Any,
    random: tuple[Randomness, Randomness],
    memory: PolicyContext = "previous",
    one_step_return: OneStepReturn | None = None,
) -> ImaginedStep:
    """Act on ``observed`` and predict what comes of it.

    Args:
        world_model: In evaluation mode.
        policy: Chooses actions.
        observed: What the policy sees, ``(B, Z + D)``, the latent first.
        state: Of the sequence model; may be overwritten.
        random: Sources of randomness for action and latent.
        memory: What it sees beside the latent.
        one_step_return: Compute Q-values of all actions with it; the trajectory stays the same.
    """
    action, log_prob = policy.act(observed, random[0])
    stoch = observed[:, : world_model.config.stoch_size]
    if one_step_return is not None:
        ahead = one_step_q(world_model, stoch, state, random[1], memory, one_step_return)
        taken = torch.arange(len(action), device=action.device) * world_model.num_actions + action
        state = map_state(lambda x: x[taken], ahead.state)
        return ImaginedStep(
            action, log_prob, ahead.observed[taken], ahead.deter[taken], state, ahead.q_values
        )
    deter, state = world_model.step(stoch, action, state, inplace=True)
    deter = deter.float()
    stoch = world_model.sample(world_model.prior(deter), random[1])
    observed = features_of(world_model, stoch, deter, state, memory)
    return ImaginedStep(action, log_prob, observed, deter, state, None)


ImagineStep = Callable[
    [
        WorldModel,
        Policy,
        Tensor,
        Any,
        tuple[Randomness, Randomness],
        PolicyContext,
        OneStepReturn | None,
    ],
    ImaginedStep,
]


@torch.no_grad()
def imagine(
    world_model: WorldModel,
    policy: Policy,
    context: Batch,
    horizon: int,
    generator: torch.Generator | None,
    *,
    start_at_episode_starts: bool = True,
    memory: PolicyContext = "previous",
    one_step_return: OneStepReturn | None = None,
    compiled_step: ImagineStep | None = None,
) -> Rollout:
    """Read ``context`` in parallel, then act for ``horizon`` steps on predicted latents.

    The first imagined state follows the last context row ``t``: latent ``z ~ p(. | d_t)``
    beside ``d_t``. Where row ``t`` itself is the first of an episode and
    ``start_at_episode_starts`` is set, imagination begins at that row instead, with its
    posterior latent, ``d = 0`` and a fresh state: exactly what the agent meets when it acts on
    a new episode's first frame.

    Rollouts do not stop at an imagined end; ``termination`` says where it would have been.
    No gradient flows: the actor's is a score-function gradient, computed by the behaviour.

    On a CPU the batch is dreamt piece by piece, see :data:`CPU_PIECE`. That changes which draws
    the generator gives to which row, and nothing else.

    Args:
        world_model: Expected in evaluation mode.
        policy: Chooses actions.
        context: ``(B, C)`` windows whose last row still has a future.
        horizon: Number ``H`` of imagined actions.
        generator: Source of randomness.
        start_at_episode_starts: See above.
        memory: What the policy sees beside the latent, as `behaviour.policy_context` has it.
        one_step_return: Computes Q-values of all actions, at the cost of one model step for
            each of them; the trajectory is the same with and without, to rounding.
        compiled_step: Stands in for :func:`imagine_step`; it is given numbers, not the generator,
            and those are the ones that the generator would have given.
    """
    posterior = world_model.posterior_of(context)  # of all pieces, so that frames are shared
    batch = context.action.shape[0]
    config = world_model.config
    features = torch.empty(
        (batch, horizon + 1, config.stoch_size + config.dynamics.width),
        dtype=posterior.dtype,
        device=posterior.device,
    )
    size = batch
    if on_cpu(posterior):
        size = max(1, CPU_PIECE // (1 if one_step_return is None else world_model.num_actions))
    pieces = []
    for begin in range(0, batch, size):
        rows = slice(begin, begin + size)
        windows = _rows(context, rows)
        seen = world_model.observe(windows, generator, posterior[rows])
        fresh = windows.is_first[:, -1] if start_at_episode_starts else None
        dreamt = _dream(
            world_model,
            policy,
            seen,
            fresh,
            features[rows],
            generator,
            memory,
            one_step_return,
            compiled_step,
        )
        pieces.append(dreamt)
    columns = (torch.cat(column) for column in zip(*pieces, strict=True))
    return Rollout(features, *columns)


def _dream(
    world_model: WorldModel,
    policy: Policy,
    seen: Observed,
    fresh: Tensor | None,
    features: Tensor,
    generator: torch.Generator | None,
    memory: PolicyContext,
    one_step_return: OneStepReturn | None,
    compiled_step: ImagineStep | None,
) -> tuple[Tensor, ...]:
    """Dream from the end of what was seen, or, where ``fresh``, from its last row on.

    Fills ``features`` ``(B, H + 1, Z + D)`` and returns the other columns of a rollout.
    """
    deter, state = seen.deter[:, -1].float(), seen.state
    stoch = world_model.sample(world_model.prior(deter), generator)  # (B, Z)
    # On a CPU a look costs nothing and may save two copies of the state; elsewhere it would wait.
    if fresh is not None and (not on_cpu(fresh) or bool(fresh.any())):
        stoch = torch.where(fresh.unsqueeze(-1), seen.stoch[:, -1], stoch)
        deter = deter.masked_fill(fresh.unsqueeze(-1), 0.0)
        state = where_state(fresh, world_model.dynamics.init_state(1), state)

    actions, log_probs, deters, promised = [], [], [], []
    features[:, 0] = observed = features_of(world_model, stoch, deter, state, memory)
    for t in range(1, features.shape[1]):
        random: tuple[Randomness, Randomness] = generator, generator
        if compiled_step is not None:
            batch, variables = len(observed), world_model.config.latent_variables
            random = (
                uniform_numbers((batch,), observed, generator),
                uniform_numbers((batch, variables), observed, generator),
            )
        step = compiled_step or imagine_step
        dreamt = step(world_model, policy, observed, state, random, memory, one_step_return)
        state = dreamt.state
        features[:, t] = observed = dreamt.observed
        actions.append(dreamt.action)
        log_probs.append(dreamt.log_prob)
        deters.append(dreamt.deter)
        if dreamt.q_values is not None:
            promised.append(dreamt.q_values)

    # (B, H, D): d_t, after action t. What the policy sees holds it already, if nothing newer.
    after = features[:, 1:, -deter.shape[-1] :]
    if memory == "current":
        after = torch.stack(deters, dim=1)
    return (
        torch.stack(actions, dim=1),
        torch.stack(log_probs, dim=1),
        world_model.reward(after),
        world_model.termination(after),
        *([torch.stack(promised, dim=1)] if promised else []),
    )


def _rows(batch: Batch, rows: slice) -> Batch:
    columns = {k: column[rows] for k, column in batch._asdict().items() if column is not None}
    return Batch(**columns)
