"""Dreams in a world written down beforehand, and of a real model: what is read where."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.behaviour.build import imagine
from torch import Tensor

from drama.behaviour import ActorCritic, imagination, policy_features
from drama.config import PolicyContext
from drama.dynamics import map_state
from drama.types import Batch
from drama.world_model import WorldModel

ACTIONS = [[1, 0, 2, 1], [0, 2, 1, 1]]


def g(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def script(obs: list[list[int]], action: list[list[int]], first: list[list[int]]) -> Batch:
    size = (len(obs), len(obs[0]))
    none = torch.zeros(size, dtype=torch.bool)
    return Batch(
        obs=torch.tensor(obs).float().unsqueeze(-1),
        is_first=torch.tensor(first).bool(),
        action=torch.tensor(action),
        reward=torch.zeros(size),
        terminated=none,
        truncated=none,
        is_last=none,
    )


CONTEXT = script([[3, 4, 5], [1, 2, 6]], [[1, 0, 1], [0, 1, 2]], [[1, 0, 0], [0, 0, 1]])


def test_a_scripted_dream(scripted_world: Any, scripted_policy: Any) -> None:
    policy = scripted_policy(ACTIONS)
    rollout = imagine(scripted_world, policy, CONTEXT, 4, None)
    latent = rollout.features[..., :7].argmax(-1)
    deter = rollout.features[..., 7:]

    # Row 0: the last context row is z = 5, a = 1 after three steps, so z_0 = 6 is predicted from
    # d = (5, 1, 3). Each action then moves z on by a, modulo 7.
    assert latent[0].tolist() == [6, 0, 0, 2, 3]
    assert deter[0].tolist() == [[5, 1, 3], [6, 1, 4], [0, 0, 5], [0, 2, 6], [2, 1, 7]]
    # Row 1: its last context row begins an episode: z_0 is that row's own posterior 6, d is zero
    # and the state is fresh, so the first imagined step is step 1.
    assert latent[1].tolist() == [6, 6, 1, 2, 3]
    assert deter[1].tolist() == [[0, 0, 0], [6, 0, 1], [6, 2, 2], [1, 1, 3], [2, 1, 4]]

    assert rollout.action.tolist() == ACTIONS
    # Transition t pays 10 z_t + a_t: z_t the latent acted on, not the one that followed.
    assert rollout.reward.tolist() == [[61, 0, 2, 21], [60, 62, 11, 21]]
    assert rollout.termination.tolist() == [[0, 0, 1, 0], [0, 1, 0, 0]]
    assert rollout.log_prob.tolist() == [[-1, -2, -3, -4]] * 2
    # The policy saw the features that are handed on, in that order, and not the last ones.
    torch.testing.assert_close(torch.stack(policy.seen, 1), rollout.features[:, :-1])


def test_without_a_first_row_at_their_end_all_contexts_are_continued(
    scripted_world: Any, scripted_policy: Any
) -> None:
    policy = scripted_policy(ACTIONS)
    context = CONTEXT._replace(is_first=torch.zeros(2, 3, dtype=torch.bool))
    rollout = imagine(scripted_world, policy, context, 4, None)
    latent, deter = rollout.features[..., :7].argmax(-1), rollout.features[..., 7:]
    assert deter[1, 0].tolist() == [6, 2, 3]
    assert latent[1, 0] == (6 + 2) % 7
    assert deter[1, 1, 2] == 4


def test_dreams_go_on_after_an_end(scripted_world: Any, scripted_policy: Any) -> None:
    rollout = imagine(scripted_world, scripted_policy([[2, 2, 2], [2, 1, 2]]), CONTEXT, 3, None)
    assert rollout.termination.tolist() == [[1, 1, 1], [1, 0, 1]]
    assert rollout.reward[0].tolist() == [62, 12, 32]


@pytest.mark.parametrize("horizon", [1, 6])
def test_shapes_and_types(
    tiny_world: Callable[..., WorldModel],
    tiny_policy: Callable[..., ActorCritic],
    frames: Callable[..., Batch],
    horizon: int,
) -> None:
    rollout = imagine(tiny_world(), tiny_policy(), frames(), horizon, g())
    assert rollout.features.shape == (3, horizon + 1, 12 + 16)
    for name in ("action", "log_prob", "reward", "termination"):
        assert getattr(rollout, name).shape == (3, horizon), name
    assert rollout.action.dtype == torch.int64
    assert rollout.action.min() >= 0
    assert rollout.action.max() < 3
    assert ((rollout.termination > 0) & (rollout.termination < 1)).all()
    latent = rollout.features[..., :12].unflatten(-1, (3, 4))
    assert ((latent == 0) | (latent == 1)).all()
    assert (latent.sum(-1) == 1).all()
    assert not any(t.requires_grad for t in rollout if t is not None)


def test_no_gradient_and_nothing_moves(
    tiny_world: Callable[..., WorldModel],
    tiny_policy: Callable[..., ActorCritic],
    frames: Callable[..., Batch],
) -> None:
    world, policy = tiny_world(), tiny_policy()
    before = {k: v.clone() for m in (world, policy) for k, v in m.state_dict().items()}
    rollout = imagine(world, policy, frames(), 4, g())
    after = {k: v for m in (world, policy) for k, v in m.state_dict().items()}
    assert all(torch.equal(after[k], before[k]) for k in before)
    assert not world.training
    policy.loss(rollout)[0].backward()
    assert all(p.grad is None for p in world.parameters())


@pytest.mark.parametrize("dynamics", ["mamba2", "mamba1", "gru", "transformer"])
@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("memory", ["previous", "current"])
def test_a_dream_is_what_stepping_from_the_context_on_gives(
    tiny_world: Callable[..., WorldModel],
    tiny_policy: Callable[..., ActorCritic],
    frames: Callable[..., Batch],
    dynamics: str,
    memory: PolicyContext,
    reset: bool,
) -> None:
    world, policy = tiny_world(dynamics, reset_at_episode_start=reset), tiny_policy()
    is_first = torch.zeros(3, 5, dtype=torch.bool)
    is_first[1, 2] = is_first[2, 4] = True
    context = frames(is_first=is_first)
    rollout = imagine(world, policy, context, 6, g(), policy_context=memory)

    def remembered(latent: Tensor, deter: Tensor, state: Any) -> Tensor:
        if memory == "previous":
            return deter
        nothing = torch.cat([latent, torch.zeros(len(latent), world.actions.count)], dim=-1)
        return world.dynamics.step(world.embed(nothing), state)[0]

    with torch.no_grad():
        stoch = world.observe(context, g()).stoch
        for row in range(3):
            # Step through the context alone, from where this row's past begins.
            start = {0: 0, 1: 2 if reset else 0, 2: 5}[row]
            state, deter = world.dynamics.init_state(1), torch.zeros(1, 16)
            for t in range(start, 5):
                deter, state = world.step(
                    stoch[row : row + 1, t], context.action[row : row + 1, t], state
                )
            features = rollout.features[row : row + 1]
            close(features[:, 0, 12:], remembered(features[:, 0, :12], deter, state))
            for t in range(6):
                deter, state = world.step(
                    features[:, t, :12], rollout.action[row, t : t + 1], state
                )
                seen = remembered(features[:, t + 1, :12], deter, state)
                close(features[:, t + 1, 12:], seen)
                close(rollout.reward[row, t : t + 1], world.reward(deter))
                close(rollout.termination[row, t : t + 1], world.termination(deter))
    torch.testing.assert_close(features[0, 0, :12], stoch[2, 4])


def close(left: Tensor, right: Tensor) -> None:
    torch.testing.assert_close(left, right, atol=5e-5, rtol=1e-4)


def test_latents_are_drawn_from_the_prior(
    tiny_world: Callable[..., WorldModel],
    tiny_policy: Callable[..., ActorCritic],
    frames: Callable[..., Batch],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world, policy = tiny_world(), tiny_policy()
    many = Batch(*(None if t is None else t.expand(4000, *t.shape[1:]) for t in frames(1)))
    # A certain posterior: every row has the same past.
    sure = torch.nn.functional.one_hot(torch.tensor([0, 3, 1]), 4).float().log()
    monkeypatch.setattr(world, "posterior", lambda obs: sure.expand(*obs.shape[:2], 3, 4))
    rollout = imagine(world, policy, many, 1, g())
    deter = rollout.features[:, 0, 12:]
    assert (deter - deter[0]).abs().max() < 1e-4
    with torch.no_grad():
        probs = world.prior(deter[0]).exp()
    frequency = rollout.features[:, 0, :12].mean(0).reshape(3, 4)
    torch.testing.assert_close(frequency, probs, atol=0.035, rtol=0)
    assert probs.max() < 0.9
    assert probs.std() > 0.05


def test_log_probabilities_are_those_of_the_policy_that_acted(
    tiny_world: Callable[..., WorldModel],
    tiny_policy: Callable[..., ActorCritic],
    frames: Callable[..., Batch],
) -> None:
    policy = tiny_policy()
    rollout = imagine(tiny_world(), policy, frames(), 4, g())
    with torch.no_grad():
        log_probs = policy.policy(rollout.features[:, :-1]).log_probs
    picked = log_probs.gather(-1, rollout.action.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(rollout.log_prob, picked)


def test_a_dream_follows_from_its_generator(
    tiny_world: Callable[..., WorldModel],
    tiny_policy: Callable[..., ActorCritic],
    frames: Callable[..., Batch],
) -> None:
    world, policy, context = tiny_world(), tiny_policy(), frames(16)
    first = imagine(world, policy, context, 5, g(3))
    torch.rand(5)
    again = imagine(world, policy, context, 5, g(3))
    pairs = [(a, b) for a, b in zip(first, again, strict=True) if a is not None]
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(first.features, imagine(world, policy, context, 5, g(4)).features)


def test_bfloat16_dreams_keep_exact_latents(
    tiny_world: Callable[..., WorldModel],
    tiny_policy: Callable[..., ActorCritic],
    frames: Callable[..., Batch],
) -> None:
    is_first = torch.zeros(16, 5, dtype=torch.bool)
    is_first[::2, -1] = True
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rollout = imagine(tiny_world(), tiny_policy(), frames(16, is_first=is_first), 8, g())
    assert rollout.features.dtype == torch.float32
    assert rollout.features[..., :12].unique().tolist() == [0.0, 1.0]
    assert rollout.reward.dtype == rollout.termination.dtype == torch.float32
    assert all(torch.isfinite(t).all() for t in rollout if t is not None)


class Greedy:
    """A policy without luck: the most probable action. Counts the rows it was shown."""

    def __init__(self, policy: ActorCritic) -> None:
        self.policy, self.rows = policy, []

    def act(
        self, features: Tensor, generator: torch.Generator | None, greedy: bool = False
    ) -> tuple[Tensor, Tensor]:
        self.rows.append(len(features))
        return self.policy.act(features, generator, greedy=True)


@pytest.mark.parametrize("dynamics", ["mamba2", "mamba1", "gru", "transformer"])
@pytest.mark.parametrize("at_starts", [False, True])
@pytest.mark.parametrize("size", [1, 3, 7])
def test_a_dream_in_pieces_is_the_dream_as_a_whole(
    tiny_world: Callable[..., WorldModel],
    tiny_policy: Callable[..., ActorCritic],
    frames: Callable[..., Batch],
    monkeypatch: pytest.MonkeyPatch,
    dynamics: str,
    at_starts: bool,
    size: int,
) -> None:
    world = tiny_world(dynamics)

    def mode(log_probs: Tensor, generator: torch.Generator | None) -> Tensor:
        return torch.nn.functional.one_hot(log_probs.argmax(-1), 4).flatten(-2).float()

    monkeypatch.setattr(world, "sample", mode)  # other pieces would be given other draws
    is_first = torch.zeros(7, 5, dtype=torch.bool)
    is_first[1, 2] = True
    is_first[3, 4] = is_first[6, 4] = at_starts
    context = frames(7, is_first=is_first)

    def dream(piece: int) -> tuple[Any, list[int]]:
        monkeypatch.setattr(imagination, "CPU_BATCH", piece)
        policy = Greedy(tiny_policy())
        return imagine(world, policy, context, 6, None), policy.rows

    whole, rows = dream(100)
    assert rows == [7] * 6
    pieces, rows = dream(size)
    assert rows == {1: [1] * 42, 3: [3] * 12 + [1] * 6, 7: [7] * 6}[size]
    assert whole.action.unique().numel() > 1
    assert (whole.features[3, 0, 12:] == 0).all() == at_starts
    for name, column in whole._asdict().items():
        torch.testing.assert_close(getattr(pieces, name), column, msg=name)


def test_pieces_share_the_frames_that_they_have_in_common(
    tiny_world: Callable[..., WorldModel],
    tiny_policy: Callable[..., ActorCritic],
    frames: Callable[..., Batch],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world, rows = tiny_world(), frames(1, 8)
    index = torch.arange(5) + torch.tensor([[0], [1], [2], [3], [1], [2]])
    context = Batch(*(t if t is None else t[0][index] for t in rows))._replace(slot=index)
    encoded = []
    world.encoder.register_forward_pre_hook(lambda _, inputs: encoded.append(inputs[0].shape[0]))
    monkeypatch.setattr(imagination, "CPU_BATCH", 2)
    imagine(world, tiny_policy(), context, 2, g())
    assert sum(encoded) == 8


@pytest.mark.parametrize("dynamics", ["mamba2", "mamba1"])
def test_every_step_of_a_dream_uses_the_memory_of_the_last_state(
    tiny_world: Callable[..., WorldModel],
    tiny_policy: Callable[..., ActorCritic],
    frames: Callable[..., Batch],
    monkeypatch: pytest.MonkeyPatch,
    dynamics: str,
) -> None:
    world = tiny_world(dynamics)
    memory = {"mamba2": "inputs", "mamba1": "ssm"}[dynamics]
    places: list[list[int]] = []
    step = world.step

    def watched(*arguments: Any, **options: Any) -> Any:
        deter, state = step(*arguments, **options)
        places.append([getattr(layer, memory).data_ptr() for layer in state.layers])
        return deter, state

    monkeypatch.setattr(world, "step", watched)
    imagine(world, tiny_policy(), frames(4), 6, g())
    assert places == [places[0]] * 6


def test_carried_state_does_not_grow(
    tiny_world: Callable[..., WorldModel], frames: Callable[..., Batch]
) -> None:
    for dynamics in ("mamba2", "mamba1", "gru", "transformer"):
        world = tiny_world(dynamics)
        sizes = set()
        for length in (1, 5, 40):
            shapes: list[torch.Size] = []
            with torch.no_grad():
                state = world.observe(frames(length=length), g()).state

            def note(tensor: Tensor, into: list[torch.Size] = shapes) -> Tensor:
                into.append(tensor.shape)
                return tensor

            map_state(note, state)
            sizes.add(tuple(shapes))
        assert len(sizes) == 1, dynamics


def test_policy_features_put_the_latent_first() -> None:
    joined = policy_features(torch.ones(2, 3), torch.zeros(2, 2))
    assert joined.tolist() == [[1, 1, 1, 0, 0]] * 2
