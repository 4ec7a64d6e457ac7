"""The configuration tree: JSON round trip, and one-line errors."""

# One file: the tests of one tree, one rule each.

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import textwrap
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drama import presets
from drama.cli.common import parse_fields
from drama.config import (
    BehaviourConfig,
    Config,
    EnvConfig,
    EvaluationConfig,
    OptimConfig,
    ReplayConfig,
    TrainingConfig,
    WorldModelConfig,
)
from drama.dynamics import DynamicsConfig
from drama.errors import ConfigError, DramaError

SECTIONS = (
    BehaviourConfig,
    EnvConfig,
    EvaluationConfig,
    OptimConfig,
    ReplayConfig,
    TrainingConfig,
    WorldModelConfig,
)


def changed(**fields: Any) -> str:
    """The default tree as JSON with ``section__field=value`` replaced."""
    tree = json.loads(Config().to_json())
    for path, value in fields.items():
        *sections, name = path.split("__")
        node = tree
        for section in sections:
            node = node[section]
        node[name] = value
    return json.dumps(tree)


def mistake(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        Config.from_json(text)
    message = str(caught.value)
    assert message
    assert "\n" not in message
    assert isinstance(caught.value, DramaError)
    return message


def test_round_trip_of_a_changed_tree() -> None:
    config = Config(
        preset="own",
        seed=7,
        env=EnvConfig(id="ALE/Pong-v5", image_size=32, max_episode_steps=500, life_loss=False),
        replay=ReplayConfig(capacity=500, sampler="dfs-trained"),
        world_model=WorldModelConfig(
            filters=(3, 5), stem_stride=2, dynamics=DynamicsConfig(name="gru", width=24)
        ),
        behaviour=BehaviourConfig(policy_latent="posterior", optim=OptimConfig(lr=1e-3)),
        training=TrainingConfig(precision="float32"),
        evaluation=EvaluationConfig(episodes=0),
    )
    back = Config.from_json(config.to_json())
    assert back == config
    assert back.world_model.filters == (3, 5)
    assert back.behaviour.optim.lr == 1e-3
    assert back.to_json() == config.to_json()


@given(
    lr=st.floats(1e-12, 1e3),
    seed=st.integers(0, 2**63),
    tau=st.floats(1e-6, 1e6),
    filters=st.lists(st.integers(1, 512), min_size=1, max_size=7),
    size=st.none() | st.integers(1, 512),
)
def test_numbers_survive_json_exactly(
    lr: float, seed: int, tau: float, filters: list[int], size: int | None
) -> None:
    config = Config(
        seed=seed,
        env=EnvConfig(image_size=size),
        replay=ReplayConfig(tau=tau),
        world_model=WorldModelConfig(filters=tuple(filters), optim=OptimConfig(lr=lr)),
    )
    assert Config.from_json(config.to_json()) == config


def test_missing_fields_have_their_defaults() -> None:
    config = Config.from_json('{"replay": {"capacity": 1000}}')
    assert config == Config(replay=ReplayConfig(capacity=1000))
    assert Config.from_json("{}") == Config()


def test_integers_are_accepted_as_floats() -> None:
    config = Config.from_json(changed(replay__tau=3, behaviour__gamma=1))
    assert config.replay.tau == 3.0
    assert isinstance(config.replay.tau, float)


@pytest.mark.parametrize("text", ["", "{", "not json", "[1]", "3", "null", '"xs"'])
def test_text_that_is_no_json_object_is_refused(text: str) -> None:
    mistake(text)


@pytest.mark.parametrize(
    ("path", "near"),
    [
        ("replay__sampler_", "sampler"),
        ("world_model__batch_sise", "batch_size"),
        ("world_model__dynamics__widht", "width"),
        ("behaviour__optim__learning", None),
        ("sede", "seed"),
        ("wrold_model", "world_model"),
    ],
)
def test_unknown_field_suggests_the_nearest(path: str, near: str | None) -> None:
    message = mistake(changed(**{path: 1}))
    assert repr(path.split("__")[-1]) in message
    if near is not None:
        assert f"did you mean {near}?" in message
    for section in path.split("__")[:-1]:
        assert section in message


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("seed", "zero"),
        ("seed", 1.5),
        ("seed", True),
        ("seed", None),
        ("steps", [1]),
        ("preset", 3),
        ("env", None),
        ("env", []),
        ("env__id", None),
        ("env__life_loss", 1),
        ("env__life_loss", "yes"),
        ("env__image_size", "64"),
        ("env__image_size", 64.0),
        ("replay__tau", "10"),
        ("replay__tau", True),
        ("replay__alpha", None),
        ("replay__sampler", "fifo"),
        ("replay__sampler", None),
        ("replay__sampler", ["dfs"]),
        ("replay__device", "cuda"),
        ("world_model__filters", 16),
        ("world_model__filters", "16"),
        ("world_model__filters", [16, "32"]),
        ("world_model__filters", [16, 1.5]),
        ("world_model__filters", [16, True]),
        ("world_model__stem_stride", 3),
        ("world_model__stem_stride", "1"),
        ("world_model__dynamics", "mamba2"),
        ("world_model__dynamics__width", 8.5),
        ("world_model__optim", 4e-5),
        ("behaviour__policy_latent", "posteriour"),
        ("behaviour__policy_context", "last"),
        ("behaviour__actor_gradient", "all"),
        ("behaviour__lookahead", 1.5),
        ("training__precision", "float16"),
    ],
)
def test_wrong_types_name_the_field(path: str, value: Any) -> None:
    message = mistake(changed(**{path: value}))
    assert path.split("__")[-1] in message


