"""The loss of the world model: what is compared with what, and which rows count.

Most tests put a *scripted* world in place of the networks, one in which the action alone decides
the reward, the end and the next latent. Every part of the loss is then known in advance, and is
large where a target is read one step early or late.

One file: the tests share the scripted world.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from drama.actions import ActionSpace
from drama.config import WorldModelConfig
from drama.dynamics import map_state
from drama.ops.categorical import mix_uniform
from drama.types import Batch
from drama.world_model import LossTerm, Observed, WorldModel
from drama.world_model.latent import kl_divergence

SURE = 60.0
"""A logit that leaves nothing to chance."""
ACTIONS, CLASSES, WIDTH = 4, 4, 16


class EchoAction(nn.Module):
    """Embedding that keeps the one-hot action alone, padded to the width."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.pad(x[..., -ACTIONS:], (0, WIDTH - ACTIONS))


class EchoInput(nn.Module):
    """Sequence model without a memory: ``d_t`` is its input."""

    def forward(self, x: Tensor, is_first: Tensor | None = None) -> tuple[Tensor, None]:
        return x, None


class Table(nn.Module):
    """Linear map from the one-hot action to given logits."""

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.rows = nn.Parameter(rows)  # (ACTIONS, outputs)

    def forward(self, deter: Tensor) -> Tensor:
        return deter[..., :ACTIONS] @ self.rows


