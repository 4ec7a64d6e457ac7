"""The ``drama`` command: exit codes, one-line errors and written files."""

from __future__ import annotations

import dataclasses
import errno
import importlib.metadata
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.training.faulty_envs import Crash, NanReward, Walk, WildObs, env_id
from tests.training.runs import assert_same_run, contents, json_rows, options, tiny

import drama
from drama import Agent, presets, registry
from drama.cli import main
from drama.cli.common import escape_unencodable_output
from drama.cli.options import SETTINGS, SHORT
from drama.config import Config
from drama.dynamics import GRUDynamics
from drama.errors import ConfigError
from drama.evaluation import EvaluationResult
from drama.settings import flat
from drama.training.checkpoint import CheckpointDir
from drama.training.checkpointer import Checkpointer
from drama.training.rundir import RunLock
from drama.training.stream import EnvStream
from drama.training.trainer import Trainer

WALK = env_id(Walk)
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _in_an_empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 40 steps."""
    path = tmp_path_factory.mktemp("cli") / "run"
    Agent(WALK, tiny({"steps": 40, "env.id": WALK})).learn(40, run_dir=path)
    return path


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def train(*args: str, changes: dict[str, Any] | None = None, env: str = WALK) -> int:
    return main(["train", "quick", "--env", env, *options(changes), *args])


def complaint(capfd: Capture, code: int, expected: int = 2) -> str:
    """The one line on standard error that begins with ``drama: error:``; it is the last."""
    captured = capfd.readouterr()
    assert code == expected, captured.err
    lines = captured.err.strip().splitlines()
    assert "Traceback" not in captured.err
    assert [line.startswith("drama: error: ") for line in lines].count(True) == 1, captured.err
    assert lines[-1].startswith("drama: error: ")
    return lines[-1]


# -- successful commands------------------------------------------------------------------------


def test_complete_run_writes_its_files(capfd: Capture, tmp_path: Path) -> None:
    assert train("--run-dir", str(tmp_path / "run"), changes={"steps": 40}) == 0
    captured = capfd.readouterr()
    assert str(tmp_path / "run") in captured.out
    assert "mean return" in captured.out
    assert "drama: error" not in captured.err
    assert captured.err.count("backend torch: tensors are on the CPU") == 1
    names = {p.name for p in (tmp_path / "run").iterdir()} - {".lock"}
    assert names == {
        "config.json",
        "run.json",
        "metrics.jsonl",
        "episodes.jsonl",
        "eval.json",
        "checkpoints",
        "replay",
    }
    config = Config.from_json((tmp_path / "run" / "config.json").read_text())
    assert config == tiny({"steps": 40, "env.id": WALK})
    assert [row["step"] for row in json_rows(tmp_path / "run" / "metrics.jsonl")] == [
        10,
        20,
        30,
        40,
    ]
    first = json_rows(tmp_path / "run" / "episodes.jsonl")[0]
    assert list(first) == ["step", "return", "length", "seconds"]
    assert first["step"] == first["length"] == 7
    evaluated = json.loads((tmp_path / "run" / "eval.json").read_text())
    assert list(evaluated) == ["greedy"]
    assert len(evaluated["greedy"]["episodes"]) == 4
    assert evaluated["greedy"]["protocol"]["train_steps"] == 40
    Agent(WALK, tiny({"steps": 40})).learn(40, run_dir=tmp_path / "api")
    (tmp_path / "run" / "eval.json").unlink()
    assert_same_run(tmp_path / "run", tmp_path / "api")


def test_directory_with_special_characters(capfd: Capture, tmp_path: Path) -> None:
    run = tmp_path / "a [bold]run[/x] of mine"
    assert train("--run-dir", str(run), changes={"steps": 5}) == 0
    assert f"run: {run}" in capfd.readouterr().out
    assert main(["train", "--resume", str(run), "--steps", "8"]) == 0
    captured = capfd.readouterr()
    assert f"continuing {run} from step 5" in captured.err
    assert main(["eval", str(run), "--episodes", "1"]) == 0
    assert f"written to {run}" in capfd.readouterr().out


def test_runs_are_numbered(capfd: Capture) -> None:
    changes = {"steps": 5, "evaluation.episodes": 0}
    for _ in range(2):
        assert train(env="CartPole-v1", changes=changes) == 0
    out = capfd.readouterr().out.split()
    assert [word for word in out if word.startswith("runs/")] == [
        "runs/CartPole-v1-quick-changed-s0-1",
        "runs/CartPole-v1-quick-changed-s0-2",
    ]


def test_runs_that_start_at_the_same_time_get_separate_directories(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second chooses its name after the first has chosen and before it has written."""
    changes = {"steps": 5, "evaluation.episodes": 0}
    learn, codes = Agent.learn, []

    def second_first(agent: Agent, *args: Any, **kwargs: Any) -> Agent:
        monkeypatch.setattr(Agent, "learn", learn)
        codes.append(train(changes=changes, env="CartPole-v1"))
        return learn(agent, *args, **kwargs)

    monkeypatch.setattr(Agent, "learn", second_first)
    codes.append(train(changes=changes, env="CartPole-v1"))
    assert codes == [0, 0]
    assert sorted(path.name for path in Path("runs").iterdir()) == [
        "CartPole-v1-quick-changed-s0-1",
        "CartPole-v1-quick-changed-s0-2",
    ]