NAN = float("nan")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("seed", -1),
        ("steps", 0),
        ("env__frame_skip", 0),
        ("env__noop_max", -1),
        ("env__image_size", 0),
        ("env__max_episode_steps", -5),
        ("env__sticky_actions", 1.1),
        ("replay__capacity", 0),
        ("replay__capacity", 10**30),
        ("world_model__optim__warmup", 10**30),
        ("world_model__optim__lr", 1e-50),
        ("behaviour__optim__eps", 1e-50),
        ("training__world_model_ratio", 1e308),
        ("replay__tau", 0.0),
        ("replay__tau", NAN),
        ("replay__imagination_tau", -1.0),
        ("world_model__filters", []),
        ("world_model__filters", [16, 0]),
        ("world_model__kernel", 4),
        ("world_model__kernel", -1),
        ("world_model__unimix", 1.5),
        ("world_model__unimix", NAN),
        ("world_model__latent_classes", 1),
        ("world_model__latent_variables", 0),
        ("world_model__bins", 1),
        ("world_model__bins", 254),
        ("world_model__bin_limit", 0.0),
        ("world_model__batch_length", 1),
        ("world_model__batch_size", 0),
        ("world_model__head_units", 0),
        ("world_model__action_scale", 0.0),
        ("world_model__action_scale", NAN),
        ("world_model__motion_weight", 0.0),
        ("world_model__dynamics__width", 0),
        ("world_model__dynamics__headdim", 100),
        ("world_model__optim__lr", 0.0),
        ("world_model__optim__eps", -1e-8),
        ("world_model__optim__beta2", 1.5),
        ("world_model__optim__warmup", -1),
        ("world_model__optim__grad_clip", 0.0),
        ("behaviour__gamma", 1.01),
        ("behaviour__gamma", -0.1),
        ("behaviour__lambda_", 2.0),
        ("behaviour__slow_decay", -0.5),
        ("behaviour__return_decay", NAN),
        ("behaviour__min_return_scale", 0.0),
        ("behaviour__horizon", 0),
        ("behaviour__context", 0),
        ("behaviour__layers", 0),
        ("behaviour__bins", 2),
        ("training__warmup_steps", -1),
        ("training__random_action_repeat", 0.5),
        ("training__random_action_repeat", float("inf")),
        ("training__world_model_ratio", -0.1),
        ("training__behaviour_ratio", NAN),
        ("training__log_every", 0),
        ("training__checkpoint_every", 0),
        ("training__keep_checkpoints", 0),
        ("evaluation__episodes", -1),
        ("evaluation__num_envs", 0),
    ],
)
def test_values_out_of_range_name_the_field(path: str, value: Any) -> None:
    message = mistake(changed(**{path: value}))
    name = path.split("__")[-1]
    assert name in message


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("seed", 0),
        ("env__noop_max", 0),
        ("env__sticky_actions", 1.0),
        ("world_model__unimix", 0.0),
        ("world_model__bins", 3),
        ("world_model__optim__warmup", 0),
        ("behaviour__gamma", 1.0),
        ("behaviour__lambda_", 0.0),
        ("behaviour__context", 1),
        ("training__warmup_steps", 129),
        ("training__behaviour_ratio", 0.0),
        ("evaluation__episodes", 0),
    ],
)
def test_values_at_the_limits_are_valid(path: str, value: Any) -> None:
    Config.from_json(changed(**{path: value}))


@pytest.mark.parametrize(
    "longest", [{"world_model__batch_length": 600}, {"behaviour__context": 600}]
)
def test_replay_must_be_longer_than_a_window(longest: dict[str, int]) -> None:
    message = mistake(changed(replay__capacity=600, **longest))
    assert "600" in message
    assert "capacity" in message
    Config.from_json(changed(replay__capacity=601, **longest))