class ClassOfObs(nn.Module):
    """Encoder of a one-entry vector that names the class of the single latent variable."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Parameter(SURE * torch.eye(CLASSES))

    def forward(self, obs: Tensor) -> Tensor:
        return self.rows[obs[..., 0].long()].unsqueeze(-2)


@pytest.fixture
def scripted(tiny_model: Callable[..., WorldModel]) -> Callable[..., WorldModel]:
    """A world where action a pays a - 1, ends the episode if it is 3, and leads to frame a."""

    def build(**changes: Any) -> WorldModel:
        sizes = {"latent_variables": 1, "latent_classes": CLASSES, "free_bits": 0.0}
        model = tiny_model((1,), ACTIONS, **{**sizes, **changes})
        model.embed, model.dynamics, model.encoder = EchoAction(), EchoInput(), ClassOfObs()
        model.twohot.bins = torch.linspace(-5, 5, 21)
        rewards = torch.full((ACTIONS, 21), -SURE)
        for action in range(ACTIONS):
            # symlog(a - 1) lies between two of the bins, which are 0.5 apart.
            reward = action - 1
            place = 10 + 2 * math.copysign(math.log1p(abs(reward)), reward)
            low = math.floor(place)
            rewards[action, low] = math.log(max(1 - (place - low), 1e-9))
            rewards[action, low + 1] = math.log(max(place - low, 1e-9))
        model.reward_head = Table(rewards)
        model.termination_head = Table(SURE * torch.tensor([[-1.0], [-1.0], [-1.0], [1.0]]))
        model.prior_head = Table(SURE * torch.eye(CLASSES))
        return model

    return build


def world(actions: list[list[int]], first_obs: int = 0) -> Batch:
    """Windows that obey the scripted world; action 3 ends an episode, then comes its last row.

    An action of -1 stands for such a last row, which carries no action of its own.
    """
    rows: list[list[tuple[int, bool, int, float, bool, bool]]] = []
    for line in actions:
        obs, first, out = first_obs, False, []
        for a in line:
            if a < 0:
                out.append((obs, first, 0, 0.0, False, True))
                obs, first = first_obs, True
            else:
                out.append((obs, first, a, float(a - 1), a == 3, False))
                obs, first = a, False
        rows.append(out)
    obs, first, action, reward, end, last = (
        torch.tensor([[row[i] for row in line] for line in rows]) for i in range(6)
    )
    return Batch(
        obs=obs.float().unsqueeze(-1),
        is_first=first,
        action=action,
        reward=reward.float(),
        terminated=end,
        truncated=torch.zeros_like(end),
        is_last=last,
    )


def g(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def leaves(state: Any) -> list[Tensor]:
    found: list[Tensor] = []

    def collect(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    map_state(collect, state)
    return found


# -- alignment --------------------------------------------------------------------------------


def test_reward_end_and_next_latent_are_read_at_the_action_they_result_from(
    scripted: Callable[..., WorldModel],
) -> None:
    # Every target is right only at its own step: neighbouring actions always differ.
    batch = world([[0, 1, 2, 0, 2, 1, 0, 1], [2, 1, 2, 3, -1, 1, 2, 0]])
    _, metrics = scripted().loss(batch, g())
    # What is left of the reward's cross-entropy is the entropy of the two-hot codes themselves.
    assert metrics["reward"].item() == pytest.approx(two_hot_entropy(batch), abs=1e-4)
    assert metrics["termination"] < 1e-6
    assert metrics["dyn"] < 1e-4
    assert metrics["rep"] < 1e-4


def two_hot_entropy(batch: Batch) -> float:
    total, count = 0.0, 0
    for reward, last in zip(
        batch.reward.flatten().tolist(), batch.is_last.flatten().tolist(), strict=True
    ):
        place = 10 + 2 * math.copysign(math.log1p(abs(reward)), reward)
        upper = place - math.floor(place)
        if not last:
            count += 1
            total -= sum(p * math.log(p) for p in (upper, 1 - upper) if p > 1e-6)
    return total / count


@pytest.mark.parametrize("column", ["reward", "terminated"])
@pytest.mark.parametrize("shift", [1, -1])
def test_targets_one_step_off_are_punished(
    scripted: Callable[..., WorldModel], column: str, shift: int
) -> None:
    batch = world([[0, 1, 2, 0, 2, 1, 0, 1], [2, 1, 2, 3, 0, 1, 2, 0]])
    moved = batch._replace(**{column: getattr(batch, column).roll(shift, dims=1)})
    name = "reward" if column == "reward" else "termination"
    _, metrics = scripted().loss(moved, g())
    assert metrics[name] > 5


def test_the_action_enters_its_own_deterministic_state_and_the_next_frame_does_not(
    tiny_model: Callable[..., WorldModel], make_batch: Callable[..., Batch]
) -> None:
    model, batch, t = tiny_model((5,)), make_batch(obs_shape=(5,)), 3
    model.encoder.layers[-1].weight.data *= 100  # so that another frame gives another latent
    deter = model.observe(batch, g()).deter

    action = batch.action.clone()
    action[:, t] = (action[:, t] + 1) % 3
    moved = model.observe(batch._replace(action=action), g()).deter
    torch.testing.assert_close(moved[:, :t], deter[:, :t])
    assert (moved[:, t] - deter[:, t]).abs().max() > 1e-3
    assert (moved[:, t + 1] - deter[:, t + 1]).abs().max() > 1e-5

    obs = batch.obs.clone()
    obs[:, t + 1] = -obs[:, t + 1]
    seen = model.observe(batch._replace(obs=obs), g())
    assert not torch.equal(seen.stoch, model.observe(batch, g()).stoch)
    torch.testing.assert_close(seen.deter[:, : t + 1], deter[:, : t + 1])
    assert (seen.deter[:, t + 1] - deter[:, t + 1]).abs().max() > 1e-3


@pytest.mark.parametrize("dynamics", ["mamba2", "mamba1", "gru", "transformer"])
def test_observing_a_window_is_stepping_through_it(
    tiny_model: Callable[..., WorldModel], make_batch: Callable[..., Batch], dynamics: str
) -> None:
    model, batch = tiny_model(dynamics=dynamics), make_batch(length=9)
    with torch.no_grad():
        seen = model.observe(batch, g())
        state = model.dynamics.init_state(2)
        for t in range(9):
            deter, state = model.step(seen.stoch[:, t], batch.action[:, t], state)
            torch.testing.assert_close(deter, seen.deter[:, t], atol=2e-5, rtol=1e-4)
    for stepped, parallel in zip(leaves(state), leaves(seen.state), strict=True):
        torch.testing.assert_close(stepped, parallel, atol=2e-5, rtol=1e-4)


def test_the_decoder_reads_the_latent_alone(
    tiny_model: Callable[..., WorldModel], make_batch: Callable[..., Batch]
) -> None:
    model, batch = tiny_model(), make_batch()
    _, metrics = model.loss(batch, g())
    _, other = model.loss(batch._replace(action=(batch.action + 1) % 3), g())
    assert metrics["reconstruction"] == other["reconstruction"]
    assert metrics["termination"] != other["termination"]


# -- masks ------------------------------------------------------------------------------------


def test_padding_of_a_last_row_does_not_matter(
    tiny_model: Callable[..., WorldModel], make_batch: Callable[..., Batch]
) -> None:
    model = tiny_model(zero_heads=False, reset_at_episode_start=True)
    is_last = torch.zeros(2, 6, dtype=torch.bool)
    is_first = torch.zeros(2, 6, dtype=torch.bool)
    is_last[0, 2] = is_first[0, 3] = is_last[1, 5] = True
    batch = make_batch(is_last=is_last, is_first=is_first)
    junk = batch._replace(
        action=torch.where(is_last, (batch.action + 1) % 3, batch.action),
        reward=torch.where(is_last, 1e6, batch.reward),
        terminated=batch.terminated | is_last,
        truncated=batch.truncated | is_last,
    )
    results = []
    for windows in (batch, junk):
        model.zero_grad()
        loss, metrics = model.loss(windows, g())
        loss.backward()
        grads = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        results.append((metrics, grads))
    for name, value in results[0][0].items():
        torch.testing.assert_close(results[1][0][name], value, msg=name)
    torch.testing.assert_close(results[1][1], results[0][1])


def test_means_are_over_the_rows_that_count(scripted: Callable[..., WorldModel]) -> None:
    # The head is certain that nothing ends, and is wrong at one of six acted rows by SURE nats.
    batch = world([[0, 1, 2, -1, 1, 0, 1]])
    terminated = batch.terminated.clone()
    terminated[0, 1] = True
    _, metrics = scripted().loss(batch._replace(terminated=terminated), g())
    assert metrics["termination"].item() == pytest.approx(SURE / 6, rel=1e-5)


def test_no_kl_is_taken_across_a_seam(scripted: Callable[..., WorldModel]) -> None:
    # Two seams: after a stored last row, and where the episode before was cut without one. New
    # episodes begin at frame 3, which no action here leads to.
    batch = world([[0, 1, 2, -1, 1, 0, 1], [2, 0, 1, 2, 0, 1, 2]], first_obs=3)
    is_first, obs = batch.is_first.clone(), batch.obs.clone()
    is_first[1, 4], obs[1, 4] = True, 3.0
    model = scripted()
    batch = batch._replace(is_first=is_first, obs=obs)
    _, metrics = model.loss(batch, g())
    assert metrics["dyn"] < 1e-4
    assert metrics["rep"] < 1e-4
    assert metrics["kl"] < 1e-4
    _, unmarked = model.loss(batch._replace(is_first=torch.zeros_like(is_first)), g())
    assert unmarked["dyn"] > 0.5


def test_the_final_frame_of_an_episode_is_predicted(scripted: Callable[..., WorldModel]) -> None:
    # Row 3 is the final observation; were it left out of the KL, its surprise would not show.
    batch = world([[0, 1, 2, -1, 1, 0, 1]])
    obs = batch.obs.clone()
    obs[0, 3] = 0.0
    _, metrics = scripted().loss(batch._replace(obs=obs), g())
    # 5 links are left (7 rows, 6 pairs, one seam): the KL of a certain miss, shared among them.
    q = mix_uniform(SURE * torch.eye(4)[0], 0.01).unsqueeze(0)
    p = mix_uniform(SURE * torch.eye(4)[2], 0.01).unsqueeze(0)
    assert metrics["dyn"].item() == pytest.approx(kl_divergence(q, p).item() / 5, rel=1e-4)


def test_windows_of_seams_only_give_no_nan(
    tiny_model: Callable[..., WorldModel], make_batch: Callable[..., Batch]
) -> None:
    every = torch.ones(2, 6, dtype=torch.bool)
    loss, metrics = tiny_model().loss(make_batch(is_first=every, is_last=every), g())
    assert torch.isfinite(loss)
    for name in ("reward", "termination", "dyn", "rep", "kl"):
        assert metrics[name] == 0.0, name


def test_truncation_is_no_termination_target(
    tiny_model: Callable[..., WorldModel], make_batch: Callable[..., Batch]
) -> None:
    model, batch = tiny_model(), make_batch()
    some = torch.rand(2, 6, generator=g()) < 0.5
    loss, _ = model.loss(batch, g())
    assert torch.equal(model.loss(batch._replace(truncated=some), g())[0], loss)
    assert not torch.equal(model.loss(batch._replace(terminated=some), g())[0], loss)


def test_reset_switch(
    tiny_model: Callable[..., WorldModel], make_batch: Callable[..., Batch]
) -> None:
    is_first = torch.zeros(2, 6, dtype=torch.bool)
    is_first[:, 3] = True
    batch = make_batch(is_first=is_first)
    past = batch.action.clone()
    past[:, :3] = (past[:, :3] + 1) % 3
    for reset in (False, True):
        model = tiny_model(reset_at_episode_start=reset)
        a, b = (model.observe(batch._replace(action=x), g()).deter for x in (batch.action, past))
        moved = (a - b)[:, 3:].abs().max()
        assert (moved < 1e-6) if reset else (moved > 1e-3)


# -- KL: free bits, stop-gradients, weights -----------------------------------------------------


def test_free_bits_are_per_step_not_on_the_mean(scripted: Callable[..., WorldModel]) -> None:
    # One of three steps is a certain miss of k nats, two are hits of 0: max(1, .) of each gives
    # (k + 1 + 1) / 3, whereas max(1, mean) would be k / 3.
    batch = world([[0, 1, 2, 0]])
    obs = batch.obs.clone()
    obs[0, 2] = 3.0
    batch = batch._replace(obs=obs)
    k = 3 * scripted(free_bits=0.0).loss(batch, g())[1]["dyn"].item()
    assert k > 4
    _, metrics = scripted(free_bits=1.0).loss(batch, g())
    assert metrics["dyn"].item() == pytest.approx((k + 2) / 3, rel=1e-4)
    assert metrics["rep"].item() == pytest.approx((k + 2) / 3, rel=1e-4)
    assert metrics["kl"].item() == pytest.approx(k / 3, rel=1e-4)


def test_free_bits_stop_the_gradient_of_the_steps_below_them(
    scripted: Callable[..., WorldModel],
) -> None:
    # Action 1 is followed by its own frame (nearly no KL), action 2 by another (a large one).
    model = scripted(free_bits=1.0, unimix=0.1)
    with torch.no_grad():
        model.prior_head.rows.div_(SURE / 2)
    batch = world([[1, 2, 1, 1]])
    obs = batch.obs.clone()
    obs[0, 2] = 3.0
    loss, metrics = model.loss(batch._replace(obs=obs), g())
    loss.backward()
    assert metrics["dyn"] > 1.0
    assert model.prior_head.rows.grad[1].abs().max() == 0
    assert model.prior_head.rows.grad[2].abs().max() > 1e-3


@pytest.mark.parametrize(
    ("weights", "moves", "stays"),
    [
        ({"beta_dyn": 1.0, "beta_rep": 0.0}, "prior_head", "encoder"),
        ({"beta_dyn": 0.0, "beta_rep": 1.0}, "encoder", "prior_head"),
    ],
    ids=["dyn", "rep"],
)
def test_each_kl_pulls_one_side_only(
    scripted: Callable[..., WorldModel], weights: dict[str, float], moves: str, stays: str
) -> None:
    batch = world([[0, 1, 2, 0]])
    batch = batch._replace(obs=torch.tensor([[[1.0], [2.0], [0.0], [1.0]]]))
    gradients = {}
    for name, betas in (("with", weights), ("without", {"beta_dyn": 0.0, "beta_rep": 0.0})):
        model = scripted(**betas)
        with torch.no_grad():  # soft distributions, so that each side has a slope
            model.prior_head.rows.div_(SURE)
            model.encoder.rows.div_(SURE)
        model.loss(batch, g())[0].backward()
        for side in ("prior_head", "encoder"):
            gradients[name, side] = getattr(model, side).rows.grad.clone()
    pull = {side: gradients["with", side] - gradients["without", side] for side in (moves, stays)}
    assert pull[moves].abs().max() > 1e-3
    assert pull[stays].abs().max() < 1e-7


def test_the_loss_is_the_weighted_sum_of_its_parts(
    tiny_model: Callable[..., WorldModel], make_batch: Callable[..., Batch]
) -> None:
    model = tiny_model(beta_dyn=0.7, beta_rep=0.3, free_bits=0.01, zero_heads=False)
    loss, m = model.loss(make_batch(), g())
    expected = (
        m["reconstruction"] + m["reward"] + m["termination"] + 0.7 * m["dyn"] + 0.3 * m["rep"]
    )
    torch.testing.assert_close(loss.detach(), expected)
    torch.testing.assert_close(m["loss"], expected)
    assert not any(value.requires_grad for value in m.values())


def test_default_weights_are_the_papers() -> None:
    config = WorldModelConfig()
    assert (config.beta_dyn, config.beta_rep, config.free_bits) == (1.0, 0.1, 1.0)
    assert config.unimix == 0.01
    assert (config.optim.lr, config.optim.eps) == (4e-5, 1e-20)
    assert (config.optim.warmup, config.optim.grad_clip) == (1000, 1000.0)


def test_reconstruction_is_averaged_over_windows_and_steps(
    tiny_model: Callable[..., WorldModel], make_batch: Callable[..., Batch]
) -> None:
    model, batch = tiny_model(), make_batch()
    _, metrics = model.loss(batch, g())
    with torch.no_grad():
        picture = model.decoder(model.observe(batch, g()).stoch)
    by_hand = (picture - batch.obs / 255).square().sum() / (2 * 6)
    torch.testing.assert_close(metrics["reconstruction"], by_hand)


# -- precision --------------------------------------------------------------------------------


@pytest.mark.parametrize("obs_shape", [(8, 8, 3), (5,)], ids=["frames", "vectors"])
def test_bfloat16_work_keeps_latents_exact_and_losses_float32(
    tiny_model: Callable[..., WorldModel],
    make_batch: Callable[..., Batch],
    obs_shape: tuple[int, ...],
) -> None:
    model = tiny_model(obs_shape, zero_heads=False).train()
    batch = make_batch(batch=8, length=16, obs_shape=obs_shape)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        seen = model.observe(batch, g())
        loss, metrics = model.loss(batch, g())
    assert seen.posterior.dtype == seen.stoch.dtype == torch.float32
    assert seen.stoch.unique().tolist() == [0.0, 1.0]
    assert (seen.stoch.unflatten(-1, (3, 4)).sum(-1) == 1).all()
    assert loss.dtype == torch.float32
    assert all(value.dtype == torch.float32 for value in metrics.values())
    loss.backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert torch.isfinite(p.grad).all(), name


def test_every_parameter_learns(
    tiny_model: Callable[..., WorldModel], make_batch: Callable[..., Batch]
) -> None:
    model = tiny_model(zero_heads=False, free_bits=0.0).train()
    terminated = torch.rand(2, 6, generator=g()) < 0.5
    model.loss(make_batch(terminated=terminated), g())[0].backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert p.grad.abs().max() > 0, name


# -- heads ------------------------------------------------------------------------------------


def test_heads_speak_in_rewards_and_probabilities(scripted: Callable[..., WorldModel]) -> None:
    model = scripted()
    deter = torch.nn.functional.pad(torch.eye(ACTIONS), (0, WIDTH - ACTIONS))
    torch.testing.assert_close(
        model.reward(deter), torch.tensor([-1.0, 0.0, 1.0, 2.0]), atol=1e-4, rtol=0
    )
    torch.testing.assert_close(model.termination(deter), torch.tensor([0.0, 0.0, 0.0, 1.0]))


def test_a_new_model_predicts_no_reward(tiny_model: Callable[..., WorldModel]) -> None:
    deter = torch.randn(32, 16, generator=g())
    assert tiny_model().reward(deter).abs().max() < 1e-5
    assert tiny_model(zero_heads=False).reward(deter).abs().max() > 1e-3


def test_a_further_term_is_one_method_and_one_entry(
    tiny_config: Callable[..., WorldModelConfig], make_batch: Callable[..., Batch]
) -> None:
    class InverseDynamics(WorldModel):
        """Predicts the action from the two latents around it."""

        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.inverse_head = torch.nn.Linear(2 * self.stoch_size, 3)

        def loss_terms(self, batch: Batch, seen: Observed) -> dict[str, LossTerm]:
            value = self.inverse_loss(batch, seen)
            return {**super().loss_terms(batch, seen), "inverse": LossTerm(value, 0.5)}

        def inverse_loss(self, batch: Batch, seen: Observed) -> Tensor:
            around = torch.cat([seen.stoch[:, :-1], seen.stoch[:, 1:]], dim=-1)
            logits = self.inverse_head(around)
            return torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), batch.action[:, :-1].flatten()
            )

    torch.manual_seed(0)
    model, batch = InverseDynamics(tiny_config(), (8, 8, 3), ActionSpace(3)), make_batch()
    plain = WorldModel(tiny_config(), (8, 8, 3), ActionSpace(3))
    plain.load_state_dict(model.state_dict(), strict=False)
    loss, metrics = model.loss(batch, g())
    expected, others = plain.loss(batch, g())
    assert metrics.keys() - others.keys() == {"inverse"}
    assert all(torch.equal(metrics[name], others[name]) for name in others if name != "loss")
    torch.testing.assert_close(loss, expected + 0.5 * metrics["inverse"])
    loss.backward()
    assert model.inverse_head.weight.grad is not None
    assert model.inverse_head.weight.grad.abs().max() > 0
