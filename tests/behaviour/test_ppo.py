"""PPO with recomputed advantages against numbers worked out by hand and the actor-critic."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from tests.behaviour.build import randomise_heads
from torch import Tensor

from drama import presets
from drama.actions import ActionSpace
from drama.behaviour import PPO, ActorCritic, MinibatchPPO, make_behaviour
from drama.config import BehaviourConfig, Config, OptimConfig, PPOConfig
from drama.errors import ConfigError
from drama.registry import BEHAVIOURS
from drama.training.optim import Optimiser
from drama.types import Rollout

FEATURES, ACTIONS = 5, 3
FORM = PPOConfig(epochs=3, minibatches=1, recompute_advantages=True)


def build(
    algorithm: str = "ppo", ppo: PPOConfig = FORM, zero_heads: bool = False, **changes: Any
) -> Any:
    """A tiny behaviour in evaluation mode; its policy is not uniform unless ``zero_heads``."""
    torch.manual_seed(1)
    sizes: dict[str, Any] = {
        "actor_units": 8,
        "critic_units": 8,
        "bins": 21,
        "bin_limit": 5.0,
    }
    config = BehaviourConfig(algorithm=algorithm, ppo=ppo, **{**sizes, **changes})
    model = make_behaviour(config, FEATURES, ActionSpace(ACTIONS)).eval()
    if not zero_heads:
        randomise_heads(model)
    model.actor.out.weight.data *= 3
    return model


def dream(model: ActorCritic, batch: int = 6, horizon: int = 5) -> Rollout:
    """Random features and outcomes, actions sampled from the model's policy."""
    g = torch.Generator().manual_seed(0)
    features = torch.randn(batch, horizon + 1, FEATURES, generator=g)
    with torch.no_grad():
        action, log_prob = model.act(features[:, :-1], g)
    size = (batch, horizon)
    reward = 3 * torch.randn(size, generator=g)
    return Rollout(features, action, log_prob, reward, torch.rand(size, generator=g))


def gradients(model: ActorCritic, rollout: Rollout) -> dict[str, Tensor]:
    model.zero_grad()
    model.loss(rollout)[0].backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def test_every_built_in_behaviour_is_built_by_its_name() -> None:
    kinds = {"actor-critic": ActorCritic, "ppo": PPO}
    assert BEHAVIOURS.built_in.keys() == kinds.keys()
    for name, kind in kinds.items():
        assert type(make_behaviour(BehaviourConfig(algorithm=name), 4, ActionSpace(2))) is kind


def test_the_papers_presets_have_the_public_codes_form() -> None:
    assert BehaviourConfig().ppo == presets.xs().behaviour.ppo == presets.s().behaviour.ppo == FORM
    for preset in (presets.quick(), presets.laptop()):
        assert preset.behaviour.ppo == PPOConfig(epochs=4, minibatches=4)


def test_a_configuration_saved_before_the_switch_keeps_its_form() -> None:
    tree = dataclasses.asdict(BehaviourConfig(algorithm="ppo"))
    tree["ppo"] = {"clip": 0.2, "epochs": 4, "minibatches": 4, "advantage_scale": "returns"}
    config = Config.from_saved({"behaviour": tree}).behaviour
    model = make_behaviour(config, FEATURES, ActionSpace(ACTIONS))
    assert type(model) is MinibatchPPO
    assert not any(name.startswith("slow_critic") for name in model.state_dict())


def test_recomputed_advantages_are_those_of_whole_rollouts() -> None:
    with pytest.raises(ConfigError, match="recompute_advantages needs minibatches 1, got 2"):
        dataclasses.replace(FORM, minibatches=2)


# --------------------------------------------------------------------------------- the objective


def test_the_first_epoch_is_a_step_of_the_actor_critic() -> None:
    # Ratio 1: the same advantages, scale, slow critic and weights give the same gradient.
    ppo, plain = build(), build("actor-critic")
    for model in (ppo, plain):
        model.slow_critic.out.bias.data += torch.linspace(-1, 1, 21)
        model.return_scale.high.fill_(5.0)
    rollout = dream(ppo)
    expected = gradients(plain, rollout)
    found = gradients(ppo, rollout)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, msg=name)
    metrics = ppo.loss(rollout)[1]
    assert metrics["clip_fraction"].item() == 0.0
    assert metrics["approx_kl"].item() == pytest.approx(0.0, abs=1e-7)
    assert metrics["slow_critic"].item() != metrics["critic"].item()


