"""What every action promises: in a world written down beforehand, and in real models' dreams."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.behaviour.build import imagine, one_step_q
from tests.behaviour.build import player as make_player
from torch import Tensor

from drama.behaviour import ActorCritic, imagination
from drama.config import PolicyContext, PolicyLatent
from drama.dynamics import map_state
from drama.errors import ConfigError
from drama.ops.categorical import Randomness
from drama.types import Batch, PolicyState
from drama.world_model import WorldModel

ALL = ["mamba2", "mamba1", "gru", "transformer"]
NO, YES = torch.tensor([False]), torch.tensor([True])


def g(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def leaves(state: PolicyState) -> list[Tensor]:
    found: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    map_state(keep, state)
    return found


def latent_seen(features: Tensor, reward: Tensor, termination: Tensor) -> Tensor:
    """Worth 1000 per class of the latent that follows, plus reward, plus 0.5 for an end."""
    return 1000.0 * features[..., :7].argmax(-1) + reward + 0.5 * termination


def test_every_action_by_hand(scripted_world: Any) -> None:
    stoch = torch.nn.functional.one_hot(torch.tensor([5, 6]), 7).float()
    state = scripted_world.dynamics.init_state(2)
    state.steps[1] = 4.0
    ahead = one_step_q(scripted_world, latent_seen, stoch, state, None)
    # Latent z and action a pay 10 z + a, lead to (z + a) mod 7, and end the episode for a = 2.
    assert ahead.q_values.tolist() == [[5050.0, 6051.0, 52.5], [6060.0, 61.0, 1062.5]]
    assert ahead.state.deter.tolist() == [
        [5, 0, 1],
        [5, 1, 1],
        [5, 2, 1],
        [6, 0, 5],
        [6, 1, 5],
        [6, 2, 5],
    ]
    assert ahead.state.dynamics.steps[:, 0].tolist() == [1, 1, 1, 5, 5, 5]
    assert state.steps[:, 0].tolist() == [0, 4]
    assert ahead.features[:, :7].argmax(-1).tolist() == [5, 6, 0, 6, 0, 1]


@pytest.mark.parametrize("futures", [1, 5])
def test_actions_that_do_the_same_promise_the_same(
    tiny_world: Callable[..., WorldModel], tiny_policy: Callable[..., ActorCritic], futures: int
) -> None:
    world, policy = tiny_world(), tiny_policy()
    asked: list[Tensor] = []
    original = world.sequence_input

    def blind(stoch: Tensor, action: Tensor) -> Tensor:
        asked.append(action)
        return original(stoch, torch.where(action == 2, action, 0))  # 1 does what 0 does

    world.sequence_input = blind  # type: ignore[method-assign]
    stoch = world.sample(torch.full((4, 3, 4), 0.25).log(), g(1))
    state = world.dynamics.init_state(4)
    value = policy.one_step_return
    found = one_step_q(world, value, stoch, state, g(), samples=futures).q_values
    assert asked[0].tolist() == [0, 1, 2] * 4
    assert torch.equal(found[:, 0], found[:, 1])  # drawn apart they would differ
    assert (found[:, 0] != found[:, 2]).all()


@pytest.mark.parametrize("memory", ["previous", "current"])
def test_futures_are_averaged(
    tiny_world: Callable[..., WorldModel],
    tiny_policy: Callable[..., ActorCritic],
    monkeypatch: pytest.MonkeyPatch,
    memory: PolicyContext,
) -> None:
    world, policy = tiny_world(), tiny_policy()
    stoch = world.sample(torch.full((1, 3, 4), 0.25).log(), g(1))
    state = world.dynamics.init_state(1)
    random = g()
    ask = (world, policy.one_step_return, stoch, state, random, memory)
    alone = [one_step_q(*ask) for _ in range(6)]  # type: ignore[arg-type]
    each = torch.stack([branches.q_values for branches in alone])
    assert each.std(0).max() > 1e-3
    # Together, four at a time and then two, and one by one: the same draws.
    for rows in (1024, 12, 1):
        monkeypatch.setattr(imagination, "LOOKAHEAD_BATCH", rows)
        random.manual_seed(0)
        found = one_step_q(*ask, 6)  # type: ignore[arg-type]
        torch.testing.assert_close(found.q_values, each.mean(0))
        torch.testing.assert_close(found.features, alone[-1].features)


@pytest.mark.parametrize("memory", ["previous", "current"])
@pytest.mark.parametrize("dynamics", ALL)
def test_a_dream_stays_the_same_and_tells_what_its_actions_promised(
    tiny_world: Callable[..., WorldModel],
    tiny_policy: Callable[..., ActorCritic],
    frames: Callable[..., Batch],
    dynamics: str,
    memory: PolicyContext,
) -> None:
    world, policy = tiny_world(dynamics), tiny_policy()
    is_first = torch.zeros(3, 5, dtype=torch.bool)
    is_first[1, 4] = True
    context = frames(is_first=is_first)
    plain = imagine(world, policy, context, 4, g(), policy_context=memory)
    every: dict[str, Any] = {"policy_context": memory, "actor_gradient": "all-actions"}
    asked = imagine(world, policy, context, 4, g(), **every)
    assert plain.q_values is None
    assert asked.q_values is not None
    assert asked.q_values.shape == (3, 4, 3)
    for name, column in plain._asdict().items():
        if column is not None:
            torch.testing.assert_close(getattr(asked, name), column, msg=name)
    taken = asked.q_values.gather(-1, asked.action.unsqueeze(-1)).squeeze(-1)
    with torch.no_grad():
        worth = policy.one_step_return(asked.features[:, 1:], asked.reward, asked.termination)
        by_hand = asked.reward + 0.985 * (1 - asked.termination) * policy.value(
            asked.features[:, 1:]
        )
    torch.testing.assert_close(taken, worth)
    torch.testing.assert_close(worth, by_hand)
    assert asked.q_values.std(-1).min() > 0


def test_pieces_are_smaller_by_as_many_actions(
    tiny_world: Callable[..., WorldModel],
    tiny_policy: Callable[..., ActorCritic],
    frames: Callable[..., Batch],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world, policy, rows = tiny_world(), tiny_policy(), []
    original = world.dynamics.step_  # type: ignore[attr-defined]

    def step(x: Tensor, state: Any) -> Any:
        rows.append(len(x))
        return original(x, state)

    monkeypatch.setattr(world.dynamics, "step_", step)
    monkeypatch.setattr(imagination, "CPU_BATCH", 7)
    imagine(world, policy, frames(5), 2, g(), actor_gradient="all-actions")
    assert rows == [6, 6, 6, 6, 3, 3]


class Asked:
    """A behaviour that is told what each action promises, and keeps it."""

    def __init__(self) -> None:
        self.q_values: list[Tensor] = []
        self.deters: list[Tensor] = []

    def one_step_return(self, features: Tensor, reward: Tensor, termination: Tensor) -> Tensor:
        self.deters.append(features[:, 7:])
        return latent_seen(features, reward, termination)

    def act(
        self, features: Tensor, random: Any, greedy: bool, q_values: Tensor
    ) -> tuple[Tensor, Tensor]:
        self.q_values.append(q_values)
        return q_values.argmax(-1), torch.zeros(len(features))


@pytest.mark.parametrize("latent", ["prior", "posterior"])
def test_looking_ahead_starts_from_the_frame_that_is_there(
    scripted_world: Any, latent: Any
) -> None:
    # After 3 and action 2 the world predicts 5 where 4 comes: what is asked about is what comes.
    behaviour = Asked()
    player = make_player(scripted_world, behaviour, latent, lookahead=2)  # type: ignore[arg-type]
    state = player.init_state(1)
    first, state = player.act(torch.tensor([[3.0]]), state, YES)
    second, state = player.act(torch.tensor([[4.0]]), state, NO)
    assert [x.tolist() for x in behaviour.q_values] == [
        [[3030.0, 4031.0, 5032.5]],
        [[4040.0, 5041.0, 6042.5]],
    ]
    assert (first.item(), second.item()) == (2, 2)
    assert state.deter.tolist() == [[4, 2, 2]]  # one step each, of the action taken
    # Asked of the state that has read what went before: the second frame's steps are step 2.
    steps = [deter[:, 2].tolist() for deter in behaviour.deters]
    assert steps == [[1] * 6, [2] * 6]  # two futures of three actions


@pytest.mark.parametrize("memory", ["previous", "current"])
@pytest.mark.parametrize("dynamics", ALL)
def test_looking_ahead_moves_nothing_but_the_choice(
    tiny_world: Callable[..., WorldModel],
    tiny_policy: Callable[..., ActorCritic],
    frames: Callable[..., Batch],
    dynamics: str,
    memory: PolicyContext,
) -> None:
    world, policy, obs = tiny_world(dynamics), tiny_policy(entropy=1e6), frames(2, 4).obs
    results = []
    for lookahead in (0, 3):
        player = make_player(world, policy, "posterior", memory, lookahead)
        state, actions = player.init_state(2), []
        for t in range(4):
            first = torch.full((2,), t == 0)
            action, state = player.act(
                obs[:, t], state, first, g(), latents="mode", actions="argmax"
            )
            actions.append(action)
        results.append((torch.stack(actions), state))
    (plain, before), (ahead, after) = results
    # A nat of entropy so dear that no promise is worth it: the policy as it is.
    assert torch.equal(plain, ahead)
    for left, right in zip(leaves(before), leaves(after), strict=True):
        torch.testing.assert_close(left, right)


@pytest.mark.parametrize("memory", ["previous", "current"])
@pytest.mark.parametrize("latent", ["prior", "posterior"])
def test_the_question_is_asked_from_where_the_agent_stands(
    tiny_world: Callable[..., WorldModel],
    tiny_policy: Callable[..., ActorCritic],
    frames: Callable[..., Batch],
    monkeypatch: pytest.MonkeyPatch,
    memory: PolicyContext,
    latent: PolicyLatent,
) -> None:
    world, policy, obs = tiny_world(), tiny_policy(), frames(2, 3).obs
    told: list[Tensor] = []
    original = policy.improved_log_probs

    def improved_log_probs(log_probs: Tensor, q_values: Tensor) -> Tensor:
        told.append(q_values)
        return original(log_probs, q_values)

    monkeypatch.setattr(policy, "improved_log_probs", improved_log_probs)
    player = make_player(world, policy, latent, memory, 2)
    state = player.init_state(2)
    for t in range(3):
        first = torch.full((2,), t == 0)
        mode = world.posterior(obs[:, t]).argmax(-1)
        stoch = torch.nn.functional.one_hot(mode, 4).flatten(-2).float()
        ask = (world, policy.one_step_return, stoch, state.dynamics, g(t), memory)
        with torch.no_grad():
            expected = one_step_q(*ask, 2).q_values
        _, state = player.act(obs[:, t], state, first, g(t), latents="mode", actions="argmax")
        torch.testing.assert_close(told[-1], expected)


def test_what_is_promised_can_outweigh_the_policy(
    tiny_world: Callable[..., WorldModel],
    tiny_policy: Callable[..., ActorCritic],
    frames: Callable[..., Batch],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world, policy = tiny_world(), tiny_policy(entropy=1e-3)

    def third(features: Tensor, reward: Tensor, termination: Tensor) -> Tensor:
        return (torch.arange(len(reward)) % 3 == 2).float()  # actions of a row lie side by side

    monkeypatch.setattr(policy, "one_step_return", third)
    player = make_player(world, policy, "posterior", lookahead=1)
    obs = frames(4, 1).obs[:, 0]
    every = torch.ones(4, dtype=torch.bool)
    for actions in ("sampled", "argmax"):
        action, _ = player.act(obs, player.init_state(4), every, g(), actions=actions)  # type: ignore[arg-type]
        assert action.tolist() == [2, 2, 2, 2]


def test_a_policy_that_values_nothing_cannot_look_ahead(
    tiny_world: Callable[..., WorldModel],
) -> None:
    class Stay:
        def act(
            self, features: Tensor, random: Randomness, greedy: bool = False
        ) -> tuple[Tensor, Tensor]:
            still = torch.zeros(len(features), dtype=torch.int64)
            return still, still.float()

    make_player(tiny_world(), Stay(), "posterior")
    with pytest.raises(ConfigError, match="Stay has no one_step_return"):
        make_player(tiny_world(), Stay(), "posterior", lookahead=1)
