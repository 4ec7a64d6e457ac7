"""PPO with fixed advantages: numbers by hand, slow plain versions, Stable-Baselines3's own code."""

# One file: the tests share the minibatch and the objective computed by hand.

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from tests.behaviour.build import randomise_heads
from torch import Tensor

from drama.actions import ActionSpace
from drama.behaviour import MinibatchPPO, make_behaviour
from drama.behaviour.ppo import Minibatch, weighted_moments
from drama.config import BehaviourConfig, OptimConfig, PPOConfig
from drama.errors import ConfigError
from drama.training.optim import Optimiser
from drama.types import Rollout

FEATURES, ACTIONS = 5, 3


def build(
    ppo: PPOConfig | None = None, *, seed: int = 1, zero_heads: bool = False, **changes: Any
) -> MinibatchPPO:
    """A tiny PPO whose policy is not uniform, unless ``zero_heads`` is true."""
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {
        "actor_units": 8,
        "critic_units": 8,
        "bins": 21,
        "bin_limit": 5.0,
        "entropy": 0.0,
        "gamma": 0.9,
        "lambda_": 0.8,
    }
    config = BehaviourConfig(algorithm="ppo", ppo=ppo or PPOConfig(), **{**sizes, **changes})
    model = make_behaviour(config, FEATURES, ActionSpace(ACTIONS)).eval()
    assert isinstance(model, MinibatchPPO)
    if not zero_heads:
        randomise_heads(model)
    model.actor.out.weight.data *= 3
    return model


def dream(model: MinibatchPPO, batch: int = 6, horizon: int = 5, seed: int = 0) -> Rollout:
    """Random features and outcomes, actions sampled from the policy."""
    g = torch.Generator().manual_seed(seed)
    features = torch.randn(batch, horizon + 1, FEATURES, generator=g)
    with torch.no_grad():
        action, log_prob = model.act(features[:, :-1], g)
    size = (batch, horizon)
    return Rollout(
        features, action, log_prob, torch.randn(size, generator=g), torch.rand(size, generator=g)
    )


def whole(model: MinibatchPPO, rollout: Rollout) -> Minibatch:
    """All of a rollout, in its order."""
    return model._prepare(rollout)


def by_hand(
    log_probs: list[float], action: int, old: float, advantage: float, weight: float = 1.0
) -> tuple[MinibatchPPO, Minibatch]:
    """One imagined action of a policy whose log-probabilities are given."""
    model = build(bins=3)
    for part in (model.actor, model.critic):
        part.out.weight.data.zero_()
    model.actor.out.bias.data = torch.tensor(log_probs)
    model.critic.out.bias.data.zero_()
    one = torch.ones(1)
    batch = Minibatch(
        torch.zeros(1, FEATURES),
        torch.tensor([action]),
        one * old,
        one * advantage,
        0 * one,
        one * weight,
        {},
    )
    return model, batch


def logits_gradient(model: MinibatchPPO, batch: Minibatch) -> list[float]:
    """Gradient of the loss with respect to the actor's logits."""
    model.zero_grad()
    model.loss(batch)[0].backward()
    gradient = model.actor.out.bias.grad
    assert gradient is not None
    return list(gradient.tolist())


# ------------------------------------------------------------------------ the clipped objective

QUARTERS = [math.log(0.5), math.log(0.25), math.log(0.25)]


