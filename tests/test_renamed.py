"""Former names of settings: saved files load, messages give the present names."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from tests.training.runs import assert_same_run, tiny

from drama import Agent, presets
from drama.cli import main
from drama.config import Config
from drama.errors import ConfigError
from drama.evaluation.protocol import completed
from drama.renamed import REMOVED, RENAMED, RENAMED_VALUES, update_names
from drama.settings import flat
from drama.suite.differences import differences
from drama.suite.layout import begin_suite, read_spec, recorded_presets
from drama.suite.spec import SuiteSpec

OLD = {
    "behaviour.policy_memory": "current",
    "training.warmup_hold": 4,
    "replay.sampler": "dfs-learnt",
}
NEW = Config().override(
    {
        "behaviour.policy_context": "current",
        "training.random_action_repeat": 4,
        "replay.sampler": "dfs-trained",
    }
)


to_json = Config.to_json


def old_tree(config: Config) -> dict[str, Any]:
    """A configuration as the version before the renaming saved it."""
    tree: dict[str, Any] = json.loads(to_json(config))
    for old, new in RENAMED.items():
        section = tree
        *path, name = old.split(".")
        for part in path:
            section = section[part]
        section[name] = section.pop(new.rpartition(".")[2])
    for setting, values in RENAMED_VALUES.items():
        section, name = setting.split(".")
        former = {value: old for old, value in values.items()}
        tree[section][name] = former.get(tree[section][name], tree[section][name])
    for setting, removed in REMOVED.items():
        put(tree, setting, removed.value)
    return tree


def put(tree: dict[str, Any], setting: str, value: object) -> None:
    """Set a setting by its dotted name in a nested tree."""
    *sections, name = setting.split(".")
    for part in sections:
        tree = tree.setdefault(part, {})
    tree[name] = value


def test_renames_stay_in_their_section_and_name_existing_settings() -> None:
    known = flat(dataclasses.asdict(Config()))
    for old, new in RENAMED.items():
        assert old not in known
        assert new in known
        assert old.rpartition(".")[0] == new.rpartition(".")[0]
    for setting, values in RENAMED_VALUES.items():
        for value in values.values():
            Config().override({setting: value})


def test_old_configuration_loads() -> None:
    tree = old_tree(NEW)
    assert tree["training"]["warmup_hold"] == 4
    assert tree["replay"]["sampler"] == "dfs-learnt"
    assert Config.from_json(json.dumps(tree)) == NEW
    assert update_names(OLD) == {
        "behaviour.policy_context": "current",
        "training.random_action_repeat": 4,
        "replay.sampler": "dfs-trained",
    }


@pytest.mark.parametrize("setting", REMOVED)
def test_a_removed_setting_loads_with_its_default_only(setting: str) -> None:
    assert setting not in flat(dataclasses.asdict(Config()))
    value, last = REMOVED[setting]
    kept: dict[str, Any] = json.loads(Config().to_json())
    alone: dict[str, Any] = {}
    for tree in (kept, alone):
        put(tree, setting, value)
        assert Config.from_json(json.dumps(tree)) == Config()
    assert update_names(alone) == {}  # nor is a section left that sets nothing
    other = not value if isinstance(value, bool) else "other"
    put(kept, setting, other)
    removal = f"{setting} was removed after version {last} and is always {value} now"
    with pytest.raises(ConfigError) as caught:
        Config.from_json(json.dumps(kept))
    assert str(caught.value) == f"{removal}; version {last} reads {other!r}"
    with pytest.raises(ConfigError) as caught:
        Config().override({setting: value})
    assert str(caught.value) == removal


@pytest.mark.parametrize("setting", REMOVED)
@pytest.mark.parametrize(
    "form",
    [
        "--{section}.{name}",
        "--{section}.{name}={value}",
        "--{section}.{name} {value}",
        "--{section}.no-{name}",
    ],
)
def test_an_option_of_a_removed_setting_is_told_so(
    setting: str, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    section, _, name = setting.replace("_", "-").rpartition(".")
    value, last = REMOVED[setting]
    words = form.format(section=section, name=name, value=value).split()
    assert main(["train", "quick", *words, "--print-config"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"{setting} was removed after version {last} and is always {value} now" in err


def old_run(path: Path, monkeypatch: pytest.MonkeyPatch, **settings: object) -> Path:
    """A run of 40 steps as the version before the removals saved it, with these settings."""

    def saved(config: Config) -> str:
        tree = old_tree(config)
        for setting, value in settings.items():
            put(tree, setting, value)
        return json.dumps(tree)

    with monkeypatch.context() as patch:
        patch.setattr(Config, "to_json", saved)
        Agent("drama/Catch-v0", tiny()).learn(40, run_dir=path)
    assert json.loads((path / "config.json").read_text())["replay"]["replacement"] is False
    return path


def test_an_old_run_resumes_as_it_would_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Agent("drama/Catch-v0", tiny()).learn(60, run_dir=tmp_path / "whole")
    run = old_run(tmp_path / "run", monkeypatch)
    Agent.load(run).learn(20)
    assert_same_run(tmp_path / "whole", run)


@pytest.mark.parametrize("command", [["eval"], ["train", "--resume"], ["report"]])
def test_an_old_run_with_another_value_of_a_removed_setting_is_refused(
    command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    setting = "behaviour.start_at_episode_starts"
    run = old_run(tmp_path / "run", monkeypatch, **{setting: False})
    capsys.readouterr()
    message = f"{setting} was removed after version 0.1.0 and is always True now; "
    message += "version 0.1.0 reads False"
    with pytest.raises(ConfigError) as caught:
        Agent.load(run)
    assert str(caught.value) == message
    assert main([*command, str(run)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert message in err


def test_old_and_new_name_of_a_setting_together_are_refused() -> None:
    tree = {"training": {"warmup_hold": 4, "random_action_repeat": 8}}
    with pytest.raises(ConfigError, match=r"former name of training\.random_action_repeat"):
        Config.from_json(json.dumps(tree))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"training.warmup_hold": 4},
            "training.warmup_hold is now called training.random_action_repeat",
        ),
        (
            {"training": {"warmup-hold": 4}},
            "training.warmup_hold is now called training.random_action_repeat",
        ),
        ({"policy_memory": "current"}, "policy_memory is now called behaviour.policy_context"),
        (
            {"replay.sampler": "dfs-learnt"},
            "replay.sampler dfs-learnt is now called dfs-trained",
        ),
    ],
)
def test_override_in_python_reports_the_present_name(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        presets.quick().override(settings)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--training.warmup-hold", "4"], "is now called training.random_action_repeat"),
        (["--behaviour.policy_memory=current"], "is now called behaviour.policy_context"),
        (["--sampler", "dfs-learnt"], "replay.sampler dfs-learnt is now called dfs-trained"),
        (["--replay.sampler", "dfs-learnt"], "replay.sampler dfs-learnt is now called dfs-trained"),
        (["--replay.sampler=dfs-learnt"], "replay.sampler dfs-learnt is now called dfs-trained"),
    ],
)
def test_option_reports_the_present_name(
    args: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "quick", *args, "--print-config"]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_a_settings_file_may_use_former_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "settings.toml"
    path.write_text('preset = "quick"\n[training]\nwarmup_hold = 4\n')
    assert main(["train", "--config", str(path), "--env", "drama/Catch-v0", "--print-config"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert tree["training"]["random_action_repeat"] == 4
    path.write_text(json.dumps(old_tree(NEW)))
    assert main(["train", "--config", str(path), "--print-config"]) == 0
    assert Config.from_json(capsys.readouterr().out) == NEW


TOML = """
name = "one"
games = ["drama/Catch-v0"]
seeds = [0]

