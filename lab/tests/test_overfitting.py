"""Overfitting of the world model: hand-computed errors and reward recall."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from lab import overfitting
from lab.runs import continued, played
from lab.tests.measured import measured
from torch import Tensor

from drama.config import ReplayConfig
from drama.observations import ObsSpace
from drama.replay import ReplayBuffer
from drama.types import Batch, Transition


def test_training_and_held_out_errors_are_recorded(run: Path, tmp_path: Path) -> None:
    known, new = measured(overfitting, "heldout", run, tmp_path, "--windows", "3")
    assert (known["case"], new["case"]) == ("training transitions", "held-out episodes")
    assert known["frame"] > 0
    assert (known["frame"], known["kl"]) != (new["frame"], new["kl"])


def test_held_out_episodes_differ_from_those_of_the_run(run: Path) -> None:
    with continued(run, {}) as (agent, trainer):
        rows = torch.arange(60)

        def begun(replay: ReplayBuffer) -> torch.Tensor:
            batch = replay.windows(rows, 1)
            return batch.obs[batch.is_first][:5]

        own, again, new = (
            begun(replay)
            for replay in (
                trainer.replay,
                played(agent, agent.config.seed, 61),
                played(agent, 20_000, 61),
            )
        )
        assert torch.equal(own, again)  # so the seed is what decides
        assert not torch.equal(own, new)


def test_prediction_error_matches_the_decoder_loss_of_the_prior(run: Path) -> None:
    with continued(run, {}) as (agent, trainer):
        model = agent.world_model
        # A prior equal to the posterior of the next frame predicts its reconstruction.
        ends = torch.linspace(6, len(trainer.replay) - 2, 4).long().unique()
        batch = trainer.replay.windows(ends, 6)
        with torch.no_grad():
            sure = (
                (model.posterior(batch.obs).exp() > 2).float().log()
            )  # probability zero everywhere
            best = model.posterior(batch.obs).argmax(-1, keepdim=True)
            sure = sure.scatter(-1, best, 0.0)  # except at the mode
        model.posterior_of = lambda _: sure  # type: ignore[method-assign]
        model.prior = lambda _: sure[:, 1:]  # type: ignore[method-assign]
        known = overfitting.errors(model, trainer.replay, 6, 4)
        model.prior = lambda _: sure[:, 1:].roll(1, -1)  # type: ignore[method-assign]
        wrong = overfitting.errors(model, trainer.replay, 6, 4)
        assert wrong["frame"] == known["frame"]
        assert wrong["predicted"] != known["predicted"]
        linked = ~batch.is_first[:, 1:]
        with torch.no_grad():
            stoch = model.sample(sure, None)
            right = model.decoder.loss(stoch, batch.obs, batch.is_first)[:, 1:][linked].mean()
        assert known["predicted"] == round(float(right), 2)


def test_reward_recall_is_measured_on_rewarded_transitions(run: Path, tmp_path: Path) -> None:
    known, new = measured(overfitting, "rewards", run, tmp_path, "--windows", "3")
    assert (known["case"], new["case"]) == ("training transitions", "held-out episodes")
    with continued(run, {}) as (agent, trainer):
        paid = trainer.replay.columns["reward"][: len(trainer.replay)] != 0
        length = agent.config.world_model.batch_length
        again = overfitting.predicted_rewards(agent.world_model, trainer.replay, length, 3)
    assert known["paid"] == int(paid.sum()) > 0
    assert again == {key: known[key] for key in again}
    assert again != {key: new[key] for key in again}


@pytest.mark.parametrize("total", [40, 53])  # exactly full; thirteen rows overwritten
def test_reward_recall_matches_hand_computed_values(total: int) -> None:
    length, capacity = 4, 40
    replay = ReplayBuffer(ReplayConfig(capacity=capacity), ObsSpace.vector(1))
    for g in range(
        total
    ):  # episodes of four actions and a last frame; the fourth action is rewarded
        last, pays = g % 5 == 4, g % 5 == 3
        reward = (-2.0 if g % 2 else 1.0) * pays
        obs = np.array([g], np.float32)
        replay.append(Transition(obs, g % 5 == 0, 0, reward, pays, False, last))
    asked: list[list[float]] = []

    def seen(batch: Batch, _: object) -> SimpleNamespace:
        rows = batch.obs[..., 0]
        assert torch.equal(
            rows.diff(dim=1), torch.ones(len(rows), length - 1)
        )  # no episode boundary
        asked.append(rows[:, -1].tolist())
        return SimpleNamespace(deter=batch.reward)

    class Model:
        def eval(self) -> Model:
            return self

        observe = staticmethod(seen)

        @staticmethod
        def reward(deter: Tensor) -> Tensor:
            return torch.where(
                deter == 0, -0.3, deter.clamp_max(0.5)
            )  # a reward of 1 is predicted as 0.5

    kept = range(total - capacity, total)
    pays = [float(g) for g in kept if g % 5 == 3]
    whole = [g for g in pays if g >= kept[length - 1]]
    others = [float(g) for g in kept[length - 1 :] if g % 5 < 3]
    found = overfitting.predicted_rewards(cast("Any", Model()), replay, length, 1000)
    assert asked == [whole, others]  # neither too old, nor without an action
    halves, doubles = (sum(g % 2 == odd for g in whole) for odd in (0, 1))
    share = (0.5 * halves + 2 * doubles) / (halves + 2 * doubles)
    assert found["paid"] == len(pays)
    assert found["predicted"] == round(share, 4)
    mean = sum(2 if g % 2 else 1 for g in pays) / len(pays)
    assert found["made_up"] == round(0.3 / mean, 4)
    asked.clear()
    overfitting.predicted_rewards(cast("Any", Model()), replay, length, 2)
    assert asked == [[whole[0], whole[-1]], [others[0], others[-1]]]  # spread over all of them
    found = overfitting.predicted_rewards(cast("Any", Model()), replay, capacity + 9, 2)
    assert found == {"paid": len(pays), "predicted": None, "made_up": None}  # no complete window
    replay.columns["reward"].zero_()
    found = overfitting.predicted_rewards(cast("Any", Model()), replay, length, 2)
    assert found == {"paid": 0, "predicted": None, "made_up": None}


def test_table_has_an_empty_cell_for_a_missing_value() -> None:
    row = {"label": "a", "case": "b"}
    told = overfitting.rewards_table([row | {"paid": 1200, "predicted": 0.5, "made_up": None}])
    assert "| a | b | 1,200 | 50.0 % |  |" in told
