"""Acting with a carried state: what the policy sees, what resets, what must not move."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.behaviour.build import imagine
from tests.behaviour.build import player as make_player
from torch import Tensor

from drama.behaviour import ActorCritic
from drama.config import PolicyContext, PolicyLatent
from drama.dynamics import map_state
from drama.types import Batch, PolicyState
from drama.world_model import WorldModel

LATENTS = ("prior", "posterior")
NO, YES = torch.tensor([False]), torch.tensor([True])


def g(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def leaves(state: PolicyState) -> list[Tensor]:
    found: list[Tensor] = []

    def collect(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    map_state(collect, state)
    return found


def same(left: PolicyState, right: PolicyState, **tolerance: float) -> None:
    for a, b in zip(leaves(left), leaves(right), strict=True):
        torch.testing.assert_close(a, b, **tolerance)


class Watched:
    """A policy that remembers what it was shown."""

    def __init__(self, policy: Any) -> None:
        self.policy, self.seen = policy, []

    def act(
        self, features: Tensor, generator: torch.Generator | None, greedy: bool = False
    ) -> tuple[Tensor, Tensor]:
        self.seen.append(features)
        return self.policy.act(features, generator, greedy)


class Constant:
    """A policy that always does the same."""

    def __init__(self, action: int) -> None:
        self.action = action

    def act(
        self, features: Tensor, generator: torch.Generator | None, greedy: bool = False
    ) -> tuple[Tensor, Tensor]:
        return torch.full((len(features),), self.action), torch.zeros(len(features))


@pytest.mark.parametrize("latent", LATENTS)
def test_what_the_policy_sees_step_by_step(
    scripted_world: Any, scripted_policy: Any, latent: str
) -> None:
    # Frames 3, 5, 1 with actions 1, 2, 0: the world predicts 4 and 0 where 5 and 1 come.
    policy = scripted_policy([[1, 2, 0]])
    player = make_player(scripted_world, policy, latent)
    state = player.init_state(1)
    for t, frame in enumerate([3.0, 5.0, 1.0]):
        action, state = player.act(torch.tensor([[frame]]), state, torch.tensor([t == 0]))
        assert action.item() == [1, 2, 0][t]
    seen = torch.cat(policy.seen)
    # An episode's first frame is all there is: both see it, beside d = 0.
    assert seen[:, :7].argmax(-1).tolist() == ([3, 4, 0] if latent == "prior" else [3, 5, 1])
    # d_{t-1} has read the frames as they came, whatever the policy was shown.
    assert seen[:, 7:].tolist() == [[0, 0, 0], [3, 1, 1], [5, 2, 2]]
    assert state.deter.tolist() == [[1, 0, 3]]


@pytest.mark.parametrize("latent", LATENTS)
def test_when_the_current_frame_reaches_the_policy(
    tiny_world: Callable[..., WorldModel],
    tiny_policy: Callable[..., ActorCritic],
    frames: Callable[..., Batch],
    latent: str,
) -> None:
    world, policy = tiny_world(), Watched(tiny_policy())
    world.encoder.out.weight.data *= 100
    player = make_player(world, policy, latent)  # type: ignore[arg-type]
    obs = frames(1, 2).obs
    _, state = player.act(obs[:, 0], player.init_state(1), YES, latents="mode", actions="argmax")
    results = []
    for frame in (obs[:, 1], 255 - obs[:, 1]):
        results.append(player.act(frame, state, NO, latents="mode", actions="argmax")[1].deter)
    shown = [features[:, :12] for features in policy.seen[1:]]
    assert torch.equal(shown[0], shown[1]) == (latent == "prior")
    assert not torch.equal(results[0], results[1])
    with torch.no_grad():
        source = world.prior(state.deter) if latent == "prior" else world.posterior(obs[:, 1])
    mode = torch.nn.functional.one_hot(source.argmax(-1), 4).flatten(-2).float()
    torch.testing.assert_close(shown[0], mode)


@pytest.mark.parametrize("latent", LATENTS)
@pytest.mark.parametrize("dynamics", ["mamba2", "mamba1", "gru", "transformer"])
def test_is_first_starts_afresh_whatever_the_state_holds(
    tiny_world: Callable[..., WorldModel],
    tiny_policy: Callable[..., ActorCritic],
    frames: Callable[..., Batch],
    latent: str,
    dynamics: str,
) -> None:
    player = make_player(tiny_world(dynamics), tiny_policy(), latent)  # type: ignore[arg-type]
    obs = frames(1, 8).obs
    state = player.init_state(1)
    for t in range(5):
        _, state = player.act(obs[:, t], state, torch.tensor([t == 0]), g(t))
    nan = map_state(lambda x: torch.full_like(x, torch.nan), state)
    runs = []
    for carried in (player.init_state(1), state, nan):
        actions, generator = [], g(9)
        for t in range(5, 8):
            action, carried = player.act(obs[:, t], carried, torch.tensor([t == 5]), generator)
            actions.append(action.item())
        runs.append((actions, carried))
    for actions, carried in runs[1:]:
        assert actions == runs[0][0]
        same(carried, runs[0][1], rtol=0, atol=0)


@pytest.mark.parametrize("latent", LATENTS)
def test_a_batch_is_its_rows(
    tiny_world: Callable[..., WorldModel],
    tiny_policy: Callable[..., ActorCritic],
    frames: Callable[..., Batch],
    latent: str,
) -> None:
    player = make_player(tiny_world(), tiny_policy(), latent)  # type: ignore[arg-type]
    obs = frames(4, 7).obs
    is_first = torch.zeros(4, 7, dtype=torch.bool)
    is_first[:, 0] = is_first[1, 3] = is_first[2, 5] = True

    def play(rows: slice) -> tuple[Tensor, PolicyState]:
        state, actions = player.init_state(len(obs[rows])), []
        for t in range(7):
            action, state = player.act(
                obs[rows, t], state, is_first[rows, t], latents="mode", actions="argmax"
            )
            actions.append(action)
        return torch.stack(actions, 1), state

    together, state = play(slice(None))
    assert together.unique().numel() > 1
    for row in range(4):
        alone, single = play(slice(row, row + 1))
        assert torch.equal(alone[0], together[row])
        of_row = map_state(lambda x, row=row: x[row : row + 1], state)
        same(single, of_row, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dynamics", ["mamba2", "mamba1", "gru", "transformer"])
def test_the_state_has_one_size_for_ever(
    tiny_world: Callable[..., WorldModel],
    tiny_policy: Callable[..., ActorCritic],
    frames: Callable[..., Batch],
    dynamics: str,
) -> None:
    player = make_player(tiny_world(dynamics), tiny_policy(), "prior")
    obs = frames(2, 12).obs
    state = player.init_state(2)
    shapes = [(x.shape, x.dtype) for x in leaves(state)]
    assert all(shape[0] == 2 for shape, _ in shapes)
    for t in range(12):
        _, state = player.act(obs[:, t], state, torch.tensor([t == 0] * 2), g(t))
        assert [(x.shape, x.dtype) for x in leaves(state)] == shapes


def test_the_given_state_is_not_changed(
    tiny_world: Callable[..., WorldModel],
    tiny_policy: Callable[..., ActorCritic],
    frames: Callable[..., Batch],
) -> None:
    player = make_player(tiny_world(), tiny_policy(), "prior")
    obs = frames(1, 2).obs
    _, state = player.act(obs[:, 0], player.init_state(1), YES, g())
    copy = map_state(torch.clone, state)
    player.act(obs[:, 1], state, NO, g())
    player.act(obs[:, 1], state, YES, g())
    same(state, copy, rtol=0, atol=0)


def test_acting_never_moves_batch_norm_and_needs_no_gradient(
    tiny_world: Callable[..., WorldModel],
    tiny_policy: Callable[..., ActorCritic],
    frames: Callable[..., Batch],
) -> None:
    world = tiny_world()
    player = make_player(world, tiny_policy(), "prior")
    obs = frames(1, 1).obs[:, 0]
    expected, _ = player.act(obs, player.init_state(1), YES, g())
    before = {k: v.clone() for k, v in world.state_dict().items()}
    world.train()  # a caller who forgot to leave training mode
    action, state = player.act(obs, player.init_state(1), YES, g())
    assert all(torch.equal(v, before[k]) for k, v in world.state_dict().items())
    assert torch.equal(action, expected), "statistics of a single frame were used"
    assert not any(x.requires_grad for x in leaves(state))


def test_latents_and_actions_are_chosen_independently(
    tiny_world: Callable[..., WorldModel],
    tiny_policy: Callable[..., ActorCritic],
    frames: Callable[..., Batch],
) -> None:
    """In every combination: which latents the policy saw, and which action came of them."""
    world, obs = tiny_world(), frames(1, 1).obs[:, 0]
    log_probs = world.posterior(obs)
    mode = torch.nn.functional.one_hot(log_probs.argmax(-1), log_probs.shape[-1]).flatten(-2)
    for latents in ("sampled", "mode"):
        for actions in ("sampled", "argmax"):
            seen, chosen = [], []
            for seed in range(30):
                policy = Watched(tiny_policy())
                player = make_player(world, policy, "posterior")
                action, _ = player.act(
                    obs,
                    player.init_state(1),
                    YES,
                    g(seed),
                    latents=latents,  # type: ignore[arg-type]
                    actions=actions,  # type: ignore[arg-type]
                )
                features = policy.seen[0]
                best, _ = policy.policy.act(features, None, greedy=True)
                seen.append(torch.equal(features[:, : mode.shape[-1]], mode.float()))
                chosen.append(torch.equal(action, best))
            assert all(seen) == (latents == "mode")
            assert all(chosen) == (actions == "argmax")


def test_the_mode_of_both_draws_nothing(
    tiny_world: Callable[..., WorldModel],
    tiny_policy: Callable[..., ActorCritic],
    frames: Callable[..., Batch],
) -> None:
    player = make_player(tiny_world(), tiny_policy(), "prior")
    generator = g()
    before, default = generator.get_state(), torch.get_rng_state()
    obs = frames(1, 1).obs[:, 0]
    player.act(obs, player.init_state(1), YES, generator, latents="mode", actions="argmax")
    assert torch.equal(generator.get_state(), before)
    assert torch.equal(torch.get_rng_state(), default)
    player.act(obs, player.init_state(1), YES, generator)
    assert not torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("memory", ["previous", "current"])
def test_an_episodes_first_action_is_the_dreams_first_action(
    tiny_world: Callable[..., WorldModel],
    tiny_policy: Callable[..., ActorCritic],
    frames: Callable[..., Batch],
    memory: PolicyContext,
) -> None:
    # What the policy is trained on and what it meets in the world are one and the same input.
    world, policy = tiny_world(), Watched(tiny_policy())
    world.encoder.out.weight.data *= 1000  # certain latents: no luck in it
    world.config = type(world.config)(**{**vars(world.config), "unimix": 0.0})
    is_first = torch.zeros(3, 5, dtype=torch.bool)
    is_first[:, -1] = True
    context = frames(is_first=is_first)
    imagine(world, policy, context, 1, g(), policy_context=memory)
    player = make_player(world, policy, "prior", memory)
    player.act(context.obs[:, -1], player.init_state(3), torch.ones(3, dtype=torch.bool), g())
    dreamt, real = policy.seen
    torch.testing.assert_close(real, dreamt)
    assert bool((real[:, 12:] == 0).all()) == (memory == "previous")


@pytest.mark.parametrize("latent", LATENTS)
@pytest.mark.parametrize("dynamics", ["mamba2", "mamba1", "gru", "transformer"])
def test_the_current_memory_reads_the_latent_that_is_acted_on_and_changes_nothing_else(
    tiny_world: Callable[..., WorldModel],
    tiny_policy: Callable[..., ActorCritic],
    frames: Callable[..., Batch],
    dynamics: str,
    latent: PolicyLatent,
) -> None:
    world, obs = tiny_world(dynamics), frames(1, 4).obs
    runs = {}
    for memory in ("previous", "current"):
        policy = Watched(tiny_policy())
        player = make_player(world, policy, latent, memory)
        state = player.init_state(1)
        before = []
        for t in range(4):
            before.append(map_state(torch.clone, state.dynamics))
            policy.policy = Constant(t % 3)
            _, state = player.act(
                obs[:, t], state, torch.tensor([t == 0]), latents="mode", actions="argmax"
            )
        runs[memory] = policy.seen, before, state
    (previous, states, last), (current, _, same) = runs["previous"], runs["current"]
    assert torch.equal(last.deter, same.deter)
    for old, new, state in zip(previous, current, states, strict=True):
        assert torch.equal(old[:, :12], new[:, :12])
        nothing = torch.cat([new[:, :12], torch.zeros(1, world.actions.count)], dim=-1)
        with torch.no_grad():
            torch.testing.assert_close(
                new[:, 12:], world.dynamics.step(world.embed(nothing), state)[0]
            )
        assert not torch.allclose(old[:, 12:], new[:, 12:])
