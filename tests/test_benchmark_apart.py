"""Taking a run apart: that each part is measured alone, and told as it was measured."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import gymnasium as gym
import numpy as np
import pytest
import torch
from tests.training.runs import tiny
from torch import Tensor

from drama import Agent
from drama.behaviour import Behaviour
from drama.config import ReplayConfig
from drama.replay import ReplayBuffer
from drama.types import Batch, Transition

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # benchmarks/ is part of a checkout, not of the package

from benchmarks import apart  # noqa: E402

GAME = "drama/Catch-v0"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("apart") / "run"
    config = tiny()
    agent = Agent(GAME, config)
    agent.learn(config.training.warmup_steps + 20, run_dir=place)
    return place


def measured(what: str, run: Path, tmp_path: Path, *options: str) -> list[dict[str, Any]]:
    """Measure with the published page beside, twice: the second replaces what the first said."""
    shutil.copy(ROOT / "docs" / "results.md", tmp_path / "results.md")
    before = {p: p.read_bytes() for p in sorted(run.rglob("*")) if p.is_file()}
    for _ in range(2):
        apart.main([what, f"here={run}", "--docs", str(tmp_path), *options])
    assert before == {p: p.read_bytes() for p in sorted(run.rglob("*")) if p.is_file()}
    found = json.loads((tmp_path / "assets" / "results" / f"apart-{what}.json").read_text())
    assert apart.markdown(what, found) in (tmp_path / "results.md").read_text(encoding="utf-8")
    results: list[dict[str, Any]] = found["results"]
    assert {r["label"] for r in results} == {"here"}
    return results


@pytest.mark.parametrize("what", list(apart.PARTS))
def test_the_page_says_what_the_file_says(what: str) -> None:
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    path = ROOT / "docs" / "assets" / "results" / f"apart-{what}.json"
    assert apart.markdown(what, json.loads(path.read_text(encoding="utf-8"))) in page


def test_rows_learnt_from_and_new_episodes(run: Path, tmp_path: Path) -> None:
    known, new = measured("held-out", run, tmp_path, "--windows", "3")
    assert (known["case"], new["case"]) == ("rows learnt from", "new episodes")
    assert known["frame"] > 0
    assert (known["frame"], known["kl"]) != (new["frame"], new["kl"])


def test_new_episodes_are_not_those_of_the_run(run: Path) -> None:
    with apart.continued(run, {}) as (agent, trainer):
        rows = torch.arange(60)

        def begun(replay: ReplayBuffer) -> torch.Tensor:
            batch = replay.windows(rows, 1)
            return batch.obs[batch.is_first][:5]

        own, again, new = (
            begun(replay)
            for replay in (
                trainer.replay,
                apart.played(agent, agent.config.seed, 61),
                apart.played(agent, 20_000, 61),
            )
        )
        assert torch.equal(own, again)  # so the seed is what decides
        assert not torch.equal(own, new)


def test_what_is_foretold_by_hand(run: Path) -> None:
    with apart.continued(run, {}) as (agent, trainer):
        model = agent.world_model
        # A prior that is the posterior of the frame it foretells draws what a reconstruction does.
        ends = torch.linspace(6, len(trainer.replay) - 2, 4).long().unique()
        batch = trainer.replay.windows(ends, 6)
        with torch.no_grad():
            sure = (model.posterior(batch.obs).exp() > 2).float().log()  # all of it impossible
            best = model.posterior(batch.obs).argmax(-1, keepdim=True)
            sure = sure.scatter(-1, best, 0.0)  # but the most likely
        model.posterior_of = lambda _: sure  # type: ignore[method-assign]
        model.prior = lambda _: sure[:, 1:]  # type: ignore[method-assign]
        known = apart.errors(model, trainer.replay, 6, 4)
        model.prior = lambda _: sure[:, 1:].roll(1, -1)  # type: ignore[method-assign]
        wrong = apart.errors(model, trainer.replay, 6, 4)
        assert wrong["frame"] == known["frame"]
        assert wrong["foretold"] != known["foretold"]
        linked = ~batch.is_first[:, 1:]
        with torch.no_grad():
            stoch = model.sample(sure, None)
            right = model.decoder.loss(stoch, batch.obs, batch.is_first)[:, 1:][linked].mean()
        assert known["foretold"] == round(float(right), 2)


def test_rewards_are_asked_for_where_one_can_be_paid(run: Path, tmp_path: Path) -> None:
    known, new = measured("rewards", run, tmp_path, "--windows", "3")
    assert (known["case"], new["case"]) == ("rows learnt from", "new episodes")
    with apart.continued(run, {}) as (agent, trainer):
        paid = trainer.replay.columns["reward"][: len(trainer.replay)] != 0
        length = agent.config.world_model.batch_length
        again = apart.foretold_rewards(agent.world_model, trainer.replay, length, 3)
    assert known["paid"] == int(paid.sum()) > 0
    assert again == {key: known[key] for key in again}
    assert again != {key: new[key] for key in again}


@pytest.mark.parametrize("total", [40, 53])  # full to the brim; thirteen rows overwritten
def test_rewards_by_hand(total: int) -> None:
    length, capacity = 4, 40
    replay = ReplayBuffer(ReplayConfig(capacity=capacity), (1,), torch.float32)
    for g in range(total):  # episodes of four actions and a last frame; the fourth action pays
        last, pays = g % 5 == 4, g % 5 == 3
        reward = (-2.0 if g % 2 else 1.0) * pays
        obs = np.array([g], np.float32)
        replay.append(Transition(obs, g % 5 == 0, 0, reward, pays, False, last))
    asked: list[list[float]] = []

    def seen(batch: Batch, _: object) -> SimpleNamespace:
        rows = batch.obs[..., 0]
        assert torch.equal(rows.diff(dim=1), torch.ones(len(rows), length - 1))  # no seam
        asked.append(rows[:, -1].tolist())
        return SimpleNamespace(deter=batch.reward)

    class Model:
        def eval(self) -> Model:
            return self

        observe = staticmethod(seen)

        @staticmethod
        def reward(deter: Tensor) -> Tensor:
            return torch.where(deter == 0, -0.3, deter.clamp_max(0.5))  # 1 is thought a half

    kept = range(total - capacity, total)
    pays = [float(g) for g in kept if g % 5 == 3]
    whole = [g for g in pays if g >= kept[length - 1]]
    others = [float(g) for g in kept[length - 1 :] if g % 5 < 3]
    found = apart.foretold_rewards(cast("Any", Model()), replay, length, 1000)
    assert asked == [whole, others]  # neither too old, nor where nothing is done
    halves, doubles = (sum(g % 2 == odd for g in whole) for odd in (0, 1))
    share = (0.5 * halves + 2 * doubles) / (halves + 2 * doubles)
    assert found["paid"] == len(pays)
    assert found["foretold"] == round(share, 4)
    mean = sum(2 if g % 2 else 1 for g in pays) / len(pays)
    assert found["made_up"] == round(0.3 / mean, 4)
    asked.clear()
    apart.foretold_rewards(cast("Any", Model()), replay, length, 2)
    assert asked == [[whole[0], whole[-1]], [others[0], others[-1]]]  # spread over all of them
    found = apart.foretold_rewards(cast("Any", Model()), replay, capacity + 9, 2)
    assert found == {"paid": len(pays), "foretold": None, "made_up": None}  # no window is whole
    replay.columns["reward"].zero_()
    found = apart.foretold_rewards(cast("Any", Model()), replay, length, 2)
    assert found == {"paid": 0, "foretold": None, "made_up": None}


def test_the_table_leaves_out_what_was_not_asked() -> None:
    row = {"label": "a", "case": "b"}
    told = apart.rewards_table([row | {"paid": 1200, "foretold": 0.5, "made_up": None}])
    assert "| a | b | 1,200 | 50.0 % |  |" in told


def test_what_is_measured_is_the_policy_and_nothing_is_learnt(run: Path) -> None:
    with apart.continued(run, {"training.overlap": True}) as (agent, _):
        with torch.no_grad():  # a policy of one action only
            for name, value in agent.behaviour.named_parameters():
                if name.startswith("actor"):
                    value.zero_()
            last = [p for n, p in agent.behaviour.named_parameters() if n.startswith("actor")][-1]
            last[2] = 50.0
        trainer = apart.beginning(agent, 3)
        for _ in range(30):
            trainer.collect()
        assert trainer.stream.actions == [2] * 30
        assert trainer.learner.updates == {"world_model": 0, "behaviour": 0}


def test_a_policy_beside_one_that_does_not_look(run: Path, tmp_path: Path) -> None:
    (row,) = measured("unseeing", run, tmp_path, "--episodes", "4")
    assert abs(sum(row["shares"]) - 1) < 0.01
    assert len(row["shares"]) == 3
    assert len(row["seeing"]) == len(row["unseeing"]) == 4
    assert {*row["seeing"], *row["unseeing"]} <= {-1.0, 1.0}


def agent_steps(run: Path) -> int:
    """Steps of an episode of the game, which are as many in each."""
    (length,) = {e.length for e in Agent.load(run).evaluate(4).episodes}
    return length


def test_by_the_policy_and_by_asking_the_model(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    length, asked = agent_steps(run), []
    original = Behaviour.improved_log_probs

    def improved_log_probs(
        self: Behaviour, log_probs: torch.Tensor, q_values: torch.Tensor
    ) -> torch.Tensor:
        asked.append(q_values.shape)
        return original(self, log_probs, q_values)

    monkeypatch.setattr(Behaviour, "improved_log_probs", improved_log_probs)
    options = ("--episodes", "4", "--futures", "2")
    alone, ahead = measured("lookahead", run, tmp_path, *options)
    assert (alone["case"], ahead["case"]) == ("the policy alone", "2 futures of each action")
    assert {*alone["greedy"], *alone["drawn"], *ahead["greedy"], *ahead["drawn"]} <= {-1.0, 1.0}
    assert {tuple(shape) for shape in asked} == {(4, 3)}
    # Asked before each step of episodes of one length, in two modes, by two calls; alone never.
    assert len(asked) == length * 2 * 2


def test_without_looking_only_shares_matter() -> None:
    class Game(gym.Env[int, int]):
        """Pays the number of the action, whatever is seen; eight steps."""

        def reset(self, **_: Any) -> tuple[int, dict[str, Any]]:
            self.step_ = 0
            return 0, {}

        def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
            self.step_ += 1
            return 0, float(action), self.step_ == 8, False, {}

    rng = np.random.default_rng(0)
    assert apart.blindly(Game(), np.array([0.0, 0.0, 1.0]), rng) == 16
    mean = np.mean([apart.blindly(Game(), np.array([0.5, 0.5, 0.0]), rng) for _ in range(400)])
    assert abs(mean - 4) < 0.3


def test_a_policy_learns_anew_and_the_model_stays(run: Path) -> None:
    with apart.continued(run, {"behaviour.entropy": 0.5}) as (agent, trainer):
        assert agent.config.behaviour.entropy == 0.5
        model = {k: v.clone() for k, v in agent.world_model.state_dict().items()}
        size = agent.config.world_model.stoch_size + agent.config.world_model.dynamics.width
        features = torch.randn(4, size, generator=torch.Generator().manual_seed(0))
        uniform = torch.full((4, 3), 1 / 3)
        assert not torch.allclose(agent.behaviour.policy(features).exp(), uniform, atol=1e-4)
        apart.forget(agent, trainer)
        torch.testing.assert_close(agent.behaviour.policy(features).exp(), uniform)
        for _ in range(3):
            trainer.update("behaviour")
        assert not torch.equal(agent.behaviour.policy(features).exp(), uniform)
        for key, value in agent.world_model.state_dict().items():
            assert torch.equal(value, model[key]), key


def test_policies_are_told_with_every_return(run: Path, tmp_path: Path) -> None:
    options = ("--updates", "1", "--episodes", "2", "--cases", "entropy bonus 3e-3")
    (row,) = measured("policy", run, tmp_path, *options)
    assert len(row["greedy"]) == len(row["drawn"]) == 2
    assert {*row["greedy"], *row["drawn"]} <= {-1.0, 1.0}


def test_models_learn_on_with_other_weights(run: Path, tmp_path: Path, monkeypatch: Any) -> None:
    place = {"everywhere": (slice(None), slice(None))}
    monkeypatch.setattr(apart, "PLACES", {GAME: place})
    plain, _, weighted = measured("pixels", run, tmp_path, "--updates", "40", "--every", "20")
    assert plain["shares"]["0"] == weighted["shares"]["0"]
    assert set(plain["shares"]) == {"0", "20", "40"}
    assert plain["shares"]["40"] != weighted["shares"]["40"]


def test_shares_by_hand() -> None:
    class Model:
        def eval(self) -> None: ...

        def posterior(self, frames: torch.Tensor) -> torch.Tensor:
            return frames

        def sample(self, latent: torch.Tensor, _: torch.Generator) -> torch.Tensor:
            return latent

        def decoder(self, latent: torch.Tensor) -> torch.Tensor:
            shown = latent.float() / 255
            shown[:, 0] *= 0.5  # half of the brightness is a quarter of the error
            shown[:, 1] = 0.0  # and the second row is never drawn
            return shown

    frames = torch.zeros(5, 2, 3, 1, dtype=torch.uint8)
    frames[0, 0, 0] = frames[1, 1, 2] = 200
    places = {"drawn": (slice(0, 1), slice(None)), "missing": (slice(1, 2), slice(None))}
    assert apart.shown(Model(), frames, places) == {"drawn": 0.75, "missing": 0.0}  # type: ignore[arg-type]