[[variants]]
name = "held"
preset = "quick"

[variants.overrides]
training.{name} = 4
replay.sampler = "{sampler}"
"""


def test_old_suite_equals_the_renamed_one(tmp_path: Path) -> None:
    new = SuiteSpec.from_toml(TOML.format(name="random_action_repeat", sampler="dfs-trained"))
    old = SuiteSpec.from_toml(TOML.format(name="warmup_hold", sampler="dfs-learnt"))
    assert differences(old, new) == []
    begin_suite(tmp_path / "suite", new)
    path = tmp_path / "suite" / "suite.json"
    tree = json.loads(path.read_text())
    tree["spec"]["variants"][0]["overrides"] = {
        "training.warmup_hold": 4,
        "replay.sampler": "dfs-learnt",
    }
    tree["presets"]["quick"] = old_tree(presets.quick())
    path.write_text(json.dumps(tree))
    assert read_spec(tmp_path / "suite")[0] == new
    assert recorded_presets(tmp_path / "suite") == {"quick": presets.quick()}
    begin_suite(tmp_path / "suite", new)


def test_protocol_of_an_old_evaluation_equals_that_of_a_new_one() -> None:
    env = {"id": "drama/Catch-v0"}
    old = completed("greedy", {"env": env, "policy_memory": "current"})
    assert old == completed("greedy", {"env": env, "policy_context": "current"})
    assert old["policy_context"] == "current"
    assert "policy_memory" not in old
