"""Code named by an untrusted run is imported only with the user's consent."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.faults.mutations import rehash, seal
from tests.training.runs import options, tiny

from drama import Agent, trust
from drama.cli import main
from drama.errors import EnvError

pytestmark = pytest.mark.faults

MODULE = """
import sys
sys.modules[__name__].__dict__["imported"] = True
import gymnasium as gym

def make():
    return gym.make("CartPole-v1")

class Wrap(gym.Wrapper):
    pass
"""


@pytest.fixture(autouse=True)
def _account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user account without earlier runs, and a module that is not imported yet."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "strangers_code.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "strangers_code", raising=False)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("trust") / "run"
    Agent("CartPole-v1", tiny({"steps": 40})).learn(40, run_dir=run)
    return run


def hostile(plain: Path, target: Path, **env: Any) -> Path:
    """Copy of a run whose files name another environment, all hashes valid."""
    shutil.copytree(plain, target)
    checkpoint = target / "checkpoints" / "000000040"
    config = json.loads((checkpoint / "config.json").read_text())
    config["env"] |= env
    for path in (checkpoint / "config.json", target / "config.json"):
        path.write_text(json.dumps(config))
    seal(checkpoint, rehash(target, checkpoint))
    return target


EVIL: tuple[dict[str, Any], ...] = (
    {"id": "strangers_code:CartPole-v1"},
    {"id": "strangers_code:make"},
    {"wrappers": ["strangers_code:Wrap"]},
    {"wrappers": ["gymnasium.wrappers:TimeAwareObservation", "strangers_code:Wrap()"]},
    {"id": "strangers_code:make", "made_by": "gymnasium"},
)


@pytest.mark.parametrize("env", EVIL)
def test_code_named_by_an_untrusted_run_is_not_imported(
    env: dict[str, Any], plain: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = hostile(plain, tmp_path / "run", **env)
    with pytest.raises(EnvError, match=r"would import .*strangers_code.* --trust-env"):
        Agent.load(run)
    for command in (["eval", str(run)], ["train", "--resume", str(run), "--steps", "50"]):
        assert main(command) == 2
        assert "would import" in capfd.readouterr().err
    assert main(["train", "--config", str(run / "config.json"), "--run-dir", "new"]) == 2
    assert "would import" in capfd.readouterr().err
    assert "strangers_code" not in sys.modules


def test_giving_the_environment_does_not_trust_the_wrappers(plain: Path, tmp_path: Path) -> None:
    run = hostile(plain, tmp_path / "run", wrappers=["strangers_code:Wrap"])
    with pytest.raises(EnvError, match="would import 'strangers_code:Wrap'"):
        Agent.load(run, env="CartPole-v1")
    assert "strangers_code" not in sys.modules


def test_a_wrapper_that_writes_files_needs_trust(plain: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    video = f"gymnasium.wrappers:RecordVideo(video_folder={str(precious)!r})"
    with pytest.raises(EnvError, match="would import"):
        Agent.load(hostile(plain, tmp_path / "run", wrappers=[video]))
    assert not precious.exists()


def test_trust_option_allows_the_import(plain: Path, tmp_path: Path) -> None:
    run = hostile(plain, tmp_path / "run", id="strangers_code:make")
    config = run / "checkpoints" / "000000040" / "config.json"
    assert "strangers_code" in config.read_text()
    assert Agent.load(run, trust_env=True).evaluate(1).episodes
    assert main(["eval", str(run), "--episodes", "1", "--trust-env"]) == 0
    assert main(["train", "--resume", str(run), "--steps", "50", "--trust-env"]) == 0


def test_own_runs_need_no_trust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = ["train", "quick", "--env", "strangers_code:make", "--run-dir", "mine"]
    assert main([*args, *options({"steps": 40})]) == 0
    assert Agent.load("mine").num_timesteps == 40
    assert main(["train", "--resume", "mine", "--steps", "50"]) == 0
    (kept,) = map(json.loads, trust.known_file().read_text().splitlines())
    assert kept == ["strangers_code:make", {}, [], [str(tmp_path / "strangers_code.py")]]
    # Another file of the same name is untrusted, and so are other arguments.
    monkeypatch.setattr(sys.modules["strangers_code"], "__file__", "/elsewhere/strangers_code.py")
    with pytest.raises(EnvError, match="would import"):
        Agent.load("mine")
    monkeypatch.undo()
    with pytest.raises(EnvError, match="would import"):
        trust.check("strangers_code:make", {"n": 1}, (), trusted=False, where="run")


def test_trust_is_required_if_no_record_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    Agent("strangers_code:make", tiny()).save("saved")
    with pytest.raises(EnvError, match="would import"):
        Agent.load("saved")
    assert Agent.load("saved", trust_env=True)


def test_runs_that_need_no_trust() -> None:
    assert trust.code_named("ALE/Pong-v5") == []
    stack = "gymnasium.wrappers:FrameStackObservation(stack_size=4)"
    within = "gymnasium.wrappers.common:TimeLimit(max_episode_steps=200)"
    assert trust.code_named("CartPole-v1", [stack, within]) == []
    evil = [
        "gymnasium.wrappers.rendering:os",
        "gymnasium.wrappers.rendering:os.system",
        "os:system",
    ]
    assert trust.code_named("CartPole-v1", evil) == evil
    assert trust.code_named("minigrid:MiniGrid-Empty-5x5-v0") == ["minigrid:MiniGrid-Empty-5x5-v0"]
