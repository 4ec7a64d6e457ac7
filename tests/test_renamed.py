"""Former names of settings: saved files load, messages give the present names."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from drama import presets
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


def old_tree(config: Config) -> dict[str, Any]:
    """A configuration as the version before the renaming saved it."""
    tree: dict[str, Any] = json.loads(config.to_json())
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
    for setting, value in REMOVED.items():
        section, name = setting.split(".")
        tree[section][name] = value
    return tree


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
    section, name = setting.split(".")
    assert Config.from_json(json.dumps({section: {name: REMOVED[setting]}})) == Config()
    with pytest.raises(ConfigError, match=f"{setting} is no longer a setting; only its default"):
        Config.from_json(json.dumps({section: {name: 0.7}}))
    with pytest.raises(ConfigError, match=f"^{setting} is no longer a setting$"):
        Config().override({setting: REMOVED[setting]})


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
