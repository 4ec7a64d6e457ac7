"""Gradients of actor and critic against numbers worked out by hand, and what must not move."""

# One file: the tests share one rollout and the gradients of its loss.

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from drama.actions import ActionSpace
from drama.behaviour import ActorCritic
from drama.config import BehaviourConfig
from drama.types import Rollout


def dream(batch: int = 6, horizon: int = 5, features: int = 28, seed: int = 0) -> Rollout:
    g = torch.Generator().manual_seed(seed)
    size = (batch, horizon)
    return Rollout(
        features=torch.randn(batch, horizon + 1, features, generator=g),
        action=torch.randint(0, 3, size, generator=g),
        log_prob=torch.zeros(size),
        reward=torch.randn(size, generator=g),
        termination=torch.zeros(size),
    )


def gradients(model: ActorCritic, rollout: Rollout) -> dict[str, Tensor]:
    model.zero_grad()
    model.loss(rollout)[0].backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def state(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: t.clone() for name, t in model.state_dict().items()}


@pytest.fixture
def build(tiny_policy: Callable[..., ActorCritic]) -> Callable[..., ActorCritic]:
    return tiny_policy


def test_sizes_of_the_paper() -> None:
    model = ActorCritic(BehaviourConfig(), 1024 + 512, ActionSpace(6))
    actor = [m.out_features for m in model.actor.modules() if isinstance(m, torch.nn.Linear)]
    critic = [m.out_features for m in model.critic.modules() if isinstance(m, torch.nn.Linear)]
    assert actor == [256, 256, 6]
    assert critic == [512, 512, 255]
    config = model.config
    assert (config.gamma, config.lambda_, config.entropy) == (0.985, 0.95, 3e-4)
    assert (config.return_decay, config.slow_decay) == (0.99, 0.98)
    assert (config.batch_size, config.context, config.horizon) == (1024, 8, 16)
    assert (config.optim.lr, config.optim.grad_clip, config.optim.warmup) == (4e-5, 100.0, 1000)


def test_a_new_policy_is_uniform_and_a_new_critic_says_zero(
    build: Callable[..., ActorCritic],
) -> None:
    model = build(zero_heads=True)
    features = dream().features
    torch.testing.assert_close(model.policy(features).log_probs.exp(), torch.full((6, 6, 3), 1 / 3))
    assert model.value(features).abs().max() < 1e-6


@pytest.mark.parametrize("decode", ["symexp-mean", "mean-symexp"])
def test_every_value_is_decoded_as_configured(
    build: Callable[..., ActorCritic], decode: Any
) -> None:
    # Bins are 0.5 apart in symlog space: odds of 0.9 and 0.1 for bins 10 (0) and 20 (symlog 5).
    model = build(zero_heads=True, twohot_decode=decode, gamma=0.5, lambda_=0.0)
    odds = torch.full((21,), -100.0)
    odds[10], odds[20] = math.log(0.9), math.log(0.1)
    model.critic.out.bias.data = model.slow_critic.out.bias.data = odds
    v = math.expm1(0.5) if decode == "symexp-mean" else 0.1 * math.expm1(5.0)
    rollout = dream()
    torch.testing.assert_close(model.value(rollout.features), torch.full((6, 6), v))
    ahead = model.one_step_return(rollout.features[:, 1:], rollout.reward, rollout.termination)
    torch.testing.assert_close(ahead, rollout.reward + 0.5 * v)
    metrics = model.loss(rollout)[1]
    assert metrics["value"].item() == pytest.approx(v, rel=1e-5)
    assert metrics["return"].item() == pytest.approx(rollout.reward.mean().item() + 0.5 * v)