@pytest.mark.parametrize(
    ("old", "advantage", "objective", "slope"),
    [
        # The first action has probability 0.5 now. The slope is that of the objective in the
        # ratio: the advantage, or nothing where the clip holds.
        (0.5, 2.0, 2.0, 2.0),  # ratio 1
        (0.5, -2.0, -2.0, -2.0),
        (0.45, 2.0, 0.5 / 0.45 * 2.0, 2.0),  # ratio 1.11, within
        (0.4, 2.0, 1.2 * 2.0, 0.0),  # ratio 1.25, gained enough
        (0.4, -2.0, -2.0 * 1.25, -2.0),  # the wrong way: pulled back, however far
        (0.8, -2.0, -2.0 * 0.8, 0.0),  # ratio 0.625, lost enough
        (0.8, 2.0, 2.0 * 0.625, 2.0),  # the wrong way
    ],
)
def test_clipped_objective_by_hand(
    old: float, advantage: float, objective: float, slope: float
) -> None:
    model, batch = by_hand(QUARTERS, 0, math.log(old), advantage)
    _, metrics = model.loss(batch)
    assert metrics["actor"].item() == pytest.approx(-objective, rel=1e-5)
    # d ratio / d logit_j = ratio (1[j = a] - p_j)
    ratio = 0.5 / old
    expected = [-slope * ratio * (float(j == 0) - p) for j, p in enumerate([0.5, 0.25, 0.25])]
    assert logits_gradient(model, batch) == pytest.approx(expected, abs=1e-6)
    assert metrics["approx_kl"].item() == pytest.approx(ratio - 1 - math.log(ratio), abs=1e-6)
    assert metrics["clip_fraction"].item() == float(abs(ratio - 1) > 0.2)


def test_the_clip_is_the_configured_one() -> None:
    model, batch = by_hand(QUARTERS, 0, math.log(0.4), 2.0)
    wide = build(PPOConfig(clip=0.3), bins=3)
    wide.load_state_dict(model.state_dict())
    assert logits_gradient(model, batch) == [0.0, 0.0, 0.0]
    assert logits_gradient(wide, batch)[0] == pytest.approx(-2.0 * 1.25 * 0.5, rel=1e-5)
    assert wide.loss(batch)[1]["clip_fraction"].item() == 0.0


def test_entropy_bonus_by_hand() -> None:
    model, batch = by_hand(QUARTERS, 0, math.log(0.5), 0.0)
    entropy = 0.5 * math.log(2) + 0.5 * math.log(4)
    model.config = BehaviourConfig(algorithm="ppo", entropy=0.1)
    assert model.loss(batch)[1]["entropy"].item() == pytest.approx(entropy, rel=1e-5)
    assert model.loss(batch)[1]["actor"].item() == pytest.approx(-0.1 * entropy, rel=1e-5)
    # d entropy / d logit_j = -p_j (log p_j + entropy)
    expected = [0.1 * math.exp(lp) * (lp + entropy) for lp in QUARTERS]
    assert logits_gradient(model, batch) == pytest.approx(expected, abs=1e-6)


def test_the_critic_learns_the_lambda_return() -> None:
    model = build()
    rollout = dream(model)
    batch = whole(model, rollout)
    model.loss(batch)[0].backward()
    expected = {n: p.grad.clone() for n, p in model.critic.named_parameters() if p.grad is not None}
    model.zero_grad()
    logits = model.critic(rollout.features[:, :-1])
    weight = batch.weight.reshape(6, 5)
    target = batch.target.reshape(6, 5)
    (weight * model.twohot.loss(logits, target)).mean().backward()
    for name, p in model.critic.named_parameters():
        torch.testing.assert_close(p.grad, expected[name])


def test_actor_and_critic_do_not_touch_each_other() -> None:
    model = build()
    batch = whole(model, dream(model))
    for other in (batch._replace(target=batch.target + 1), batch._replace(advantage=-batch[3])):
        found = []
        for b in (batch, other):
            model.zero_grad()
            model.loss(b)[0].backward()
            found.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
        moved = "critic" if other.target is not batch.target else "actor"
        for name, gradient in found[0].items():
            assert torch.equal(gradient, found[1][name]) == (not name.startswith(moved)), name


# ----------------------------------------------------------------- before the first step: ratio 1


