"""Registries: names, registration, entry points, and the message of an unknown name."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import Any

import pytest
from tests.training.runs import tiny

from drama import Agent, registry
from drama.behaviour import ActorCritic
from drama.cli import main
from drama.config import BehaviourConfig, Config, DynamicsConfig, ReplayConfig
from drama.errors import ConfigError
from drama.registry import BEHAVIOURS, ENV_FAMILIES, SAMPLERS, SEQUENCE_MODELS, Registry, unknown
from drama.replay import Sampler
from drama.replay.sampling import Uniform

ALL = (SEQUENCE_MODELS, SAMPLERS, BEHAVIOURS, ENV_FAMILIES)


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    for one in ALL:
        monkeypatch.setattr(one, "registered", {})


def install(monkeypatch: pytest.MonkeyPatch, *entries: EntryPoint) -> None:
    """Pretend that a package with these entry points is installed."""
    monkeypatch.setattr(
        registry, "entry_points", lambda group: [one for one in entries if one.group == group]
    )


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.kind)
def test_every_built_in_implementation_can_be_imported(one: Registry) -> None:
    assert one.names() == tuple(one.built_in)
    for name in one.names():
        one.check(name)
        assert callable(one.get(name))


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.kind)
def test_unknown_name_suggests_the_nearest(one: Registry) -> None:
    name = one.names()[0]
    names = ", ".join(one.names())
    message = f"unknown {one.kind} '{name}x'; did you mean {name}? (there are {names})"
    for ask in (one.check, one.get):
        with pytest.raises(ConfigError) as caught:
            ask(f"{name}x")
        assert str(caught.value) == message
    assert unknown("thing", "zzz", ["a", "b"]) == "unknown thing 'zzz'; there are a, b"


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.kind)
def test_registered_implementations_are_found(one: Registry) -> None:
    def mine() -> None: ...

    assert one.register("mine")(mine) is mine
    one.register("mine")(mine)  # the same again is no conflict
    assert one.get("mine") is mine
    assert one.names() == (*one.built_in, "mine")
    with pytest.raises(ConfigError, match=f"a {one.kind} is registered as 'mine' already"):
        one.register("mine")(lambda: None)
    with pytest.raises(ConfigError, match=r"is registered as .* already"):
        one.register(one.names()[0])(mine)
    for wrong in ("", mine):
        with pytest.raises(ConfigError, match=f"register takes the name of the {one.kind}"):
            one.register(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.kind)
def test_entry_points_of_installed_packages(one: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    for group in one.groups:
        entry = EntryPoint("theirs", "json:dumps", group)
        broken = EntryPoint("broken", "json:missing", group)
        install(monkeypatch, entry, broken)
        assert one.names() == (*one.built_in, "broken", "theirs")
        one.check("theirs")
        assert one.get("theirs").__name__ == "dumps"
        with pytest.raises(ConfigError, match=r"'broken' is announced .* cannot be loaded"):
            one.get("broken")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ReplayConfig(sampler="dsf"), "unknown sampler 'dsf'; did you mean dfs"),
        (lambda: BehaviourConfig(algorithm="pppo"), "unknown behaviour 'pppo'; did you mean ppo"),
        (lambda: DynamicsConfig(name="mamba3"), "unknown sequence model 'mamba3'; did you mean"),
        (
            lambda: Config.from_json('{"replay": {"sampler": "dsf"}}'),
            "unknown sampler 'dsf'; did you mean dfs",
        ),
        (lambda: Config().override({"replay.sampler": "dsf"}), "unknown sampler 'dsf'"),
    ],
)
def test_unknown_name_is_refused_when_settings_are_read(build: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build()


class Recent(Sampler):
    """Prefers windows that were sampled least."""

    def scores(self, purpose: Any, v: Any, b: Any) -> Any:
        return -v


def test_a_sampler_and_a_behaviour_of_another_package_train(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    SAMPLERS.register("recent")(Recent)
    BEHAVIOURS.register("critic-actor")(
        lambda config, features, actions: ActorCritic(config, features, actions)
    )
    changes = {"replay.sampler": "recent", "behaviour.algorithm": "critic-actor"}
    agent = Agent("drama/Catch-v0", tiny(changes))
    agent.learn(30)
    install(monkeypatch, EntryPoint("theirs", f"{Uniform.__module__}:Uniform", "drama.samplers"))
    args = ["train", "quick", "--sampler", "theirs", "--behaviour.algorithm", "critic-actor"]
    assert main([*args, "--print-config"]) == 0
    config = Config.from_json(capsys.readouterr().out)
    assert (config.replay.sampler, config.behaviour.algorithm) == ("theirs", "critic-actor")
    assert main(["train", "--help"]) == 0
    assert "dfs-trained, recent, theirs" in " ".join(capsys.readouterr().out.split())
