"""Open-loop rollouts: windows, hand-computed errors, and the report of a single run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from tests.training.runs import tiny

from drama import Agent
from drama.cli import main
from drama.config import ReplayConfig
from drama.errors import RunDirError
from drama.observations import Leaf, ObsSpace
from drama.replay import ReplayBuffer
from drama.report import dreams, write_report
from drama.types import Transition

CATCH = "drama/Catch-v0"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run of Catch without evaluations."""
    directory = tmp_path_factory.mktemp("single") / "run"
    Agent(CATCH, tiny()).learn(60, run_dir=directory)
    return directory


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


def test_errors_match_hand_computed_values() -> None:
    obs = torch.tensor([0, 0, 51, 102], dtype=torch.uint8)[None, :, None].expand(2, -1, 3)
    image = Leaf("image", (1, 1, 3))
    predicted = torch.zeros(2, 2, 3, dtype=torch.uint8)
    predicted[0] += 51  # right, then a fifth too dark; the other window stays black
    found = dreams.compare(predicted, obs, image, context=2)
    np.testing.assert_allclose(found.copy, [0.04, 0.16])
    np.testing.assert_allclose(found.rollout, [0.02, 0.1])
    np.testing.assert_allclose(found.relative(), [0.5, 0.625])


def test_vectors_are_compared_without_scaling() -> None:
    obs = torch.tensor([0.0, 3.0, 3.0])[None, :, None]
    predicted = torch.tensor([[[3.0], [5.0]]])
    found = dreams.compare(predicted, obs, Leaf("vector", (1,)), context=1)
    np.testing.assert_allclose(found.rollout, [0, 4])
    np.testing.assert_allclose(found.copy, [9, 9])


def test_categorical_variables_are_compared_as_one_hot() -> None:
    leaf = Leaf("one-hot", (2,), "cards", (3, 2))
    obs = torch.tensor([[[0, 1], [2, 1], [2, 0]]], dtype=torch.int32)
    predicted = torch.tensor([[[2, 0], [2, 0]]], dtype=torch.int32)
    one_hot = (dreams.shown({"cards": x}, leaf) for x in (predicted, obs))
    found = dreams.compare(*one_hot, leaf, context=1)
    # A wrong variable has two wrong entries of six.
    np.testing.assert_allclose(found.rollout, [2 / 6, 0])
    np.testing.assert_allclose(found.copy, [2 / 6, 4 / 6])


def test_constant_frames_have_no_relative_error() -> None:
    found = dreams.Errors(np.array([0.5, 0.5]), np.array([0.0, 1.0])).relative()
    np.testing.assert_array_equal(found, [np.nan, 0.5])


def test_windows_of_the_replay_stay_in_an_episode() -> None:
    replay = ReplayBuffer(ReplayConfig(capacity=20), ObsSpace.vector(1))
    for g in range(33):  # episodes of five steps; the ring has wrapped
        obs = np.array([g], np.float32)
        replay.append(Transition(obs, g % 5 == 0, g % 3, 0.0, False, False, g % 5 == 4))
    found = dreams.replay_windows(replay, 4)
    assert found is not None
    starts = found.obs[:, 0, 0].tolist()
    assert starts == [s for s in range(13, 30) if s % 5 < 2]
    assert torch.equal(found.obs[..., 0].diff(dim=1), torch.ones(len(starts), 3))
    assert torch.equal(found.action, found.obs[..., 0].long() % 3)
    assert dreams.replay_windows(replay, 6) is None


def test_windows_of_episodes_are_evenly_spaced(monkeypatch: pytest.MonkeyPatch) -> None:
    episodes = [(torch.arange(n)[:, None] + 10 * n, torch.arange(n)) for n in (4, 2, 6)]
    found = dreams.cut(episodes, 3)
    assert found.obs[:, 0, 0].tolist() == [40, 41, 60, 61, 62, 63]
    assert found.action[2].tolist() == [0, 1, 2]
    monkeypatch.setattr(dreams, "WINDOWS", 2)
    assert dreams.cut(episodes, 3).obs[:, 0, 0].tolist() == [40, 63]