@pytest.mark.parametrize(
    ("old", "reward", "slope"),
    [
        # The action has probability 0.5 now. The slope is that of the objective in the ratio.
        (0.5, 2.0, 2.0),
        (0.45, 2.0, 2.0),  # ratio 1.11, within the clip
        (0.4, 2.0, 0.0),  # ratio 1.25, gained enough
        (0.4, -2.0, -2.0),  # the wrong way: pulled back, however far
        (0.8, -2.0, 0.0),  # ratio 0.625, lost enough
        (0.8, 2.0, 2.0),
    ],
)
def test_clipped_objective_by_hand(old: float, reward: float, slope: float) -> None:
    # gamma 0, value 0: the advantage is the reward over the scale of returns, here 4.
    model = build(zero_heads=True, gamma=0.0, entropy=0.0)
    model.actor.out.bias.data = torch.tensor([0.5, 0.25, 0.25]).log()
    model.return_scale.high.fill_(4.0)
    one = torch.ones(1, 1)
    rollout = Rollout(
        torch.zeros(1, 2, FEATURES),
        torch.zeros(1, 1, dtype=torch.int64),
        math.log(old) * one,
        reward * one,
        0 * one,
    )
    ratio = 0.5 / old
    # d ratio / d logit_j = ratio (1[j = 0] - p_j)
    expected = [-slope / 4 * ratio * (float(j == 0) - p) for j, p in enumerate([0.5, 0.25, 0.25])]
    found = gradients(model, rollout)["actor.out.bias"].tolist()
    assert found == pytest.approx(expected, abs=1e-6)
    metrics = model.loss(rollout)[1]
    assert metrics["approx_kl"].item() == pytest.approx(ratio - 1 - math.log(ratio), abs=1e-6)
    assert metrics["clip_fraction"].item() == float(abs(ratio - 1) > 0.2)


# ------------------------------------------------------------------------------------- the epochs


def test_each_epoch_is_given_the_whole_rollout() -> None:
    model = build()
    rollout = dream(model)
    given = list(model.batches(rollout, None))
    assert len(given) == model.steps_per_update == 3
    assert all(batch is rollout for batch in given)


def test_each_epoch_recomputes_its_advantages() -> None:
    # V = v everywhere, lambda 0: the advantage of an action is r - 0.5 v.
    model = build(zero_heads=True, gamma=0.5, lambda_=0.0, entropy=0.0)
    rollout = dream(model)._replace(termination=torch.zeros(6, 5))
    onehot = torch.nn.functional.one_hot(rollout.action, ACTIONS).float()
    for centre, v in ((12, math.expm1(1.0)), (14, math.expm1(2.0))):  # bins are 0.5 apart
        model.critic.out.bias.data = 60.0 * torch.eye(21)[centre]
        advantage = (rollout.reward - 0.5 * v).unsqueeze(-1)
        expected = -(advantage * (onehot - 1 / 3)).mean(dim=(0, 1))
        found = gradients(model, rollout)["actor.out.bias"]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_only_training_moves_what_runs() -> None:
    model = build(slow_decay=0.75)
    rollout = dream(model)
    before = {k: t.clone() for k, t in model.state_dict().items()}
    model.loss(rollout)
    assert all(torch.equal(t, before[k]) for k, t in model.state_dict().items())
    model.train().loss(rollout)
    assert model.return_scale.started
    model.critic.out.bias.data += 1.0
    model.after_step()
    moved = model.slow_critic.out.bias - before["slow_critic.out.bias"]
    torch.testing.assert_close(moved, torch.full((21,), 0.25))


def test_a_contextual_bandit_is_learnt() -> None:
    # One-step episodes: in context c the right action is (2 c + 1) mod 3, worth 1.
    fast = OptimConfig(lr=3e-3, eps=1e-8, warmup=10, grad_clip=100.0)
    model = build(zero_heads=True, optim=fast, entropy=0.01)
    optimiser = Optimiser(model.named_parameters(), model.config.optim)
    g = torch.Generator().manual_seed(0)
    for _ in range(100):
        context = torch.randint(0, FEATURES, (64,), generator=g)
        features = torch.nn.functional.one_hot(context, FEATURES).float()
        with torch.no_grad():
            action, log_prob = model.act(features, g)
        reward = (action == (2 * context + 1) % 3).float()
        two, done = features[:, None].expand(-1, 2, -1), torch.ones(64, 1)
        rollout = Rollout(two, action[:, None], log_prob[:, None], reward[:, None], done)
        for batch in model.train().batches(rollout, g):
            optimiser.backward(model.loss(batch)[0])
            optimiser.step()
            model.after_step()
    with torch.no_grad():
        probs = model.eval().policy(torch.eye(FEATURES)).log_probs.exp()
    right = (2 * torch.arange(FEATURES) + 1) % 3
    assert isinstance(model, PPO)
    assert (probs.gather(-1, right[:, None]) > 0.9).all()