def test_the_first_step_is_the_vanilla_policy_gradient() -> None:
    model = build(entropy=0.01)
    rollout = dream(model)
    batch = whole(model, rollout)
    _, metrics = model.loss(batch)
    assert metrics["approx_kl"].item() == pytest.approx(0.0, abs=1e-7)
    assert metrics["clip_fraction"].item() == 0.0
    model.loss(batch)[0].backward()
    found = {n: p.grad.clone() for n, p in model.actor.named_parameters() if p.grad is not None}
    model.zero_grad()
    log_probs = model.policy(rollout.features[:, :-1]).log_probs
    log_prob = log_probs.gather(-1, rollout.action.unsqueeze(-1)).squeeze(-1).flatten()
    entropy = -(log_probs.exp() * log_probs).sum(-1).flatten()
    (-(batch.weight * (batch.advantage * log_prob + 0.01 * entropy)).mean()).backward()
    for name, p in model.actor.named_parameters():
        torch.testing.assert_close(p.grad, found[name])


# ------------------------------------------------------------------------ advantages and weights


def slow_gae(rollout: Rollout, value: Tensor, gamma: float, lambda_: float) -> Tensor:
    """``sum_k (gamma lambda)^k delta_{t+k}``, each term discounted by the ends on its way."""
    batch, horizon = rollout.reward.shape
    advantage = torch.zeros(batch, horizon, dtype=torch.float64)
    for b in range(batch):
        for t in range(horizon):
            total, factor = 0.0, 1.0
            for k in range(t, horizon):
                go_on = 1.0 - float(rollout.termination[b, k])
                delta = (
                    float(rollout.reward[b, k])
                    + gamma * go_on * float(value[b, k + 1])
                    - float(value[b, k])
                )
                total += factor * delta
                factor *= gamma * lambda_ * go_on
            advantage[b, t] = total
    return advantage


def test_advantages_are_generalised_advantage_estimation() -> None:
    model = build()
    rollout = dream(model)
    with torch.no_grad():
        value = model.value(rollout.features)
    advantage = slow_gae(rollout, value, 0.9, 0.8)
    batch = whole(model, rollout)
    target = (advantage + value[:, :-1]).float().flatten()
    torch.testing.assert_close(batch.target, target, rtol=1e-4, atol=1e-5)

    weight = torch.ones(6, 5, dtype=torch.float64)
    for t in range(1, 5):
        weight[:, t] = weight[:, t - 1] * (1 - rollout.termination[:, t - 1])
    torch.testing.assert_close(batch.weight, weight.float().flatten())
    share = weight / weight.sum()
    centred = advantage - (share * advantage).sum()
    torch.testing.assert_close(batch.advantage, centred.float().flatten(), rtol=1e-3, atol=1e-4)


def test_advantages_are_centred_at_their_weighted_mean() -> None:
    model = build()
    rollout = dream(model, batch=50)
    rollout.reward[:, 3:] += 5.0  # where few weights are
    batch = whole(model, rollout)
    mean, _ = weighted_moments(batch.advantage, batch.weight)
    assert mean.item() == pytest.approx(0.0, abs=1e-5)
    # Not without the weights: it is they that count.
    assert batch.advantage.mean().item() > 0.1


def test_advantages_are_divided_by_the_running_range_of_returns_and_never_by_less_than_1() -> None:
    rollout = dream(build(), batch=50)
    for factor in (0.01, 30.0):
        scaled = rollout._replace(reward=factor * rollout.reward)
        model = build()
        # Nothing seen yet, and evaluation moves nothing.
        assert model.return_scale.scale().item() == 1.0
        centred = whole(model, scaled).advantage
        found = whole(model.train(), scaled)
        low, high = torch.quantile(found.target, torch.tensor([0.05, 0.95]))
        divisor = max(1.0, (high - low).item())
        torch.testing.assert_close(found.advantage, centred / divisor)
        assert (divisor == 1.0) == (factor == 0.01)
        assert found.metrics["advantage_scale"].item() == pytest.approx(divisor)