@pytest.mark.parametrize(
    "longest", [{"world_model__batch_length": 600}, {"behaviour__context": 600}]
)
def test_warm_up_must_fill_a_window(longest: dict[str, int]) -> None:
    message = mistake(changed(training__warmup_steps=600, **longest))
    assert "600" in message
    assert "warmup_steps" in message
    Config.from_json(changed(training__warmup_steps=601, **longest))


RATIOS = (0, 0.1, 1 / 49, 0.3, 0.5, 0.6, 0.9, 0.95, 1, 2, 4)


@pytest.mark.parametrize("learn", RATIOS)
@pytest.mark.parametrize("dream", RATIOS)
def test_dfs_trained_requires_model_updates_before_behaviour_updates(
    learn: float, dream: float
) -> None:
    training = TrainingConfig(world_model_ratio=learn, behaviour_ratio=dream)
    Config(training=training)  # the other samplers need no trained rows
    # At the first behaviour update a model update must be due too, which runs first.
    due = [next((k for k in range(1, 5000) if int(k * r) >= 1), 5000) for r in (learn, dream)]
    if dream > 0 and due[0] > due[1]:
        with pytest.raises(ConfigError, match="world_model_ratio must be at least") as caught:
            Config(training=training, replay=ReplayConfig(sampler="dfs-trained"))
        assert str(caught.value).endswith(f"got {float(learn)} and {float(dream)}")
        return
    Config(training=training, replay=ReplayConfig(sampler="dfs-trained"))


@pytest.mark.parametrize("section", SECTIONS)
def test_configurations_are_frozen(section: type) -> None:
    config = section()
    name = dataclasses.fields(config)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, name, None)


@pytest.mark.parametrize("section", SECTIONS)
def test_every_field_has_a_docstring(section: type) -> None:
    body = ast.parse(textwrap.dedent(inspect.getsource(section))).body[0].body  # type: ignore[attr-defined]
    for i, node in enumerate(body):
        if isinstance(node, ast.AnnAssign):
            after = body[i + 1]
            said = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            assert said, f"{section.__name__}.{node.target.id} has no docstring"  # type: ignore[union-attr]


def test_configurations_share_no_state() -> None:
    assert Config() == Config()
    assert Config().world_model is not Config().world_model
    assert BehaviourConfig().optim.grad_clip == 100.0
    assert WorldModelConfig().optim.grad_clip == 1000.0


@pytest.mark.parametrize(
    ("build", "field"),
    [
        (lambda: ReplayConfig(sampler="dsf"), "sampler"),  # type: ignore[arg-type]
        (lambda: ReplayConfig(capacity=100.5), "capacity"),  # type: ignore[arg-type]
        (lambda: BehaviourConfig(policy_latent="posteriour"), "policy_latent"),  # type: ignore[arg-type]
        (lambda: BehaviourConfig(policy_context="last"), "policy_context"),  # type: ignore[arg-type]
        (lambda: BehaviourConfig(lookahead=-1), "lookahead"),
        (
            lambda: BehaviourConfig(algorithm="ppo", actor_gradient="all-actions"),
            "actor_gradient 'all-actions' is for actor-critic, not for ppo",
        ),
        (
            lambda: BehaviourConfig(twohot_decode="mean-symexp", bin_limit=100.0),
            "behaviour.bin_limit must be at most 80 with twohot_decode mean-symexp",
        ),
        (
            lambda: WorldModelConfig(twohot_decode="mean-symexp", bin_limit=100.0),
            "world_model.bin_limit must be at most 80 with twohot_decode mean-symexp",
        ),
        (lambda: BehaviourConfig(entropy=float("nan")), "entropy"),
        (lambda: OptimConfig(lr=float("inf")), "lr"),
        (lambda: OptimConfig(beta2=1.0), "beta2"),
        (lambda: WorldModelConfig(stem_stride=True), "stem_stride"),
        (lambda: WorldModelConfig(free_bits=-1.0), "free_bits"),
        (lambda: Config(seed=None), "seed"),  # type: ignore[arg-type]
        (lambda: Config(seed=2**63), "seed"),
    ],
)
def test_invalid_values_in_python_are_refused_as_in_json(
    build: Callable[[], object], field: str
) -> None:
    with pytest.raises(ConfigError, match=field):
        build()


def test_values_given_in_python_are_converted_to_their_types() -> None:
    """A configuration then equals its JSON round trip."""
    model = WorldModelConfig(filters=[8, 16], free_bits=1)  # type: ignore[arg-type]
    assert model.filters == (8, 16)
    assert type(model.free_bits) is float
    config = Config(world_model=model)
    assert Config.from_json(config.to_json()) == config


# -- one setting, one expression ---------------------------------------------------------------


