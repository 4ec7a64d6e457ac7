"""Standardised input of actor and critic: numbers by hand, and what may move the moments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.behaviour.build import randomise_heads
from tests.training.faulty_envs import Walk, env_id
from torch import Tensor

from drama.actions import ActionSpace
from drama.behaviour import Behaviour, Player, make_behaviour
from drama.config import BehaviourConfig, PPOConfig
from drama.ops.standardise import DECAY, EPS, RunningStandardise
from drama.types import Batch, Rollout
from drama.world_model import WorldModel

WALK = env_id(Walk)
FEATURES = 6
RECOMPUTED = PPOConfig(epochs=3, minibatches=1, recompute_advantages=True)
KINDS: list[dict[str, Any]] = [
    {"algorithm": "actor-critic"},
    {"algorithm": "ppo", "ppo": RECOMPUTED},
    {"algorithm": "ppo", "ppo": PPOConfig(epochs=2, minibatches=2)},
]


def build(**changes: Any) -> Behaviour:
    torch.manual_seed(1)
    config = BehaviourConfig(actor_units=8, critic_units=8, bins=21, bin_limit=5.0, **changes)
    model = make_behaviour(config, FEATURES, ActionSpace(3)).eval()
    randomise_heads(model)
    return model


def dream(model: Behaviour, seed: int = 0) -> Rollout:
    """Features of several means and widths, actions sampled from the model's policy."""
    g = torch.Generator().manual_seed(seed)
    features = torch.randn(6, 6, FEATURES, generator=g) * torch.tensor([0.1, 1, 2, 3, 4, 5]) + 2
    with torch.no_grad():
        action, log_prob = model.act(features[:, :-1], g)
    end = torch.rand(6, 5, generator=g) / 5
    return Rollout(features, action, log_prob, torch.randn(6, 5, generator=g), end)


def moments(model: Behaviour) -> dict[str, Tensor]:
    return {k: t.clone() for k, t in model.state_dict().items() if k.startswith("standardise.")}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(t, b[k]) for k, t in a.items())


def test_moments_by_hand() -> None:
    scale = RunningStandardise(2)
    x = torch.tensor([[1.0, 4.0], [3.0, 4.0]])
    torch.testing.assert_close(scale(x), x, rtol=1e-5, atol=0)  # nothing known yet
    scale.update(x)  # mean 2 and 4, variance 1 and 0
    torch.testing.assert_close(scale.mean, torch.tensor([2.0, 4.0]))
    torch.testing.assert_close(scale.variance, torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(scale(x)[:, 0], torch.tensor([-1.0, 1.0]) / (1 + EPS) ** 0.5)
    assert scale(x)[:, 1].tolist() == [0.0, 0.0]
    scale.update(torch.tensor([[[12.0, 0.0]], [[22.0, 0.0]]]))  # mean 17 and 0, variance 25 and 0
    assert DECAY == 0.99
    torch.testing.assert_close(scale.mean, torch.tensor([0.99 * 2 + 0.17, 0.99 * 4]))
    torch.testing.assert_close(scale.variance, torch.tensor([0.99 + 0.25, 0.0]))


def test_what_is_far_from_the_mean_is_clipped() -> None:
    scale = RunningStandardise(1)
    scale.update(torch.tensor([[-1.0], [1.0]]))
    assert scale(torch.tensor([[9.0], [11.0], [-1e9]]))[:, 0].tolist() == pytest.approx(
        [9.0, 10.0, -10.0], rel=1e-4
    )


def test_the_latent_is_no_longer_a_small_part_of_the_input() -> None:
    # 32 ones among 1024 latent entries beside a state of 512 numbers of size 1.
    g = torch.Generator().manual_seed(0)
    classes = torch.randint(0, 32, (4096, 32), generator=g)
    latent = torch.nn.functional.one_hot(classes, 32).flatten(1).float()
    x = torch.cat([latent, torch.randn(4096, 512, generator=g)], -1)
    scale = RunningStandardise(1536)
    scale.update(x)
    shares = [v[:, :1024].square().sum() / v.square().sum() for v in (x, scale(x))]
    assert shares[0].item() == pytest.approx(32 / 544, rel=0.01)
    assert shares[1].item() == pytest.approx(1024 / 1536, rel=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_networks_read_the_standardised_input_everywhere(kind: dict[str, Any]) -> None:
    # The same weights without the switch, given features that were standardised before.
    model, plain = build(**kind, standardise_input=True), build(**kind)
    rollout = dream(plain)
    assert model.standardise is not None
    model.standardise.update(rollout.features)
    plain.load_state_dict({k: t for k, t in model.state_dict().items() if "standardise" not in k})
    given = rollout._replace(features=model.standardise(rollout.features))
    one = torch.ones(6, 6)
    for function in (lambda m, x: m.policy(x).log_probs, lambda m, x: m.value(x)):
        ours = function(model, rollout.features)
        torch.testing.assert_close(ours, function(plain, given.features))
        assert not torch.allclose(ours, function(plain, rollout.features))
    ours = model.one_step_return(rollout.features, one, 0 * one)
    torch.testing.assert_close(ours, plain.one_step_return(given.features, one, 0 * one))
    g = [torch.Generator().manual_seed(0) for _ in range(2)]
    steps = zip(model.batches(rollout, g[0]), plain.batches(given, g[1]), strict=True)
    for batch, other in steps:
        for m, b in ((model, batch), (plain, other)):
            m.zero_grad()
            m.loss(b)[0].backward()
        for (name, p), (_, q) in zip(
            [(n, p) for n, p in model.named_parameters() if p.requires_grad],
            [(n, p) for n, p in plain.named_parameters() if p.requires_grad],
            strict=True,
        ):
            torch.testing.assert_close(p.grad, q.grad, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_moments_move_once_after_the_last_step_of_a_rollout(kind: dict[str, Any]) -> None:
    model = build(**kind, standardise_input=True).train()
    before = moments(model)
    assert before
    rollout = dream(model)
    for batch in model.batches(rollout, torch.Generator().manual_seed(0)):
        model.loss(batch)
        model.after_step()
        assert equal(moments(model), before)
    flat = rollout.features.flatten(0, 1)
    torch.testing.assert_close(moments(model)["standardise.mean"], flat.mean(0))
    torch.testing.assert_close(moments(model)["standardise.variance"], flat.var(0, correction=0))
    # Not in evaluation mode, and not by anything else.
    before = moments(model.eval())
    for batch in model.batches(dream(model, seed=1), torch.Generator().manual_seed(0)):
        model.loss(batch)
    model.act(rollout.features, None)
    model.value(rollout.features)
    model.one_step_return(rollout.features, torch.ones(6, 6), torch.zeros(6, 6))
    assert equal(moments(model), before)


def test_acting_with_lookahead_moves_nothing(
    tiny_world: Callable[..., WorldModel],
    tiny_policy: Callable[..., Behaviour],
    frames: Callable[..., Batch],
) -> None:
    policy, world = tiny_policy(standardise_input=True), tiny_world()
    before = moments(policy)
    player = Player(world, policy, BehaviourConfig(lookahead=2))
    first = torch.ones(3, dtype=torch.bool)
    player.act(frames().obs[:, 0], player.init_state(3), first, torch.Generator().manual_seed(0))
    assert before
    assert equal(moments(policy), before)


def test_without_the_switch_a_checkpoint_is_what_it_was() -> None:
    assert not moments(build())
    assert build().standardise is None