def test_a_dream_without_rewards_teaches_nothing() -> None:
    model = build(zero_heads=True).train()
    rollout = dream(model)
    batch = whole(model, rollout._replace(reward=torch.zeros(6, 5)))
    # The critic's zero is one of rounding: bins cancel.
    assert batch.advantage.abs().max().item() < 0.1
    _, metrics = model.loss(batch)
    assert all(math.isfinite(v.item()) for v in metrics.values())
    assert metrics["explained_variance"].item() == 0.0


def test_nothing_behind_an_end_is_learnt_from() -> None:
    model = build(entropy=0.01)
    rollout = dream(model)
    rollout.termination[:] = 0.0
    rollout.termination[:, 2] = 1.0
    batch = whole(model, rollout)
    assert batch.weight.reshape(6, 5).tolist() == [[1.0, 1.0, 1.0, 0.0, 0.0]] * 6
    other = rollout._replace(features=rollout.features.clone(), reward=rollout.reward.clone())
    other.features[:, 3:] = torch.randn(6, 3, FEATURES)
    other.reward[:, 3:] = 100.0
    gradients = []
    for r in (rollout, other):
        model.zero_grad()
        model.loss(whole(model, r))[0].backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_a_minibatch_behind_ends_alone_is_no_fault() -> None:
    model, batch = by_hand(QUARTERS, 0, math.log(0.4), 2.0, weight=0.0)
    loss, metrics = model.loss(batch)
    assert loss.item() == 0.0
    assert all(v.item() == 0.0 for v in metrics.values())


def test_explained_variance_by_hand() -> None:
    model = build()
    rollout = dream(model, batch=40)
    rollout.termination[:] = 0.0
    with torch.no_grad():
        value = model.value(rollout.features)[:, :-1].flatten()
    target = whole(model, rollout).target
    expected = 1 - (target - value).var() / target.var()
    found = whole(model, rollout).metrics["explained_variance"]
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)


# ----------------------------------------------------------------------- epochs and minibatches


@pytest.mark.parametrize("minibatches", [1, 4, 7])
def test_each_epoch_sees_each_action_once(minibatches: int) -> None:
    model = build(PPOConfig(epochs=3, minibatches=minibatches))
    rollout = dream(model)
    everything = whole(model, rollout)
    given = list(model.batches(rollout, torch.Generator().manual_seed(0)))
    assert len(given) == model.steps_per_update == 3 * minibatches
    sizes = {len(b.action) for b in given}
    assert max(sizes) - min(sizes) <= 1
    orders = []
    for epoch in range(3):
        part = given[epoch * minibatches : (epoch + 1) * minibatches]
        first = torch.cat([b.features for b in part])
        order = (first[:, None] == everything.features[None]).all(-1).int().argmax(-1)
        assert sorted(order.tolist()) == list(range(30))
        for *columns, expected in zip(*(b[:-1] for b in part), everything[:-1], strict=True):
            torch.testing.assert_close(torch.cat(columns), expected[order], rtol=0, atol=0)
        orders.append(order.tolist())
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_targets_stay_what_they_were_while_the_weights_move() -> None:
    model = build(PPOConfig(epochs=2, minibatches=1))
    rollout = dream(model)
    batches: Iterator[Minibatch] = model.batches(rollout, torch.Generator().manual_seed(0))
    for p in model.parameters():  # before the first is asked for
        p.data += 1.0
    moved = next(batches)
    for p in model.parameters():
        p.data -= 1.0
    kept = torch.sort(whole(model, rollout).target).values
    torch.testing.assert_close(torch.sort(moved.target).values, kept)