def test_settings_are_replaced_by_their_dotted_names() -> None:
    config = presets.quick()
    changed = config.override({"training.warmup_steps": 500, "world_model.optim.lr": 1})
    assert (changed.training.warmup_steps, changed.world_model.optim.lr) == (500, 1.0)
    back = {"training.warmup_steps": 1000, "world_model.optim.lr": 1e-3}
    assert changed.override(back) == config
    assert config.override() == config
    nested = config.override(seed=4, training={"warmup_steps": 500, "log-every": 7})
    assert (nested.seed, nested.training.warmup_steps, nested.training.log_every) == (4, 500, 7)
    assert config.override(replay=ReplayConfig()).replay == ReplayConfig()
    both = config.override({"replay": ReplayConfig(), "replay.capacity": 500})
    assert both.replay == ReplayConfig(capacity=500)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"training.warmup_step": 5},
            "there is no setting 'training.warmup_step'; did you mean training.warmup_steps?",
        ),
        (
            {"random_action_repeat": 5},
            "there is no setting 'random_action_repeat'; did you mean "
            "training.random_action_repeat?",
        ),
        (
            {"training": {"random_action_repeats": 5}},
            "there is no setting 'training.random_action_repeats'; did you mean "
            "training.random_action_repeat?",
        ),
        ({"zzz": 5}, "there is no setting 'zzz'"),
        ({"training": 5}, "training is a section: name a setting of it, got 5"),
        ({"training": {}}, "training is a section: name a setting of it, got {}"),
        ({"seed": "many"}, "config.seed must be of type int, got 'many'"),
        ({"training.log_every": 0}, "training.log_every must be positive, got 0"),
    ],
)
def test_a_wrong_override_is_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        presets.quick().override(settings)
    assert str(caught.value) == message


# -- what makes the environment -------------------------------------------------------------------


def test_arguments_and_wrappers_of_the_environment_survive_json() -> None:
    kwargs = {"gravity": -2, "wind": 1.5, "map": {"sizes": [4, 8]}, "name": None, "on": True}
    env = EnvConfig(kwargs=kwargs, wrappers=("my.module:Stack(size=4, names=('a', None))",))
    again = Config.from_json(Config(env=env).to_json())
    assert again.env == env
    assert again.env.kwargs is not kwargs
    assert hash(again) == hash(Config(env=env))
    assert Config.from_json("{}").env.kwargs == {}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"kwargs": 5}, "EnvConfig.kwargs must be an object, got 5"),
        ({"kwargs": {"a": (1, 2)}}, r"EnvConfig.kwargs.a must be a JSON value .*got \(1, 2\)"),
        ({"kwargs": {"a": {"b": len}}}, r"EnvConfig.kwargs.a.b must be a JSON value"),
        ({"kwargs": {"a": [float("nan")]}}, r"EnvConfig.kwargs.a must be finite"),
        ({"kwargs": {1: 2}}, r"has the key 1, which is not a string"),
        ({"wrappers": ("Flip",)}, r"a wrapper is written module:Class or .*got 'Flip'"),
        ({"wrappers": ("module.Flip",)}, r"a wrapper is written module:Class"),
        ({"wrappers": ("module:Flip(4)",)}, r"a wrapper is written module:Class"),
        ({"wrappers": ("module:Flip(size=len)",)}, r"a wrapper is written module:Class"),
        ({"wrappers": ("module:Flip(size=4",)}, r"a wrapper is written module:Class"),
        ({"made_by": "me"}, r"EnvConfig.made_by must be one of drama, gymnasium, caller"),
    ],
)
def test_invalid_environment_arguments_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        EnvConfig(**fields)


@pytest.mark.parametrize(
    "words",
    [
        ["gravity=-2.0", "wind=true", "name=mars", "sizes=[4, 8]"],
        ['{"gravity": -2.0, "wind": true, "name": "mars", "sizes": [4, 8]}'],
    ],
)
def test_arguments_of_the_environment_on_the_command_line(words: list[str]) -> None:
    options = ["--env.kwargs", *words, "--env.wrappers", "m:A(size=4)", "m:B"]
    config = parse_fields(Config(), [*options, "--seed", "3"], "drama train")
    assert config.env.kwargs == {"gravity": -2.0, "wind": True, "name": "mars", "sizes": [4, 8]}
    assert config.env.wrappers == ("m:A(size=4)", "m:B")
    assert parse_fields(config, ["--env.kwargs"], "drama train").env.kwargs == {}


@pytest.mark.parametrize("word", ["gravity", "=2", "{broken", "[1]"])
def test_wrong_arguments_on_the_command_line_are_refused(word: str) -> None:
    with pytest.raises(ConfigError, match=r"env\.kwargs"):
        parse_fields(Config(), ["--env.kwargs", word], "drama train")