def test_no_gradient_flows_through_decoding(
    build: Callable[..., ActorCritic], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, recorded = build(), []
    decode = model.twohot.decode
    monkeypatch.setattr(
        model.twohot, "decode", lambda x: recorded.append(torch.is_grad_enabled()) or decode(x)
    )
    model.loss(dream())
    assert recorded == [False, False]


def test_actor_gradient_by_hand(build: Callable[..., ActorCritic]) -> None:
    # Uniform policy, value 0, gamma 0, scale 1: the advantage of an action is its reward, and
    # d loss / d logits = -reward (onehot - 1/3), averaged over batch and time.
    model = build(zero_heads=True, gamma=0.0)
    rollout = dream()
    onehot = torch.nn.functional.one_hot(rollout.action, 3).float()
    expected = -(rollout.reward.unsqueeze(-1) * (onehot - 1 / 3)).mean(dim=(0, 1))
    torch.testing.assert_close(gradients(model, rollout)["actor.out.bias"], expected)


def test_the_advantage_is_the_return_less_the_value_acted_from(
    build: Callable[..., ActorCritic],
) -> None:
    # The critic's only input that matters is a constant: V = v everywhere. One-step returns are
    # r + 0.5 v, so the advantage is r - 0.5 v.
    model = build(zero_heads=True, gamma=0.5, lambda_=0.0)
    model.critic.out.bias.data[14] = 50.0  # bins are 0.5 apart, the centre is 10: symlog 2
    v = math.expm1(2.0)
    rollout = dream()
    advantage = rollout.reward - 0.5 * v
    onehot = torch.nn.functional.one_hot(rollout.action, 3).float()
    expected = -(advantage.unsqueeze(-1) * (onehot - 1 / 3)).mean(dim=(0, 1))
    found = gradients(model, rollout)["actor.out.bias"]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_gradient_of_all_actions_by_hand(build: Callable[..., ActorCritic]) -> None:
    # Uniform policy: d loss / d logits = -(Q - mean Q) / 3 / scale. The actions that the dream
    # took, their returns, and what all actions have in common do not enter.
    model = build(zero_heads=True, gamma=0.0, entropy=0.0, min_return_scale=0.5)
    model.eval()
    model.return_scale.high.fill_(4.0)
    promised = torch.randn(6, 5, 3, generator=torch.Generator().manual_seed(1))
    rollout = dream()._replace(q_values=promised)
    expected = -((promised - promised.mean(-1, keepdim=True)) / 3 / 4).mean(dim=(0, 1))
    for common in (0.0, 100.0):
        found = gradients(model, rollout._replace(q_values=promised + common))
        torch.testing.assert_close(found["actor.out.bias"], expected, rtol=1e-3, atol=1e-5)
    sampled = gradients(model, rollout._replace(q_values=None))
    torch.testing.assert_close(found["critic.out.bias"], sampled["critic.out.bias"])
    assert not torch.allclose(sampled["actor.out.bias"], expected, atol=1e-3)


def test_nothing_promised_beyond_an_end_is_learnt_from(build: Callable[..., ActorCritic]) -> None:
    model = build(zero_heads=True, gamma=0.0, entropy=0.0).eval()
    promised = torch.randn(6, 5, 3, generator=torch.Generator().manual_seed(1))
    ends = torch.zeros(6, 5)
    ends[:, 1] = 1.0
    rollout = dream()._replace(q_values=promised, termination=ends)
    centred = (promised - promised.mean(-1, keepdim=True)) / 3
    expected = -centred[:, :2].sum(dim=(0, 1)) / 30
    found = gradients(model, rollout)["actor.out.bias"]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_an_improved_policy_by_hand(build: Callable[..., ActorCritic]) -> None:
    model = build(entropy=0.01, min_return_scale=0.5)
    model.return_scale.high.fill_(2.0)
    log_probs = torch.tensor([0.5, 0.3, 0.2]).log()
    promised = torch.tensor([7.0, 7.02, 6.98])  # in units of 0.01 * 2: 0, 1 and -1
    weights = torch.tensor([0.5, 0.3 * math.e, 0.2 / math.e])
    improved = model.improved_log_probs(log_probs, promised)
    torch.testing.assert_close(improved.exp(), weights / weights.sum(), rtol=1e-3, atol=1e-4)
    # Without a bonus the best is taken, and only among equals does the policy decide.
    free = build(entropy=0.0)
    best = free.improved_log_probs(log_probs, torch.tensor([0.0, 1e-3, -1.0])).exp()
    torch.testing.assert_close(best, torch.tensor([0.0, 1.0, 0.0]))
    torch.testing.assert_close(free.improved_log_probs(log_probs, torch.ones(3)), log_probs)


def test_critic_gradient_by_hand(build: Callable[..., ActorCritic]) -> None:
    # gamma 0: the target is the reward, here e - 1 (symlog 1: bin 12 of 21, 0.5 apart). The slow
    # copy gives the same target, so the two regressions add up: 2 (softmax - code).
    model = build(zero_heads=True, gamma=0.0)
    rollout = dream()._replace(reward=torch.full((6, 5), math.e - 1))
    code = torch.nn.functional.one_hot(torch.tensor(12), 21).float()
    found = gradients(model, rollout)["critic.out.bias"]
    torch.testing.assert_close(found, 2 * (1 / 21 - code), rtol=1e-4, atol=1e-5)


def test_the_critic_is_held_near_the_returns_of_its_slow_copy(
    build: Callable[..., ActorCritic],
) -> None:
    # Reward 0, lambda 0, gamma 1: the critic's own target is symlog 0 (it says 0), its slow
    # copy's is what that copy says of the next state, symlog 2 (bin 14).
    model = build(zero_heads=True, gamma=1.0, lambda_=0.0)
    model.slow_critic.out.bias.data[14] = 50.0
    rollout = dream()._replace(reward=torch.zeros(6, 5))
    code = torch.zeros(21)
    code[10] = code[14] = 1.0
    found = gradients(model, rollout)["critic.out.bias"]
    torch.testing.assert_close(found, 2 / 21 - code, rtol=1e-4, atol=1e-5)


def test_rewarded_actions_become_likelier(build: Callable[..., ActorCritic]) -> None:
    model = build(gamma=0.0, entropy=0.0)
    rollout = dream(batch=64)
    rollout = rollout._replace(reward=(rollout.action == 1).float())
    before = model.policy(rollout.features).log_probs[..., 1].mean()
    optimiser = torch.optim.SGD(model.actor.parameters(), lr=0.5)
    for _ in range(5):
        optimiser.zero_grad()
        model.loss(rollout)[0].backward()
        optimiser.step()
    assert model.policy(rollout.features).log_probs[..., 1].mean() > before + 0.1


def test_without_an_advantage_entropy_grows(build: Callable[..., ActorCritic]) -> None:
    model = build(gamma=0.0, entropy=1.0)
    model.critic.out.weight.data.zero_()
    model.critic.out.bias.data.zero_()
    rollout = dream()._replace(reward=torch.zeros(6, 5))
    found = gradients(model, rollout)

    log_probs = model.policy(rollout.features[:, :-1]).log_probs
    entropy = -(log_probs.exp() * log_probs).sum(-1).mean()
    expected = torch.autograd.grad(-entropy, model.actor.out.bias)[0]
    torch.testing.assert_close(found["actor.out.bias"], expected, atol=1e-6, rtol=1e-4)
    assert expected.abs().max() > 1e-3


def test_advantages_are_divided_by_the_scale_of_returns(build: Callable[..., ActorCritic]) -> None:
    model = build(gamma=0.0, entropy=0.0)
    rollout = dream()
    plain = gradients(model, rollout)
    model.return_scale.update(torch.linspace(0, 10 / 0.9, 101))  # 5th to 95th percentile: 10
    scaled = gradients(model, rollout)
    torch.testing.assert_close(scaled["actor.out.bias"], plain["actor.out.bias"] / 10)
    torch.testing.assert_close(scaled["critic.out.bias"], plain["critic.out.bias"])


def test_nothing_after_a_certain_end_is_learnt_from(build: Callable[..., ActorCritic]) -> None:
    model = build(entropy=0.1)
    rollout = dream(horizon=6)
    termination = torch.zeros(6, 6)
    termination[:, 2] = 1.0
    rollout = rollout._replace(termination=termination)
    other = dream(horizon=6, seed=1)
    features, action = rollout.features.clone(), rollout.action.clone()
    reward, later = rollout.reward.clone(), termination.clone()
    # s_3 is the state after the end: neither it nor anything done in it may matter.
    features[:, 3:], action[:, 3:] = other.features[:, 3:], other.action[:, 3:]
    reward[:, 3:], later[:, 3:] = 1e3 * other.reward[:, 3:], 0.5
    changed = Rollout(features, action, rollout.log_prob, reward, later)
    before, after = gradients(model, rollout), gradients(model, changed)
    for name, gradient in before.items():
        torch.testing.assert_close(after[name], gradient, msg=name)
    reward[:, 2] += 1.0  # the ending action itself still counts
    assert not torch.equal(gradients(model, changed)["actor.out.bias"], before["actor.out.bias"])


def test_a_likely_end_weighs_what_follows(build: Callable[..., ActorCritic]) -> None:
    # gamma 0, one action rewarded, at step 1: its gradient is weighted by 1 - e_0 = 1/4.
    model = build(zero_heads=True, gamma=0.0)
    reward, termination = torch.zeros(6, 5), torch.zeros(6, 5)
    reward[:, 1] = 1.0
    rollout = dream()._replace(reward=reward)
    sure = gradients(model, rollout)["actor.out.bias"]
    termination[:, 0] = 0.75
    unsure = gradients(model, rollout._replace(termination=termination))["actor.out.bias"]
    torch.testing.assert_close(unsure, sure / 4)


def test_slow_critic_is_an_exact_running_mean(build: Callable[..., ActorCritic]) -> None:
    model = build(slow_decay=0.75)
    slow = [p.clone() for p in model.slow_critic.parameters()]
    for p in model.critic.parameters():
        p.data += torch.randn(p.shape, generator=torch.Generator().manual_seed(0))
    fast = [p.clone() for p in model.critic.parameters()]
    model.update_slow_critic()
    for now, s, f in zip(model.slow_critic.parameters(), slow, fast, strict=True):
        torch.testing.assert_close(now, 0.75 * s + 0.25 * f)
    for now, f in zip(model.critic.parameters(), fast, strict=True):
        assert torch.equal(now, f)


def test_slow_critic_starts_as_a_copy_and_has_no_gradient(
    build: Callable[..., ActorCritic],
) -> None:
    model = build()
    pairs = list(zip(model.slow_critic.parameters(), model.critic.parameters(), strict=True))
    assert pairs
    assert all(torch.equal(s, f) and s.data_ptr() != f.data_ptr() for s, f in pairs)
    found = gradients(model.train(), dream())
    assert not any(name.startswith("slow_critic") for name in found)
    assert {name.split(".")[0] for name in found} == {"actor", "critic"}
    assert not any(p.requires_grad for p in model.slow_critic.parameters())


def test_no_gradient_flows_through_the_targets(build: Callable[..., ActorCritic]) -> None:
    # Were the return's value part of the graph, the critic would be pulled at s_H as well, which
    # no regression touches.
    model = build(gamma=1.0)
    rollout = dream()
    features = rollout.features.clone().requires_grad_()
    model.loss(rollout._replace(features=features))[0].backward()
    assert features.grad is not None
    assert features.grad[:, -1].abs().max() == 0
    assert features.grad[:, :-1].abs().max() > 0


def test_the_critic_does_not_learn_from_the_actors_loss(build: Callable[..., ActorCritic]) -> None:
    model = build(gamma=0.5)
    rollout = dream()
    found = gradients(model, rollout)["critic.out.bias"]
    model.return_scale.update(torch.linspace(0, 1e6, 101))  # silences the actor's advantage
    torch.testing.assert_close(gradients(model, rollout)["critic.out.bias"], found)


def test_only_training_moves_the_scale_of_returns(build: Callable[..., ActorCritic]) -> None:
    model = build()
    rollout = dream()
    before = state(model)
    model.loss(rollout)
    model.act(rollout.features, None)
    model.value(rollout.features)
    assert all(torch.equal(v, before[k]) for k, v in state(model).items())
    model.train().loss(rollout)
    moved = {k for k, v in state(model).items() if not torch.equal(v, before[k])}
    assert moved == {"return_scale.low", "return_scale.high", "return_scale.started"}


def test_everything_that_runs_is_saved(build: Callable[..., ActorCritic]) -> None:
    model, other = build().train(), build().train()
    for seed in range(3):
        model.loss(dream(seed=seed))
        model.critic.out.bias.data += 0.1
        model.update_slow_critic()
    other.load_state_dict(model.state_dict())
    rollout = dream(seed=9)
    for name, value in model.loss(rollout)[1].items():
        torch.testing.assert_close(other.loss(rollout)[1][name], value, msg=name, rtol=0.05, atol=0)
    assert {"slow_critic.out.bias", "return_scale.low"} <= model.state_dict().keys()


def test_acting_draws_from_the_policy(build: Callable[..., ActorCritic]) -> None:
    model = build()
    features = torch.randn(28, generator=torch.Generator().manual_seed(0)).expand(6000, 28)
    probs = model.policy(features[0]).log_probs.exp().detach()
    action, log_prob = model.act(features, torch.Generator().manual_seed(0))
    counts = torch.bincount(action, minlength=3)
    assert ((counts - 6000 * probs).square() / (6000 * probs)).sum() < 13.8  # 99.9 %, 2 d.o.f.
    torch.testing.assert_close(log_prob, probs[action].log())
    greedy, log_prob = model.act(features, None, greedy=True)
    assert (greedy == probs.argmax()).all()
    torch.testing.assert_close(log_prob, probs.max().log().expand(6000))


def test_bfloat16_work_keeps_losses_float32(build: Callable[..., ActorCritic]) -> None:
    model = build().train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, metrics = model.loss(dream())
    assert loss.dtype == torch.float32
    assert all(v.dtype == torch.float32 and not v.requires_grad for v in metrics.values())
    loss.backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in trained)
