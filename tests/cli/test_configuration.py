"""Presets, settings from a file, and ``--print-config``."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
from tests.cli.commands import WALK, Capture, complaint
from tests.training.runs import contents, tiny

from drama import Agent, presets
from drama.cli import main
from drama.config import Config

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
