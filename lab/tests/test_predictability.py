"""Predictability: hand-computed events and areas under the curve, and the log's numbers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from lab import LAB, LOG, predictability
from lab.runs import continued, played

from drama import Agent
from drama.suite import load_spec
from drama.suite.override import override
from drama.types import Batch


def test_log_matches_the_recorded_numbers() -> None:
    page = (LAB / LOG).read_text(encoding="utf-8")
    for event in predictability.EVENTS.values():
        path = LAB / "assets" / f"{event.block}.json"
        assert predictability.markdown(json.loads(path.read_text(encoding="utf-8"))) in page


def rows(lanes: list[int], firsts: list[int], rewards: list[float]) -> predictability.Rows:
    """Transitions with the chicken in these lanes, 0 at the top."""
    count = len(lanes)
    obs = torch.zeros(1, count, 10, 10, 7, dtype=torch.uint8)
    obs[0, torch.arange(count), torch.tensor(lanes), 4, 0] = 255
    none = torch.zeros(1, count, dtype=torch.bool)
    return predictability.Rows(
        Batch(
            obs=obs,
            is_first=torch.tensor([firsts]).bool(),
            action=torch.arange(count)[None] % 3,
            reward=torch.tensor([rewards]),
            terminated=none,
            truncated=none,
            is_last=none,
        ),
        3,
        predictability.thrown,
    )


def test_hits_are_distinguished_from_crossings_and_episode_boundaries() -> None:
    found = rows([9, 8, 9, 8, 1, 9, 8, 9], [1, 0, 0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 1, 0, 0, 0])
    # No hit is possible in the bottom lane; 4 is rewarded; 6 is followed by an episode's start.
    assert found.asked.tolist() == [False, True, False, True, False, False, False]
    assert found.happened.tolist() == [False, True, False, False, False, False, True]


def test_queried_transitions_have_a_past_in_their_episode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictability, "WINDOW", 2)
    found = rows([8] * 7, [1, 0, 0, 1, 0, 0, 0], [0.0] * 7)
    assert found.having(1).tolist() == [1, 3, 4, 5]
    assert found.having(2).tolist() == [1, 4, 5]
    assert found.having(3).tolist() == [5]
    shown = found.shown(torch.tensor([4]), 2)
    assert shown.shape == (1, 20, 10, 10)
    assert shown[0, 7:10, 0, 0].tolist() == [0, 1, 0]  # transition 4 has action 1
    assert shown[0, 17:, 0, 0].tolist() == [1, 0, 0]  # transition 3 has action 0


def test_area_matches_hand_computed_values() -> None:
    happened = torch.tensor([True, True, False, False])
    assert predictability.area(torch.tensor([3.0, 2.0, 1.0, 0.0]), happened) == 1.0
    assert predictability.area(torch.tensor([3.0, 0.0, 1.0, 2.0]), happened) == 0.5
    assert (
        predictability.area(torch.tensor([1.0, 1.0, 1.0, 0.0]), happened) == 0.75
    )  # ties count half


def test_convolution_shares_weights_over_places_and_mlp_does_not() -> None:
    torch.manual_seed(0)
    here = torch.zeros(2, 5, 10, 10)
    here[0, :, 4, 4] = here[1, :, 5, 5] = 1.0
    one, other = predictability.Convolution(5, 10)(here)
    torch.testing.assert_close(one, other)
    one, other = predictability.Perceptron(5, 10)(here)
    assert one != other
    strides = [layer.stride[0] for layer in predictability.Convolution(5, 64).layers[::2]]
    assert strides == [2, 2, 1, 1, 1]


def test_reward_event_belongs_to_the_rewarded_action() -> None:
    given = rows([0] * 5, [1, 0, 0, 1, 0], [0.0, 1.0, 0.0, -1.0, 1.0]).batch
    is_last = torch.tensor([[False, False, True, False, False]])
    found = predictability.Rows(given._replace(is_last=is_last), 3, predictability.paid)
    assert found.asked.tolist() == [True, True, False, True]
    assert found.happened.tolist() == [False, True, False, False]  # a negative reward is no event


def test_run_is_measured_and_written_to_the_log(tmp_path: Path) -> None:
    pytest.importorskip("minatar", reason="MinAtar is not installed")
    spec = load_spec(str(LAB.parent / "experiments" / "minatar.toml"))
    warmup = {"training.warmup_steps": 1500, "training.random_action_repeat": 24}
    config = override(spec.variant("drama").config, warmup)
    Agent("MinAtar/Freeway-v1", config).learn(1490, run_dir=tmp_path / "run")
    shutil.copy(LAB / LOG, tmp_path / LOG)
    options = ["--updates", "3", "--new-rows", "700", "--most", "200", "--lab", str(tmp_path)]
    predictability.main([f"here={tmp_path / 'run'}", *options])
    found = json.loads((tmp_path / "assets" / "predictability-thrown.json").read_text())
    scores = found["runs"]["here"]["scores"]
    networks = [
        f"{kind}, {many}" for kind in ("convolution", "MLP") for many in predictability.FRAMES
    ]
    assert list(scores) == [*networks, "the world model of the run"]
    for areas in scores.values():
        assert len(areas) == 2
        assert all(0 <= area <= 1 for area in areas)
    assert predictability.markdown(found) in (tmp_path / LOG).read_text(encoding="utf-8")


CATCH = {"training.warmup_steps": 400, "world_model.filters": (4, 8), "replay.capacity": 300}


def catch_agent(run_dir: Path) -> Agent:
    spec = load_spec(str(LAB.parent / "experiments" / "catch-current.toml"))
    agent = Agent("drama/Catch-v0", override(spec.variants[0].config, CATCH))
    return agent.learn(390, run_dir=run_dir)


def test_transitions_of_a_wrapped_replay_are_in_order(tmp_path: Path) -> None:
    agent = catch_agent(tmp_path / "run")
    with continued(tmp_path / "run", {}) as (_, trainer):
        replay = trainer.replay
        assert replay.total > replay.capacity == len(replay)
        slots = predictability.in_order(replay).slot
        assert slots is not None
        oldest = replay.total % replay.capacity
        expected = [(oldest + i) % replay.capacity for i in range(replay.capacity - 1)]
        assert slots[0].tolist() == expected
        young = played(agent, 3, 200)
        slots = predictability.in_order(young).slot
        assert slots is not None
        assert slots[0].tolist() == list(range(young.total - 1))


def test_inputs_are_frames_or_latents_of_the_queried_transitions(tmp_path: Path) -> None:
    agent = catch_agent(tmp_path / "run")
    model = agent.world_model.eval()
    torch.manual_seed(0)
    last = list(model.reward_head.parameters())[-2]
    torch.nn.init.normal_(last)  # zero before training
    replay = played(agent, 3, 200)
    batch = predictability.in_order(replay)
    found = predictability.Rows(batch, model.actions.count, predictability.paid)
    index = torch.tensor([50, 60])
    shown = found.shown(index, 2)
    channels = batch.obs.shape[-1]
    for back in range(2):
        frames = shown[:, back * (channels + model.actions.count) :][:, :channels]
        expected = batch.obs[0, index - back].permute(0, 3, 1, 2) / 255
        torch.testing.assert_close(frames, expected)
    assert not torch.equal(batch.obs[0, index], batch.obs[0, index - 1])
    with torch.no_grad():
        latents = found.as_latents(model)
        shown = latents.shown(index, 1)
        expected = model.posterior(batch.obs[0, index]).exp().flatten(1)
        said = predictability.expected_reward(model, found, index)
        window = replay.windows(index, predictability.WINDOW)
        deter = model.observe(window, torch.Generator().manual_seed(0)).deter[:, -1]
    assert shown.shape[2:] == (1, 1)
    torch.testing.assert_close(shown[:, : expected.shape[1], 0, 0], expected)
    assert found.shows.dtype == torch.uint8  # the frames are still there
    torch.testing.assert_close(said, model.reward(deter))
    assert said[0] != said[1]


def test_networks_train_on_training_transitions_and_are_tested_on_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = catch_agent(tmp_path / "run")
    taught: list[tuple[int, torch.dtype, int]] = []

    class Knows(torch.nn.Module):
        """Returns the middle of the lowest pixel row, or the first latent."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[:, 0, -1, x.shape[-1] // 2]

    def stub(
        build: predictability.Build, rows: predictability.Rows, frames: int, updates: int
    ) -> Knows:
        taught.append((len(rows.shows), rows.shows.dtype, frames))
        return Knows()

    asked: list[tuple[int, int]] = []

    def area(score: torch.Tensor, happened: torch.Tensor) -> float:
        asked.append((len(score), int(happened.sum())))
        return len(asked)

    monkeypatch.setattr(predictability, "taught", stub)
    monkeypatch.setattr(predictability, "area", area)
    event = predictability.EVENTS["paid"]
    found = predictability.ask(tmp_path / "run", event, new_rows=150, updates=1, most=1000, seed=5)
    known = found["rows"]
    assert known == CATCH["replay.capacity"] - 1
    assert found["new"] == 149
    frames, latents = torch.uint8, torch.float32
    assert taught == [
        (known, frames, 1),
        (known, frames, 4),
        (known, latents, 1),
        (known, latents, 4),
    ]
    # Five predictors, each scored on training transitions and then on held-out ones.
    (one, other), happened = asked[:2], found["happened"]
    assert asked == [one, other] * 5
    assert [one[1], other[1]] == happened
    new = predictability.Rows(
        predictability.in_order(played(agent, 5, 150)), 3, predictability.paid
    )
    index = new.having(4)
    assert other == (len(index), int(new.happened[index].sum()))
    assert one[0] > other[0]
    assert one[1] > other[1] > 0
    assert list(found["scores"].values()) == [[2 * i + 1, 2 * i + 2] for i in range(5)]


def test_each_event_has_a_separate_block(tmp_path: Path) -> None:
    catch_agent(tmp_path / "run")
    block = "<!-- begin predictability-paid -->\n<!-- end predictability-paid -->\n"
    (tmp_path / LOG).write_text(block)
    options = ["--updates", "3", "--new-rows", "300", "--lab", str(tmp_path)]
    predictability.main(["--event", "paid", f"here={tmp_path / 'run'}", *options])
    page = (tmp_path / LOG).read_text()
    told = "--event paid --new-rows 300 --updates 3"
    assert f'`python -m lab.predictability {told} "here={tmp_path / "run"}"`' in page
    names = ("convolution, four frames", "MLP, latents, one frame", "the world model of the run")
    for name in names:
        assert f"| here | {name} |" in page