def test_two_generators_alike_give_the_same_steps() -> None:
    model = build()
    rollout = dream(model)
    a, b = (model.batches(rollout, torch.Generator().manual_seed(3)) for _ in range(2))
    assert all(torch.equal(x.features, y.features) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"clip": 0.0}, "clip must lie in"),
        ({"clip": 1.0}, "clip must lie in"),
        ({"epochs": 0}, "epochs must be positive"),
        ({"minibatches": 0}, "minibatches must be positive"),
    ],
)
def test_settings_that_make_no_sense(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        PPOConfig(**changes)


def test_more_minibatches_than_actions() -> None:
    ppo = PPOConfig(minibatches=9)
    with pytest.raises(ConfigError, match=r"imagined actions, batch_size \* horizon = 8, got 9"):
        BehaviourConfig(algorithm="ppo", batch_size=4, horizon=2, ppo=ppo)
    BehaviourConfig(batch_size=4, horizon=2, ppo=ppo)  # which actor-critic does not read


# -------------------------------------------------------------------- against Stable-Baselines3


def test_loss_and_gradient_of_stable_baselines3() -> None:
    """One of its own gradient steps, its policy in place of ours, on the numbers of our rollout.

    Its value loss is left out (`vf_coef=0`): it regresses with squared error, we on two-hot bins.
    """
    sb3 = pytest.importorskip("stable_baselines3")
    from stable_baselines3.common.logger import Logger

    class Nothing(gym.Env[Any, Any]):
        observation_space = gym.spaces.Box(-10, 10, (FEATURES,), np.float32)
        action_space = gym.spaces.Discrete(ACTIONS)

    batch, horizon, lr = 8, 16, 0.5
    entropy = 0.02
    theirs = sb3.PPO(
        "MlpPolicy",
        sb3.common.vec_env.DummyVecEnv([Nothing] * batch),
        learning_rate=lr,
        n_steps=horizon,
        batch_size=batch * horizon,
        n_epochs=1,
        gamma=0.9,
        gae_lambda=0.8,
        ent_coef=entropy,
        vf_coef=0.0,
        max_grad_norm=1e9,
        device="cpu",
        seed=0,
        policy_kwargs={"net_arch": [], "optimizer_class": torch.optim.SGD},
    )
    logger = Logger(None, [])
    theirs.set_logger(logger)

    model = build(entropy=entropy, min_return_scale=1e-3)
    rollout = dream(model, batch, horizon)
    rollout.termination[:] = (rollout.termination > 1.0).float()  # an end would give weights
    # A linear policy that has moved since the actions were sampled, far enough for clips.
    linear = theirs.policy.action_net
    g = torch.Generator().manual_seed(5)
    linear.weight.data = 0.2 * torch.randn(ACTIONS, FEATURES, generator=g)
    actor = torch.nn.Linear(FEATURES, ACTIONS)
    actor.load_state_dict(linear.state_dict())
    model.actor = actor  # type: ignore[assignment]

    with torch.no_grad():
        value = model.value(rollout.features)
    buffer = theirs.rollout_buffer
    buffer.reset()
    for t in range(horizon):
        buffer.add(
            rollout.features[:, t].numpy(),
            rollout.action[:, t].numpy(),
            rollout.reward[:, t].numpy(),
            np.full(batch, t == 0, dtype=np.float32),
            value[:, t],
            rollout.log_prob[:, t],
        )
    buffer.compute_returns_and_advantage(value[:, -1], np.zeros(batch))
    # It divides advantages by their deviation, with one degree of freedom less: so do ours here.
    model.return_scale.high.fill_(float(buffer.advantages.std(ddof=1)))
    ours = whole(model, rollout)
    returns = torch.from_numpy(buffer.returns.T.copy())
    torch.testing.assert_close(ours.target.reshape(batch, horizon), returns, rtol=1e-4, atol=1e-5)

    before = linear.weight.detach().clone()
    theirs.train()
    their_gradient = (before - linear.weight.detach()) / lr
    loss, metrics = model.loss(ours)
    loss.backward()
    assert actor.weight.grad is not None
    torch.testing.assert_close(actor.weight.grad, their_gradient, rtol=1e-4, atol=1e-6)
    said = logger.name_to_value
    assert 0.1 < said["train/clip_fraction"] < 0.9
    assert metrics["clip_fraction"].item() == pytest.approx(said["train/clip_fraction"], abs=1e-6)
    assert metrics["approx_kl"].item() == pytest.approx(said["train/approx_kl"], rel=1e-4)
    assert -metrics["entropy"].item() == pytest.approx(said["train/entropy_loss"], rel=1e-4)
    policy_loss = metrics["actor"].item() + entropy * metrics["entropy"].item()
    assert policy_loss == pytest.approx(said["train/policy_gradient_loss"], abs=1e-5)
    assert metrics["explained_variance"].item() == pytest.approx(
        said["train/explained_variance"], abs=1e-4
    )


# ------------------------------------------------------------------------------------- learning


def teach(model: MinibatchPPO, make: Callable[[torch.Generator], Rollout], updates: int) -> None:
    """The trainer's steps without a world model."""
    optimiser = Optimiser(model.named_parameters(), model.config.optim)
    g = torch.Generator().manual_seed(0)
    for _ in range(updates):
        rollout = make(g)
        for batch in model.train().batches(rollout, g):
            optimiser.backward(model.loss(batch)[0])
            optimiser.step()
            model.after_step()
    model.eval()


FAST = OptimConfig(lr=3e-3, eps=1e-8, warmup=10, grad_clip=100.0)


def test_a_contextual_bandit_is_learnt() -> None:
    # One-step episodes: in context c the right action is (2 c + 1) mod 3, worth 1.
    model = build(zero_heads=True, optim=FAST, entropy=0.01)

    def make(g: torch.Generator) -> Rollout:
        context = torch.randint(0, FEATURES, (64,), generator=g)
        features = torch.nn.functional.one_hot(context, FEATURES).float()
        with torch.no_grad():
            action, log_prob = model.act(features, g)
        reward = (action == (2 * context + 1) % 3).float()
        two = features[:, None].expand(-1, 2, -1)
        done = torch.ones(64, 1)
        return Rollout(two, action[:, None], log_prob[:, None], reward[:, None], done)

    teach(model, make, 40)
    every = torch.eye(FEATURES)
    with torch.no_grad():
        probs = model.policy(every).log_probs.exp()
        right = (2 * torch.arange(FEATURES) + 1) % 3
        assert (probs.gather(-1, right[:, None]) > 0.9).all()
        torch.testing.assert_close(model.value(every), torch.ones(FEATURES), rtol=0, atol=0.15)


def test_a_reward_that_comes_late_is_learnt() -> None:
    # Five cells in a row, start in the middle: the left end pays 0.2 at once, the right end 1, and
    # both end the episode. Only what comes back through the values tells them apart.
    model = build(zero_heads=True, optim=FAST, entropy=0.01, gamma=0.95)
    cells = torch.eye(FEATURES)

    def make(g: torch.Generator) -> Rollout:
        place = torch.full((64,), 2)
        columns: list[tuple[Tensor, ...]] = []
        seen = [cells[place]]
        for _ in range(8):
            with torch.no_grad():
                action, log_prob = model.act(seen[-1], g)
            moved = (place + action - 1).clamp(0, 4)
            reward = 0.2 * (moved == 0).float() + (moved == 4).float()
            ended = ((moved == 0) | (moved == 4)).float()
            place = torch.where(ended.bool(), torch.full_like(moved, 2), moved)
            seen.append(cells[place])
            columns.append((action, log_prob, reward, ended))
        action, log_prob, reward, ended = (
            torch.stack(column, 1) for column in zip(*columns, strict=True)
        )
        return Rollout(torch.stack(seen, 1), action, log_prob, reward, ended)

    teach(model, make, 60)
    with torch.no_grad():
        assert model.policy(cells[2:4]).log_probs.argmax(-1).tolist() == [2, 2]
        assert (model.policy(cells[2:4]).log_probs.exp()[:, 2] > 0.9).all()
        value = model.value(cells[2:4])
        torch.testing.assert_close(value, torch.tensor([0.95, 1.0]), rtol=0, atol=0.1)