def test_unused_run_name_is_released(capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ConfigError("not today")

    monkeypatch.setattr(Agent, "learn", refuse)
    assert "not today" in complaint(capfd, train(env="CartPole-v1"))
    assert list(Path("runs").iterdir()) == []
    (Path("mine")).mkdir()  # but the user's own directory stays
    assert "not today" in complaint(capfd, train("--run-dir", "mine"))
    assert Path("mine").is_dir()


def test_eval_writes_both_modes_and_json_alone_to_standard_output(
    run: Path, capfd: Capture
) -> None:
    assert main(["eval", str(run), "--episodes", "3", "--json"]) == 0
    tree = json.loads(capfd.readouterr().out)
    assert list(tree) == ["greedy", "sampled"]
    assert tree == json.loads((run / "eval.json").read_text())
    assert [tree[mode]["mode"] for mode in tree] == ["greedy", "sampled"]
    assert {len(tree[mode]["episodes"]) for mode in tree} == {3}
    args = ["eval", str(run), "--episodes", "3", "--mode", "greedy", "--seed", "4"]
    assert main(args) == 0
    assert "greedy: mean return" in capfd.readouterr().out
    tree = json.loads((run / "eval.json").read_text())
    assert tree["greedy"]["protocol"]["seed"] == 4


@pytest.mark.faults
def test_eval_prints_its_result_if_it_cannot_be_written(
    run: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, tree: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr("drama.cli.evaluate.write_json", refuse)
    assert main(["eval", str(run), "--episodes", "2", "--json"]) == 2
    captured = capfd.readouterr()
    assert len(json.loads(captured.out)["greedy"]["episodes"]) == 2
    assert "eval.json: Read-only file system" in captured.err.splitlines()[-1]


def test_eval_supports_lookahead(run: Path, capfd: Capture) -> None:
    args = ["eval", str(run), "--episodes", "2", "--mode", "greedy"]
    for futures in (0, 3):
        assert main([*args, "--lookahead", str(futures)]) == 0
        tree = json.loads((run / "eval.json").read_text())
        assert tree["greedy"]["protocol"]["lookahead"] == futures
    # Results of other action selection are replaced.
    assert main(["eval", str(run), "--episodes", "2", "--mode", "sampled"]) == 0
    tree = json.loads((run / "eval.json").read_text())
    assert list(tree) == ["sampled"]
    assert tree["sampled"]["protocol"]["lookahead"] == 0
    assert main(args) == 0  # the value of the run
    assert list(json.loads((run / "eval.json").read_text())) == ["greedy", "sampled"]
    capfd.readouterr()
    assert main([*args, "--lookahead", "-1"]) == 2
    assert "lookahead must lie in [0, 1024], got -1" in capfd.readouterr().err


def test_eval_reports_latents_and_actions_and_does_not_mix_them(run: Path, capfd: Capture) -> None:
    args = ["eval", str(run), "--episodes", "2", "--mode"]
    assert main([*args, "greedy"]) == 0
    assert "latents sampled, actions argmax)" in capfd.readouterr().out
    protocol = json.loads((run / "eval.json").read_text())["greedy"]["protocol"]
    assert (protocol["latents"], protocol["actions"]) == ("sampled", "argmax")
    assert main([*args, "sampled", "--latents", "mode"]) == 0
    captured = capfd.readouterr()
    assert "latents mode, actions sampled)" in captured.out
    assert "the greedy evaluation in " in captured.err
    assert "has another protocol and is removed" in " ".join(captured.err.split())
    assert list(json.loads((run / "eval.json").read_text())) == ["sampled"]


def test_eval_reads_older_greedy_evaluations_as_mode_latents(run: Path) -> None:
    """Before latents were recorded, greedy used their mode and sampled sampled them."""
    args = ["eval", str(run), "--episodes", "2"]
    assert main([*args, "--latents", "mode", "--mode", "greedy"]) == 0
    tree = json.loads((run / "eval.json").read_text())
    for key in ("latents", "actions", "scored", "wrappers", "step_limit", "truncated_by_limit"):
        del tree["greedy"]["protocol"][key]
    (run / "eval.json").write_text(json.dumps(tree))
    assert main([*args, "--latents", "mode", "--mode", "sampled"]) == 0
    assert list(json.loads((run / "eval.json").read_text())) == ["greedy", "sampled"]
    (run / "eval.json").write_text(json.dumps(tree))
    assert main([*args, "--mode", "sampled"]) == 0
    assert list(json.loads((run / "eval.json").read_text())) == ["sampled"]


def test_eval_truncates_at_the_given_limit_and_reports_it(run: Path, capfd: Capture) -> None:
    args = ["eval", str(run), "--episodes", "2", "--mode", "greedy"]
    assert main([*args, "--max-episode-steps", "3"]) == 0
    said = " ".join(capfd.readouterr().out.split())
    assert "2 truncated after 3 steps (evaluation.max_episode_steps)" in said
    protocol = json.loads((run / "eval.json").read_text())["greedy"]["protocol"]
    assert (protocol["step_limit"], protocol["truncated_by_limit"]) == (3, 2)
    assert main([*args, "--episodes", "1"]) == 0
    said = capfd.readouterr().out
    assert "over 1 episode (latents" in said  # one episode has no deviation
    assert main([*args, "--max-episode-steps", "0"]) == 2
    assert "--max-episode-steps must be at least 1, got 0" in capfd.readouterr().err


def test_eval_explains_a_missing_normalised_score(tmp_path: Path, capfd: Capture) -> None:
    config = tiny({"world_model.filters": (4, 4, 4), "env.max_episode_steps": 40})
    Agent("ALE/Pong-v5", config).save(tmp_path / "short")
    assert main(["eval", str(tmp_path / "short"), "--episodes", "1", "--mode", "greedy"]) == 0
    said = " ".join(capfd.readouterr().out.split())
    why = "max episode steps 40 instead of 27000"
    assert f"no human-normalised score: {why}" in said
    result = json.loads((tmp_path / "short" / "eval.json").read_text())["greedy"]
    assert (result["normalised"], result["normalised_reason"]) == (None, why)


def test_eval_changes_only_its_file(run: Path) -> None:
    before = contents(run)
    assert main(["eval", str(run), "--episodes", "2"]) == 0
    after = contents(run)
    assert after.pop("eval.json")
    assert after == before


def test_eval_keeps_the_other_mode_of_the_same_agent(run: Path, capfd: Capture) -> None:
    args = ["eval", str(run), "--episodes", "2", "--mode"]
    assert main([*args, "sampled"]) == 0
    sampled = json.loads((run / "eval.json").read_text())["sampled"]
    assert main([*args, "greedy"]) == 0
    tree = json.loads((run / "eval.json").read_text())
    assert list(tree) == ["greedy", "sampled"]
    assert tree["sampled"] == sampled
    # Not that of an earlier step, and no unreadable file.
    tree["sampled"]["protocol"]["train_steps"] = 20
    for text in (json.dumps(tree), "{", "[]", '{"sampled": 3}'):
        (run / "eval.json").write_text(text)
        assert main([*args, "greedy"]) == 0
        assert list(json.loads((run / "eval.json").read_text())) == ["greedy"]


def test_eval_of_an_older_checkpoint_keeps_that_of_the_last(run: Path, capfd: Capture) -> None:
    assert main(["eval", str(run), "--episodes", "2"]) == 0
    before = contents(run)
    capfd.readouterr()
    assert main(["eval", str(run / "checkpoints" / "000000020"), "--episodes", "2"]) == 0
    captured = capfd.readouterr()
    assert "greedy: mean return" in captured.out
    assert "written to" not in captured.out
    assert "000000020 is not the last checkpoint: eval.json is not written" in captured.err
    assert contents(run) == before
    (run / "eval.json").unlink()
    assert main(["eval", str(run / "checkpoints" / "000000040"), "--episodes", "2"]) == 0
    assert contents(run) == before


def test_training_replaces_an_earlier_evaluation(run: Path) -> None:
    assert main(["eval", str(run), "--episodes", "2"]) == 0
    tree = json.loads((run / "eval.json").read_text())
    for result in tree.values():
        result["protocol"]["train_steps"] = 50
    (run / "eval.json").write_text(json.dumps(tree))
    assert main(["train", "--resume", str(run), "--steps", "50"]) == 0
    assert list(json.loads((run / "eval.json").read_text())) == ["greedy"]


def test_version_help_and_usage(capfd: Capture) -> None:
    assert main(["--version"]) == 0
    assert capfd.readouterr().out == f"drama {drama.__version__}\n"
    assert main(["--help"]) == 0
    assert "drama train" in capfd.readouterr().out
    assert main([]) == 2
    for command in ("eval", "doctor", "presets"):
        with pytest.raises(SystemExit) as stop:
            main([command, "--help"])
        assert stop.value.code == 0
        assert f"drama {command}" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        ([], 2),
        (["trian"], 2),
        (["train", "--help"], 0),
        (["train", "xs", "--help-all"], 0),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_commands_without_torch_do_not_import_it(args: list[str], code: int) -> None:
    script = (
        "import sys\n"
        "from drama.cli import main\n"
        "try:\n"
        "    code = main(sys.argv[1:])\n"
        "except SystemExit as stop:\n"
        "    code = stop.code or 0\n"
        "sys.exit(99 if 'torch' in sys.modules else code)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, *args], capture_output=True, check=False)
    assert done.returncode == code, done.stderr.decode()


def test_package_lists_its_names_without_torch() -> None:
    script = (
        "import sys, drama, gymnasium\n"
        "assert set(drama.__all__) <= set(dir(drama))\n"
        "gymnasium.make('drama/Catch-v0')\n"
        "drama.presets.quick(), drama.Config\n"
        "assert 'torch' not in sys.modules\n"
        "from drama import *\n"
        "assert Agent is drama.Agent and callable(drama.ssm.ssd)\n"
        "assert not hasattr(drama, 'Agnet')\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True)


def test_help_shows_twenty_settings_and_help_all_every_one(capfd: Capture) -> None:
    assert main(["train", "--help"]) == 0
    text = capfd.readouterr().out
    used = [*SHORT, *SETTINGS]
    assert len(used) == 20
    for name in (*used, "run-dir", "resume", "preset", "config", "print-config"):
        assert f"--{name} " in text
    assert text.count("--") < 35
    assert main(["train", "xs", "--help"]) == 0
    assert "environment steps of the run (100000)" in capfd.readouterr().out
    with pytest.raises(SystemExit):
        main(["train", "--help-all"])
    every = capfd.readouterr().out
    for name in flat(dataclasses.asdict(Config())):
        assert f"--{name.rstrip('_').replace('_', '-')}" in every
    assert "Environment steps with random actions before the first update" in " ".join(
        every.split()
    )
    # The built-in backbones are named, without the import that registers them.
    (line,) = [line for line in text.splitlines() if "--dynamics" in line]
    words = text[text.index(line) :]
    assert all(name in words for name in ("mamba2", "mamba1", "transformer", "gru"))


# -- which preset runs -------------------------------------------------------------------------


def printed_config(capfd: Capture, *args: str) -> Config:
    assert main(["train", *args, "--print-config"]) == 0
    assert not list(Path().iterdir()), "something was left behind"
    return Config.from_json(capfd.readouterr().out)


@pytest.mark.parametrize("args", [["quick"], ["--preset", "quick"], ["--preset=quick"]])
def test_preset_can_be_positional_or_an_option(args: list[str], capfd: Capture) -> None:
    assert printed_config(capfd, *args, "--env", "CartPole-v1") == dataclasses.replace(
        presets.quick(), env=dataclasses.replace(Config().env, id="CartPole-v1")
    )


def test_start_line_and_directory_name_the_run(capfd: Capture) -> None:
    steps = ["--steps", "2", "--evaluation.episodes", "0", "--env", "CartPole-v1"]
    assert main(["train", "--preset", "quick", *steps]) == 0
    assert ": preset quick, CartPole-v1" in capfd.readouterr().err
    assert main(["train", "quick", *steps, "--behaviour.gamma", "0.9"]) == 0
    assert ": preset quick*, CartPole-v1" in capfd.readouterr().err
    names = sorted(path.name for path in Path("runs").iterdir())
    assert names == ["CartPole-v1-quick-changed-s0-1", "CartPole-v1-quick-s0-1"]


@pytest.mark.parametrize(
    ("args", "name", "why"),
    [
        (["--env", "CartPole-v1"], "quick", "vector observations"),
        (["--env.id=CartPole-v1"], "quick", "vector observations"),
        (["--env", "drama/Sparse-v0"], "quick", "small pictures (32x32)"),
        (["--env", "drama/Catch-v0", "--env.image-size", "64"], "laptop", "64x64 pictures on CPU"),
    ],
)
def test_without_a_preset_the_choice_is_printed(
    args: list[str], name: str, why: str, capfd: Capture
) -> None:
    assert main(["train", *args, "--device", "cpu", "--steps", "7", "--print-config"]) == 0
    out, err = capfd.readouterr()
    assert err == f"preset {name} (default for {why}; choose with drama train PRESET)\n"
    config = Config.from_json(out)
    assert (config.preset, config.steps) == (name, 7)
    assert presets.label(config) == name


def test_train_without_arguments_uses_the_defaults_and_prints_them(
    capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Agent, "learn", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["train", "--device", "cpu"])
    err = capfd.readouterr().err
    assert "environment drama/Catch-v0 (default; choose with --env ID)" in err
    assert "preset quick (default for small pictures (32x32)" in err
    assert ": preset quick, drama/Catch-v0" in err


# -- settings from a file ----------------------------------------------------------------------


def test_printed_configuration_can_be_read_back(run: Path, capfd: Capture, tmp_path: Path) -> None:
    file = tmp_path / "printed.json"
    config = printed_config(capfd, "laptop", "--env", "CartPole-v1", "--replay.random-shift=1", "2")
    file.write_text(config.to_json())
    assert printed_config(capfd, "--config", str(file)) == config
    # Options come after the file.
    assert printed_config(capfd, "--config", str(file), "--seed", "3").seed == 3
    saved = Config.from_json((run / "config.json").read_text())
    assert printed_config(capfd, "--config", str(run / "config.json")) == saved
    assert printed_config(capfd, "quick", "--config", str(run / "config.json")) == saved


def test_a_run_of_an_older_version_keeps_its_values(
    run: Path, capfd: Capture, tmp_path: Path
) -> None:
    tree = json.loads((run / "config.json").read_text())
    del tree["behaviour"][
        "policy_context"
    ]  # "current" in preset quick, "previous" in older versions
    file = tmp_path / "config.json"
    file.write_text(json.dumps(tree))
    config = printed_config(capfd, "--config", str(file))
    assert config.behaviour.policy_context == "previous"
    assert presets.label(config) == "quick*"


def test_toml_file_changes_the_preset(capfd: Capture, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('preset = "quick"\n[training]\nwarmup-steps = 500\n[env]\nid = "CartPole-v1"\n')
    expected = presets.quick().override({"training.warmup_steps": 500, "env.id": "CartPole-v1"})
    assert printed_config(capfd, "--config", str(file)) == expected
    assert printed_config(capfd, "quick", "--config", str(file)) == expected
    # Without a preset the default fits the environment, and accepts values that another refused.
    file.write_text("[replay]\ncapacity = 100\n[env]\nid = 'CartPole-v1'\n")
    assert printed_config(capfd, "--config", str(file)).replay.capacity == 100


@pytest.mark.parametrize(
    ("text", "args", "words"),
    [
        ('preset = "xs"', ["quick"], ["preset quick contradicts preset xs in mine.toml"]),
        ('preset = "quik"', [], ["--config mine.toml: unknown preset", "did you mean quick?"]),
        ("preset = 3", [], ["preset must be a name"]),
        ("[training]\nwarmup_step = 5", ["quick"], ["did you mean training.warmup_steps?"]),
        ("training = 5", ["quick"], ["training is a section"]),
        ("steps = 0", ["quick"], ["--config mine.toml: ", "steps must be positive"]),
        ("steps 5", ["quick"], ["--config mine.toml is not TOML"]),
        ("{", ["quick"], ["--config mine.toml is not JSON"]),
        (None, ["quick"], ["cannot read --config mine.toml: No such file"]),
    ],
)
def test_invalid_file_is_reported_in_one_line(
    text: str | None, args: list[str], words: list[str], capfd: Capture
) -> None:
    if text is not None:
        Path("mine.toml").write_text(text)
    line = complaint(capfd, main(["train", *args, "--config", "mine.toml", "--print-config"]))
    for word in words:
        assert word in line


def test_print_config_shows_the_settings_of_a_resumed_run(run: Path, capfd: Capture) -> None:
    before = contents(run)
    assert main(["train", "--resume", str(run), "--steps", "60", "--print-config"]) == 0
    assert Config.from_json(capfd.readouterr().out).steps == 60
    assert contents(run) == before


def test_presets_are_listed_with_size_and_purpose(capfd: Capture) -> None:
    assert main(["presets"]) == 0
    out = capfd.readouterr().out
    rows = {line.split()[0]: line for line in out.splitlines() if line[:1].strip()}
    assert list(presets.PRESETS) == [name for name in rows if name in presets.PRESETS]
    for name, size in (("laptop", "6.9 M"), ("xs", "7.1 M"), ("s", "10.7 M")):
        assert size in rows[name]
    assert "The paper's configuration, size XS." in rows["xs"]
    assert "--env needs --speed" in complaint(capfd, main(["presets", "--env", "CartPole-v1"]))


def test_presets_are_listed_with_their_speed(
    capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("drama.cli.presets.PRESETS", {"quick": tiny})
    assert main(["presets", "--speed", "--seconds", "20", "--device", "cpu"]) == 0
    out = capfd.readouterr().out
    assert "steps/s" in out
    (row,) = [line for line in out.splitlines() if line.startswith("quick")]
    assert re.search(r" [0-9.]+ (ms|s|min|h) ", row)


def test_trust_without_a_file_that_names_code_is_refused(capfd: Capture) -> None:
    assert main(["train", "quick", "--env", WALK, "--trust-env"]) == 2
    assert "--trust-env needs --resume or --config" in capfd.readouterr().err


def test_print_config_of_a_resumed_run_shows_the_given_environment(
    run: Path, capfd: Capture
) -> None:
    args = ["train", "--resume", str(run), "--steps", "60", "--print-config"]
    assert main([*args, "--env", "tests.training.faulty_envs:Walk"]) == 0
    printed = json.loads(capfd.readouterr().out)
    assert printed["env"]["id"] == "tests.training.faulty_envs:Walk"


# -- runs without updates ----------------------------------------------------------------------


def test_run_without_updates_warns_before_and_after(capfd: Capture) -> None:
    assert train("--run-dir", "run", changes={"steps": 20, "evaluation.episodes": 1}) == 0
    err = capfd.readouterr().err
    reason = (
        "the warm-up of random actions takes 24 steps (training.warmup_steps), training ends at "
        "step 20"
    )
    assert err.index(f"warning: nothing will be learnt: {reason}") < err.index(
        f"warning: nothing was learnt: {reason}"
    )


def test_run_reports_its_time_split(capfd: Capture) -> None:
    assert train("--run-dir", "run") == 0
    *_, told, where = capfd.readouterr().out.splitlines()
    assert where == "run: run"
    assert told.startswith("time: ")
    assert told.endswith(" env steps/s")
    (entry,) = json.loads(Path("run/run.json").read_text())["starts"]
    split = entry["time_split"]
    assert f"; {split['steps_per_second']:.3g} env steps/s" in told
    largest = max(split["fractions"], key=split["fractions"].get)
    assert told.startswith(f"time: {largest.replace('_', ' ')} ")


def test_end_of_a_run_prints_the_next_commands(capfd: Capture) -> None:
    def named(*args: str, **changes: Any) -> list[str]:
        assert train(*args, changes={"steps": 30, "evaluation.episodes": 0, **changes}) == 0
        return [line for line in capfd.readouterr().err.splitlines() if line.startswith("next: ")]

    assert named("--run-dir", "my run") == ["next: drama eval 'my run'"]
    assert named("--run-dir", "b", **{"training.tensorboard": True}) == [
        "next: drama eval b",
        "next: tensorboard --logdir b/tensorboard",
    ]
    Path("suites/toy/base/Walk").mkdir(parents=True)
    Path("suites/toy/suite.json").write_text("{}")
    assert named("--run-dir", "suites/toy/base/Walk/seed-0") == [
        "next: drama eval suites/toy/base/Walk/seed-0",
        f"next: drama report {Path('suites/toy').resolve()}",
    ]


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_ctrl_c_keeps_the_progress_line_intact() -> None:
    import pty

    ours, theirs = pty.openpty()
    args = [*options({"steps": 1_000_000}), "--run-dir", "run"]
    child = subprocess.Popen(
        [sys.executable, "-m", "drama", "train", "quick", "--env", "drama/Catch-v0", *args],
        stdout=theirs,
        stderr=theirs,
        env={
            **os.environ,
            "TERM": "xterm",
            "COLUMNS": "150",
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
    )
    os.close(theirs)
    said, asked = b"", False
    try:
        while True:
            said += os.read(ours, 65536)
            if not asked and b"steps/s" in said:
                child.send_signal(signal.SIGINT)
                asked = True
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    assert child.wait() == 130
    (before,) = re.findall(rb"(.{0,4})stopping after the current step", said, re.DOTALL)
    assert before.endswith((b"\n", b"\r", b"\x1b[2K", b"\x1b[0m")), said


@pytest.mark.parametrize("name", ["mamba1", "mamba2", "gru", "transformer", "elsewhere"])
def test_dynamics_selects_the_backbone(
    name: str, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Including backbones of installed packages."""
    entry = importlib.metadata.EntryPoint(
        "elsewhere", "drama.dynamics.gru:GRUDynamics", "drama.dynamics"
    )
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry] * (group == entry.group))
    changes = {"steps": 28, "evaluation.episodes": 0}
    assert train("--dynamics", name, "--run-dir", "run", changes=changes) == 0
    assert f"parameters ({name})" in capfd.readouterr().err
    assert json_rows(Path("run/metrics.jsonl"))[-1]["step"] == 20
    agent = Agent.load("run")
    assert agent.config.world_model.dynamics.name == name
    kind = type(agent.world_model.dynamics).__name__.lower()
    assert kind == ("gru" if name == "elsewhere" else name) + "dynamics"
    assert isinstance(agent.world_model.dynamics, GRUDynamics) == (name in ("gru", "elsewhere"))
    # The same name is accepted at resume; another one is refused.
    args = ["train", "--resume", "run", "--steps", "30", "--dynamics"]
    other = "mamba1" if name == "mamba2" else "mamba2"
    line = complaint(capfd, main([*args, other]))
    assert f"world_model.dynamics.name={other} (the run has {name})" in line
    error = complaint(capfd, main([*args, "zzz"]))
    assert "gru" in error
    assert "elsewhere" in error
    assert main([*args, name]) == 0
    assert CheckpointDir(Path("run")).last().step == 30


def test_short_and_long_option_may_agree(capfd: Capture) -> None:
    args = ["--dynamics", "gru", "--world-model.dynamics.name", "gru", "--run-dir", "run"]
    assert train(*args, changes={"steps": 4, "evaluation.episodes": 0}) == 0
    assert "parameters (gru)" in capfd.readouterr().err


# -- invalid arguments -------------------------------------------------------------------------

TYPOS: dict[str, tuple[list[str], list[str]]] = {
    "command": (["trian"], ["'trian'", "train"]),
    "preset": (["train", "quik"], ["'quik'", "quick"]),
    "two spellings": (["train", "quick", "--preset", "xs"], ["PRESET quick", "--preset xs"]),
    "preset by option": (["train", "--preset", "quik"], ["'quik'", "did you mean quick?"]),
    "resume with preset by option": (["train", "--resume", "x", "--preset", "s"], ["--resume"]),
    "resume with config": (["train", "--resume", "x", "--config", "y"], ["--resume"]),
    "no such command": (["zzz"], ["'zzz'; choose from train, eval, "]),
    "no such preset": (["train", "zzz"], ["'zzz'; there are quick, "]),
    "preset after options": (["train", "--seed", "1", "quick"], ["quick"]),
    "two presets": (["train", "quick", "xs"], ["xs"]),
    "environment": (["train", "quick", "--env", "drama/Cacth-v0"], ["drama/Catch-v0"]),
    "environment by field": (["train", "quick", "--env.id", "CartPol-v1"], ["CartPole-v1"]),
    "environment's module": (["train", "quick", "--env", "nothere:A-v0"], ["'nothere'"]),
    "unsupported environment": (["train", "quick", "--env", "Pendulum-v1"], ["Discrete"]),
    "option": (["train", "quick", "--training.precison", "x"], ["--training.precision"]),
    "section": (["train", "quick", "--trainin.precision", "x"], ["--training.precision"]),
    "option of one word": (["train", "quick", "--dynamcis", "gru"], ["did you mean --dynamics?"]),
    "field of one word": (["train", "quick", "--stepz=5"], ["--stepz", "did you mean --steps?"]),
    "integer": (["train", "quick", "--steps", "many"], ["--steps", "'many'"]),
    "fraction": (["train", "quick", "--steps", "1.5"], ["--steps", "1.5"]),
    "range": (["train", "quick", "--steps", "0"], ["steps", "positive", "0"]),
    "negative seed": (["train", "quick", "--seed", "-1"], ["seed", "-1"]),
    "huge seed": (["train", "quick", "--seed", "9" * 25], ["seed"]),
    "probability": (["train", "quick", "--env.sticky-actions", "2"], ["sticky_actions", "2"]),
    "choice": (["train", "quick", "--replay.sampler", "best"], ["best", "dfs"]),
    "nan": (["train", "quick", "--behaviour.entropy", "nan"], ["entropy", "nan"]),
    "inf": (["train", "quick", "--world-model.optim.lr", "inf"], ["lr", "inf"]),
    "evaluation seed": (["train", "quick", "--evaluation.seed", "-3"], ["seed", "-3"]),
    "contradiction": (["train", "quick", "--replay.capacity", "3"], ["capacity", "window"]),
    "sizes": (["train", "quick", "--world-model.dynamics.headdim", "48"], ["headdim"]),
    "backbone": (
        ["train", "quick", "--world-model.dynamics.name", "mamba3"],
        ["did you mean mamba"],
    ),
    "dynamics": (
        ["train", "quick", "--dynamics", "mamba3"],
        ["'mamba3'", "did you mean mamba", "mamba2, mamba1, ", ", gru"],
    ),
    "dynamics without a name": (["train", "quick", "--dynamics"], ["--dynamics"]),
    "empty dynamics": (["train", "quick", "--dynamics", ""], ["there are mamba2, mamba1, "]),
    "dynamics twice": (
        ["train", "quick", "--dynamics", "mamba1", "--world-model.dynamics.name", "gru"],
        ["--dynamics mamba1", "--world-model.dynamics.name gru"],
    ),
    "dynamics and sizes": (
        ["train", "quick", "--dynamics", "transformer", "--world-model.dynamics.num-heads", "7"],
        ["num_heads"],
    ),
    "backend": (["train", "quick", "--world-model.dynamics.backend", "cuda"], ["kernels"]),
    "backend that is not there": (
        ["train", "quick", "--world-model.dynamics.backend", "kernels"],
        ["backend 'kernels' cannot be used", "tensors are on the CPU"],
    ),
    "picture": (["train", "quick", "--env.image-size", "30"], ["image_size", "multiple of 8"]),
    "device": (["train", "quick", "--device", "tpu"], ["'tpu'", "cpu, cuda or mps"]),
    "no value": (["train", "quick", "--env"], ["--env"]),
    "no directory": (["train", "quick", "--run-dir"], ["--run-dir"]),
    "empty directory": (["train", "quick", "--run-dir", ""], ["run-dir"]),
    "empty preset": (["train", ""], ["preset"]),
    "too long a directory": (["train", "quick", "--run-dir", "x" * 300], ["run directory"]),
    "a file in the way": (["train", "quick", "--run-dir", "/dev/null/x"], ["/dev/null/x"]),
    "resume nothing": (["train", "--resume", "nowhere"], ["nowhere"]),
    "resume with preset": (["train", "quick", "--resume", "x"], ["--resume"]),
    "resume with run dir": (["train", "--resume", "x", "--run-dir", "y"], ["--resume"]),
    "eval nothing": (["eval", "nowhere"], ["nowhere"]),
    "eval no argument": (["eval"], ["DIR"]),
    "eval episodes": (["eval", ".", "--episodes", "0"], ["--episodes", "at least 1"]),
    "eval mode": (["eval", ".", "--mode", "best"], ["best", "greedy"]),
    "doctor steps": (["doctor", "--steps", "0"], ["--steps"]),
    "doctor preset": (["doctor", "--preset", "quik"], ["'quik'", "did you mean quick"]),
    "doctor device": (["doctor", "--device", "tpu"], ["'tpu'", "cpu, cuda or mps"]),
    "doctor seconds": (["doctor", "--seconds", "0"], ["--seconds", "positive"]),
    "doctor no seconds": (["doctor", "--seconds", "nan"], ["--seconds", "positive"]),
    "doctor environment": (["doctor", "--env", "drama/Cacth-v0"], ["drama/Catch-v0"]),
}


@pytest.mark.parametrize("case", TYPOS)
def test_user_error_is_reported_in_one_line(
    case: str, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        pytest.fail("training began all the same")

    monkeypatch.setattr(EnvStream, "step", refuse)
    args, words = TYPOS[case]
    if args[0] == "train" and "--device" not in args:
        args = [*args, "--device", "cpu"]
    line = complaint(capfd, main(args))
    for word in words:
        assert word in line
    assert not list(Path().iterdir()), "something was left behind"


def test_hint_names_one_option(capfd: Capture) -> None:
    line = complaint(capfd, main(["train", "quick", "--training.compil", "auto"]))
    assert line.endswith("did you mean --training.compile?")


def test_os_error_is_reported_in_one_line(capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    from drama.cli import app

    for error, words in (
        (OSError(28, "No space left on device", "x/y"), "x/y: No space left on device"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (OSError("odd"), "odd"),
    ):

        def refuse(args: list[str], error: OSError = error) -> int:
            raise error

        monkeypatch.setitem(app.COMMANDS, "doctor", app.Command(refuse, ""))
        assert complaint(capfd, main(["doctor"])) == f"drama: error: {words}"


@pytest.mark.faults
def test_full_disk_at_a_checkpoint_is_reported_in_one_line(
    capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    resource = pytest.importorskip("resource")
    # A file size limit simulates a full disk; its signal would end the process.
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    save = Checkpointer.save

    def tight(checkpointer: Checkpointer, step: int, logs: dict[str, int]) -> Path:
        if step == 40:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limit[1]))
        return save(checkpointer, step, logs)

    try:
        with monkeypatch.context() as patch:
            patch.setattr(Checkpointer, "save", tight)
            code = train("--run-dir", "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    line = complaint(capfd, code)
    assert line.endswith(".safetensors: File too large")
    assert CheckpointDir(Path("run")).last().step == 20
    assert main(["train", "--resume", "run", "--steps", "45"]) == 0


def test_replay_larger_than_the_memory_is_refused(capfd: Capture) -> None:
    line = complaint(capfd, main(["train", "quick", "--replay.capacity", str(10**14)]))
    assert "replay.capacity" in line or "memory" in line


def test_too_short_warm_up_is_refused_at_once(capfd: Capture) -> None:
    code = train("--run-dir", "run", changes={"training.warmup_steps": 3, "steps": 40})
    assert "warmup" in complaint(capfd, code)


# -- directories -------------------------------------------------------------------------------


def test_existing_run_directory_is_unchanged(run: Path, capfd: Capture) -> None:
    before = contents(run)
    line = complaint(capfd, train("--run-dir", str(run)))
    assert f"--resume {run}" in line
    assert contents(run) == before


def test_run_directory_in_use_is_unchanged(run: Path, capfd: Capture) -> None:
    pytest.importorskip("fcntl")
    lock = RunLock(run)
    lock.acquire()
    before = contents(run)
    line = complaint(capfd, main(["train", "--resume", str(run), "--steps", "60"]))
    assert "in use by process" in line
    assert contents(run) == before
    lock.release()


def test_damaged_checkpoint_is_unchanged(run: Path, capfd: Capture) -> None:
    for name in ("model", "optimiser", "loop"):
        path = run / "checkpoints" / "000000040" / f"{name}.safetensors"
        sound = path.read_bytes()
        path.write_bytes(sound[:-1])
        before = contents(run)
        line = complaint(capfd, main(["train", "--resume", str(run), "--steps", "60"]))
        assert "damaged" in line
        assert path.name in line
        assert contents(run) == before
        path.write_bytes(sound)


# -- resume ------------------------------------------------------------------------------------


def test_resume_makes_the_missing_steps(run: Path, capfd: Capture, tmp_path: Path) -> None:
    assert main(["train", "--resume", str(run), "--steps", "60"]) == 0
    err = capfd.readouterr().err
    assert "from step 40" in err
    assert "steps=60 (the run has 40)" in err
    assert CheckpointDir(run).last().step == 60
    assert json.loads((run / "eval.json").read_text())["greedy"]["protocol"]["train_steps"] == 60
    assert Config.from_json((run / "config.json").read_text()).steps == 60
    (run / "eval.json").unlink()
    Agent(WALK, tiny({"steps": 60, "env.id": WALK})).learn(60, run_dir=tmp_path / "whole")
    assert_same_run(run, tmp_path / "whole")
    capfd.readouterr()
    # The run records its 60 steps.
    assert "60 steps" in complaint(capfd, main(["train", "--resume", str(run)]))


def test_resume_of_a_finished_run_makes_no_steps(run: Path, capfd: Capture) -> None:
    before = contents(run)
    line = complaint(capfd, main(["train", "--resume", str(run)]))
    assert "40 steps" in line
    assert "--steps" in line
    line = complaint(capfd, main(["train", "--resume", str(run), "--steps", "30"]))
    assert "--steps" in line
    assert contents(run) == before


def test_resume_keeps_the_settings_of_the_run(run: Path, capfd: Capture) -> None:
    before = contents(run)
    args = ["--seed", "7", "--behaviour.gamma", "0.9", "--training.log-every", "5", "--steps", "60"]
    args += ["--training.random-action-repeat", "8"]
    line = complaint(capfd, main(["train", "--resume", str(run), *args]))
    assert "seed=7 (the run has 0)" in line
    assert "behaviour.gamma=0.9 (the run has 0.985)" in line
    assert "training.random_action_repeat=8.0 (the run has 1.0)" in line.partition("allowed")[0]
    refused, _, taken = line.partition("allowed")
    assert "log_every" not in refused
    assert "training.log_every=5" in taken
    assert "steps=60" in taken
    for other in (["--env", "CartPole-v1"], ["--training.warmup-steps", "30"]):
        assert "cannot change" in complaint(capfd, main(["train", "--resume", str(run), *other]))
    assert contents(run) == before


def test_resume_may_use_another_backend(run: Path, capfd: Capture) -> None:
    args = ["train", "--resume", str(run), "--steps", "60", "--world-model.dynamics.backend"]
    before = contents(run)
    assert "cannot be used" in complaint(capfd, main([*args, "kernels"]))
    assert contents(run) == before
    assert main([*args, "torch"]) == 0
    err = capfd.readouterr().err
    assert "world_model.dynamics.backend=torch (the run has auto)" in err
    assert "backend torch: requested" in err


def test_resume_from_a_given_checkpoint(run: Path, capfd: Capture, tmp_path: Path) -> None:
    older = run / "checkpoints" / "000000020"
    assert main(["train", "--resume", str(older), "--steps", "40"]) == 0
    assert "from step 20" in capfd.readouterr().err
    (run / "eval.json").unlink()
    Agent(WALK, tiny({"steps": 40, "env.id": WALK})).learn(40, run_dir=tmp_path / "whole")
    assert_same_run(run, tmp_path / "whole")


# -- failed and interrupted training -----------------------------------------------------------


@pytest.mark.parametrize("kind", [NanReward, WildObs])
def test_faulty_environment_is_reported_in_one_line_and_training_is_kept(
    kind: type[Walk], capfd: Capture
) -> None:
    code = train("--run-dir", "run", env=env_id(kind))
    line = complaint(capfd, code)
    assert kind.__name__ in line
    assert "47" in line
    assert CheckpointDir(Path("run")).last().step == 46


def test_exception_of_the_environment_is_shown_with_its_traceback(capfd: Capture) -> None:
    """It is not a usage error: the author of the environment needs the traceback."""
    with pytest.raises(ZeroDivisionError):
        train("--run-dir", "run", env=env_id(Crash))
    assert CheckpointDir(Path("run")).last().step == 46


def test_nan_ends_with_code_1(capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    from drama.world_model import WorldModel

    original, calls = WorldModel.loss, 0

    def loss(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        value, metrics = original(*args, **kwargs)
        return (value * float("nan"), metrics) if calls == 10 else (value, metrics)

    monkeypatch.setattr(WorldModel, "loss", loss)
    line = complaint(capfd, train("--run-dir", "run"), expected=1)
    assert "NaN" in line
    assert "000000040" in line
    assert CheckpointDir(Path("run")).last().step == 40


def interrupt(at: int, times: int, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    original = EnvStream.step

    def step(stream: EnvStream, action: int) -> Any:
        if len(stream.actions) == at:
            for _ in range(times):
                signal.raise_signal(number)
        return original(stream, action)

    monkeypatch.setattr(EnvStream, "step", step)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_is_saved_and_resumes(
    number: int, capfd: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patch:
        interrupt(32, 1, number, patch)
        assert train("--run-dir", "run") == 130
    err = capfd.readouterr().err
    assert "Traceback" not in err
    assert "saved at step 33" in err
    assert "drama train --resume run" in err
    assert CheckpointDir(Path("run")).last().step == 33
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert main(["train", "--resume", "run"]) == 0
    (Path("run") / "eval.json").unlink()
    Agent(WALK, tiny({"env.id": WALK})).learn(60, run_dir=tmp_path / "whole")
    assert_same_run(Path("run"), tmp_path / "whole", files=False)


def test_second_interrupt_aborts_at_once(capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        interrupt(32, 2, signal.SIGINT, patch)
        assert train("--run-dir", "run") == 130
    err = capfd.readouterr().err
    assert "stopped without saving" in err
    assert "Traceback" not in err
    assert CheckpointDir(Path("run")).last().step == 20
    assert main(["train", "--resume", "run"]) == 0
    assert CheckpointDir(Path("run")).last().step == 60


def test_interrupt_in_the_last_step_prints_the_eval_command(
    capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt(59, 1, signal.SIGINT, patch)
        assert train("--run-dir", "run") == 130
    err = capfd.readouterr().err
    assert "saved at step 60; all steps are done; evaluate with: drama eval run" in err
    assert "--resume" not in err
    assert main(["eval", "run", "--episodes", "1"]) == 0


@pytest.mark.parametrize(
    ("moment", "words"),
    [
        ("before", "stopped without saving; continue from step 40 with: drama train --resume run"),
        ("after", "stopped without saving; all steps are done; evaluate with: drama eval run"),
    ],
)
def test_abort_at_the_last_save_reports_the_last_checkpoint(
    moment: str, words: str, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = Trainer.save

    def twice(trainer: Trainer) -> None:
        if moment == "after":
            save(trainer)
        if trainer.step == 60:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        save(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "save", twice)
        assert train("--run-dir", "run") == 130
    assert words in capfd.readouterr().err
    command = words.partition("drama ")[2].split()
    assert main(command) == 0


def test_abort_before_the_first_checkpoint_reports_none(
    capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt(5, 2, signal.SIGINT, patch)
        assert train("--run-dir", "run") == 130
    err = capfd.readouterr().err
    assert "stopped without saving; run has no checkpoint to continue from" in err
    assert "--resume" not in err
    assert "holds no checkpoint" in complaint(capfd, main(["train", "--resume", "run"]))


def test_interrupt_before_the_first_step(capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt(0, 1, signal.SIGINT, monkeypatch)
    assert train("--run-dir", "run") == 130
    assert "saved at step 1" in capfd.readouterr().err
    assert CheckpointDir(Path("run")).last().step == 1


def test_an_interrupted_evaluation_leaves_a_finished_run(
    run: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> EvaluationResult:
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("the signal came to nothing")

    monkeypatch.setattr(Agent, "evaluate", stop)
    assert train("--run-dir", "run") == 130
    assert CheckpointDir(Path("run")).last().step == 60
    assert main(["eval", str(run)]) == 130
    err = capfd.readouterr().err
    assert "Traceback" not in err
    assert not (run / "eval.json").exists()


def test_interrupt_during_construction(capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Agent, "__init__", stop)
    assert train("--run-dir", "run") == 130
    assert "Traceback" not in capfd.readouterr().err


def test_surrogateescape_output_is_unchanged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Printed paths stay exact; characters that the stream would refuse are escaped."""
    for errors, written in (("surrogateescape", b"d\xff\n"), ("strict", b"d\\udcff\n")):
        raw = io.BytesIO()
        stream = io.TextIOWrapper(raw, encoding="utf-8", errors=errors)
        monkeypatch.setattr(sys, "stdout", stream)
        escape_unencodable_output()
        print("d\udcff")
        stream.flush()
        assert raw.getvalue() == written