def test_rollout_reads_only_context_and_actions() -> None:
    agent = Agent(CATCH, tiny())
    (obs, action), *_ = dreams.play(agent)
    assert len(obs) == len(action) == 8  # seven steps and the final observation
    windows = dreams.cut([(obs, action)], 8)
    found = dreams.rollout(agent, windows, context=3)
    assert found.shape == (1, 5, *obs.shape[1:])
    hidden = windows.obs.clone()
    hidden[:, 3:] = 0
    again = dreams.rollout(agent, windows._replace(obs=hidden), context=3)
    assert torch.equal(found, again)
    last = windows.action.clone()
    last[:, -1] = 2  # unused: it follows the last frame
    assert torch.equal(found, dreams.rollout(agent, windows._replace(action=last), context=3))


def test_the_first_prediction_is_decoded_from_the_prior() -> None:
    agent = Agent(CATCH, tiny())
    model = agent.world_model
    windows = dreams.cut(dreams.play(agent), 8)
    with torch.no_grad():
        random = torch.Generator().manual_seed(0)
        stoch = model.sample(model.posterior(windows.obs[:, :2]), random)
        state = model.dynamics.init_state(len(stoch))
        for t in range(2):
            deter, state = model.step(stoch[:, t], windows.action[:, t], state)
        latent = model.sample(model.prior(deter), random)
        wanted = model.decoder.to_obs(model.decoder(latent))
    assert torch.equal(dreams.rollout(agent, windows, context=2)[:, 0], wanted)


def test_the_report_of_a_run_shows_strip_and_error(run: Path) -> None:
    before = {p: p.read_bytes() for p in sorted(run.rglob("*")) if p.is_file()}
    report = write_report(run)
    assert report.out == run / "report"
    assert {"curves", "rollout-strip", "rollout-error"} <= set(report.figures)
    assert before == {p: p.read_bytes() for p in before}
    tree = json.loads((report.out / "report.json").read_text())
    assert tree["rollouts"]["context"] == 2
    for source in (dreams.FRESH, dreams.REPLAY):
        assert len(tree["rollouts"][source]["rollout"]) == 6
    picture = cv2.imread(str(report.out / "figures" / "rollout-strip.png"))
    assert picture is not None
    assert picture.shape[1] > picture.shape[0] > 100
    page = report.page.read_text()
    assert 'id="figure-rollout-strip"' in page
    assert 'id="figure-rollout-error"' in page
    first = {p.name: p.read_bytes() for p in report.out.rglob("*") if p.is_file()}
    write_report(run)  # replaces the earlier one, with the same bytes
    assert first == {p.name: p.read_bytes() for p in report.out.rglob("*") if p.is_file()}


def test_a_run_of_vectors_has_the_curve_only(tmp_path: Path) -> None:
    Agent("CartPole-v1", tiny()).learn(60, run_dir=tmp_path / "run")
    report = write_report(tmp_path / "run", tmp_path / "out")
    assert "rollout-error" in report.figures
    assert "rollout-strip" not in report.figures


def test_a_run_whose_environment_is_missing_has_the_other_figures(run: Path) -> None:
    for path in (run / "config.json", *run.glob("checkpoints/*/config.json")):
        path.write_text(path.read_text().replace(CATCH, "drama/Gone-v0"))
    report = write_report(run)
    assert "curves" in report.figures
    assert "rollout-error" not in report.figures
    assert "no rollouts of the world model" in report.page.read_text()


def test_agent_without_a_replay_uses_new_episodes(run: Path, tmp_path: Path) -> None:
    Agent.load(run).save(tmp_path / "saved", replay=False)
    found = dreams.measure_rollouts(tmp_path / "saved")
    assert list(found.errors) == [dreams.FRESH]


def test_report_command_writes_the_rollouts(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run), "--out", str(run.parent / "out")]) == 0
    assert "written to" in capsys.readouterr().out
    assert main(["report", str(run), "--out", str(run / "elsewhere")]) == 2
    assert "lies in a run directory" in capsys.readouterr().err


def test_broken_configuration_is_reported_in_one_line(run: Path) -> None:
    (run / "config.json").write_text("{")
    with pytest.raises(RunDirError, match=r"config\.json cannot be read"):
        write_report(run)
