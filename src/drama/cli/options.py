"""Configuration of ``drama train`` from preset, settings file and options."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from drama import presets
from drama.cli.common import Parser, err, out, parse_fields, parse_known_fields
from drama.config import Config, EnvConfig
from drama.errors import ConfigError
from drama.registry import BEHAVIOURS, SAMPLERS, SEQUENCE_MODELS
from drama.renamed import refuse_former, update_names
from drama.text import nearest
from drama.trust import check

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SHORT = {
    "env": ("env", "id"),
    "dynamics": ("world_model", "dynamics", "name"),
    "sampler": ("replay", "sampler"),
    "behaviour": ("behaviour", "algorithm"),
}
"""Short options and the fields they set."""


class Base(NamedTuple):
    """Base configuration of a new run."""

    config: Config
    chosen_for: str | None
    """Why the preset was chosen; None if the user named it."""
    env_named: bool
    """Whether a settings file names the environment."""


@dataclasses.dataclass(frozen=True)
class _Target:
    """Settings that decide which preset fits."""

    env: EnvConfig
    device: str


def split(args: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Separate the preset and options that are not fields of the configuration.

    Raises:
        ConfigError: Two different presets are named, or an option lacks its value.
    """
    positional = args[0] if args and not args[0].startswith("-") else None
    parser = Parser(add_help=False, allow_abbrev=False)
    for name in ("run-dir", "resume", "preset", "config", "hours", *SHORT):
        parser.add_argument(f"--{name}")
    parser.add_argument("--print-config", action="store_true")
    parser.add_argument("--trust-env", action="store_true")
    options, rest = parser.parse_known_args(args[positional is not None :])
    if positional is not None and options.preset not in (None, positional):
        raise ConfigError(f"PRESET {positional} contradicts --preset {options.preset}")
    if positional is not None:
        options.preset = positional
    if options.preset == "":
        raise ConfigError("the preset is empty; name one of " + ", ".join(presets.PRESETS))
    return options, rest


def base(options: argparse.Namespace, args: list[str]) -> Base:
    """Return the base configuration of a new run.

    Args:
        options: First result of `split`.
        args: Options of fields; those of environment and device are read.

    Raises:
        ConfigError: One line about the first invalid option.
        EnvError: No preset is named, and the environment that selects one cannot be made.
    """
    tree, whole = ({}, False) if options.config is None else _read(options.config)
    _check_trust(tree, options)
    own = tree.get("preset")
    if own is not None and options.preset not in (None, own):
        raise ConfigError(f"preset {options.preset} contradicts preset {own} in {options.config}")
    env_named = "id" in tree.get("env", {})
    name = options.preset if own is None else own
    settings = {key: value for key, value in tree.items() if key != "preset"}
    chosen_for = None
    with _named(options.config):
        if whole:
            return Base(Config.from_json(json.dumps(tree)), None, env_named)
        target = {key: value for key, value in settings.items() if key in ("env", "device")}
        start = Config().override(target) if name is None else presets.preset(name)
    if name is None:
        start, chosen_for = _fitting(start, options, args)
    with _named(options.config):
        return Base(start.override(settings), chosen_for, env_named)


def _check_trust(tree: Mapping[str, Any], options: argparse.Namespace) -> None:
    """Refuse a settings file that names code to import, except with --trust-env."""
    env = tree.get("env", {})
    env_id = env.get("id", "") if options.env is None else ""
    kwargs, wrappers = env.get("kwargs", {}), env.get("wrappers", ())
    if not isinstance(env_id, str) or not isinstance(kwargs, Mapping):
        return  # the configuration reports it better
    if isinstance(wrappers, (list, tuple)) and all(isinstance(text, str) for text in wrappers):
        check(env_id, kwargs, wrappers, trusted=options.trust_env, where=options.config)


@contextlib.contextmanager
def _named(file: str | None) -> Iterator[None]:
    """Prefix configuration errors with the file name."""
    try:
        yield
    except ConfigError as error:
        raise error if file is None else ConfigError(f"--config {file}: {error}") from error


def _fitting(config: Config, options: argparse.Namespace, args: list[str]) -> tuple[Config, str]:
    """Return the preset that fits environment and device, and why."""
    from drama.envs.source import env_source
    from drama.observations import ObsSpace
    from drama.training.device import pick_device

    _check_words(args)
    env = config.env
    if options.env is not None:
        env = dataclasses.replace(env, id=options.env)
    target = parse_known_fields(_Target(env, config.device), args)
    device = pick_device(target.device)
    made = env_source(None, target.env).make(0)
    observations = ObsSpace.of(made.observation_space)
    made.close()
    return presets.fitting(observations, device.type)


def _read(file: str) -> tuple[dict[str, Any], bool]:
    """Return the settings in a TOML or JSON file, and whether it is the ``config.json`` of a run.

    Settings missing in a run's file are newer than the run and get their former value; settings
    missing in other files come from the preset.
    """
    try:
        text = Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read --config {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"cannot read --config {file}: it is not UTF-8") from error
    kind = "JSON" if text.lstrip().startswith("{") else "TOML"
    try:
        tree: dict[str, Any] = json.loads(text) if kind == "JSON" else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"--config {file} is not {kind}: {error}") from error
    if not isinstance(tree.get("preset", ""), str) or not isinstance(tree.get("env", {}), Mapping):
        raise ConfigError(f"--config {file}: preset must be a name and env a section")
    with _named(file):
        tree = update_names(tree)
    run = kind == "JSON" and tree.keys() >= {"preset", "world_model", "behaviour", "training"}
    return tree, run


def parse(default: Config, short: argparse.Namespace, args: list[str]) -> Config:
    """Apply short options and ``--section.field VALUE`` options to ``default``.

    Raises:
        ConfigError: One line about the first invalid option.
    """
    given = {name: value for name in SHORT if (value := getattr(short, name)) is not None}
    for name, value in given.items():
        default = _replace(default, SHORT[name], value)
    _check_words(args)
    config = parse_fields(default, args, "drama train [PRESET]")
    for name, value in given.items():
        found = functools.reduce(getattr, SHORT[name], config)
        if found != value:
            field = ".".join(SHORT[name]).replace("_", "-")
            raise ConfigError(f"--{name} {value} contradicts --{field} {found}")
    return config


def _check_words(args: list[str]) -> None:
    """Suggest the nearest short option for an unknown one, which tyro does not know."""
    fields = (field.name.replace("_", "-") for field in dataclasses.fields(Config))
    own = (
        *("run-dir", "resume", "preset", "config", "hours", "print-config", "trust-env"),
        *("help", "help-all"),
    )
    known = [*SHORT, *fields, *own]
    for arg in args:
        word = arg.removeprefix("--").partition("=")[0].replace("_", "-")
        if arg.startswith("--"):
            refuse_former(word)
        if arg.startswith("--") and "." not in word and word not in known:
            near = nearest(word, known)
            if near is not None:
                raise ConfigError(f"unknown option --{word}; did you mean --{near}?")


def _replace(section: Any, path: tuple[str, ...], value: object) -> Any:
    """Return ``section`` with the nested field at ``path`` replaced."""
    name, *rest = path
    if rest:
        value = _replace(getattr(section, name), tuple(rest), value)
    return dataclasses.replace(section, **{name: value})


def report_choices(
    found: Base, config: Config, options: argparse.Namespace, args: list[str]
) -> None:
    """Print environment and preset if neither the command line nor a file names them."""
    named = found.env_named or options.env is not None
    if not named and not any(arg.startswith("--env.id") for arg in args):
        err.print(f"environment {config.env.id} (default; choose with --env ID)")
    if found.chosen_for is not None:
        err.print(
            f"preset {config.preset} (default for {found.chosen_for}; "
            "choose with drama train PRESET)"
        )


# -- help -----------------------------------------------------------------------------------------

SETTINGS = {
    "steps": "environment steps of the run",
    "seed": "seed of environment, weights and all sampling",
    "device": "auto, cpu, cuda, cuda:1 or mps",
    "env.image-size": "frame size in pixels; None: 64, or the native size if small",
    "env.kwargs": "arguments of the environment: name=value words or a JSON object",
    "env.wrappers": "wrappers, inner first: module:Class or module:Class(size=4)",
    "env.sticky-actions": "Atari: probability that an action is repeated, 0 to 1",
    "replay.capacity": "transitions in the replay",
    "world-model.optim.lr": "learning rate of the world model",
    "behaviour.optim.lr": "learning rate of actor and critic",
    "behaviour.horizon": "imagined steps per trajectory",
    "behaviour.entropy": "weight of the entropy bonus",
    "training.warmup-steps": "steps with random actions before the first update",
    "training.world-model-ratio": "world-model updates per environment step",
    "training.behaviour-ratio": "policy updates per environment step",
    "evaluation.episodes": "episodes played after training; 0 = none",
}
"""Fields in the short help, besides those of `SHORT`."""


def show_help(args: Sequence[str]) -> None:
    """Print the most used options, or with ``--help-all`` all options.

    Args:
        args: Arguments of ``drama train``; a preset among them sets the displayed values.
    """
    options, rest = split([arg for arg in args if arg not in ("-h", "--help", "--help-all")])
    config = presets.preset(options.preset or "quick")
    parser = _help_parser(config)
    out.print(parser.format_help().rstrip())
    if "--help-all" in args:
        out.print("\nall settings:\n")
        parse_fields(config, [*rest, "--help"], "drama train [PRESET]")
    else:
        out.print(f"\nValues in parentheses: preset {config.preset}. All settings: --help-all")


def _help_parser(config: Config) -> argparse.ArgumentParser:
    parser = Parser(
        prog="drama train",
        usage="drama train [PRESET] --env ID [options]\n       drama train --resume DIR [options]",
        add_help=False,
        formatter_class=functools.partial(argparse.HelpFormatter, max_help_position=36),
    )
    run = parser.add_argument_group("run")
    named = ", ".join(presets.PRESETS)
    run.add_argument(
        "preset", metavar="PRESET", help=f"{named}; default: by environment and device"
    )
    run.add_argument("--preset", metavar="NAME", help="same as PRESET")
    run.add_argument("--config", metavar="FILE", help="settings file: TOML, or a run's config.json")
    run.add_argument(
        "--print-config", action="store_true", help="print the configuration as JSON, then exit"
    )
    run.add_argument(
        "--trust-env", action="store_true", help="allow importing code that a file names"
    )
    run.add_argument("--run-dir", metavar="DIR", help="new run directory (default: under runs/)")
    run.add_argument("--resume", metavar="DIR", help="continue a run from its last checkpoint")
    run.add_argument(
        "--hours",
        metavar="H",
        help="choose update ratios for a run of H hours here; or afternoon (3), night (10)",
    )
    settings = parser.add_argument_group("settings")
    words = {
        "env": "Gymnasium id, such as ALE/Pong-v5, or module:make_env",
        "dynamics": f"sequence model: {', '.join(SEQUENCE_MODELS.names())}",
        "sampler": f"replay sampler: {', '.join(SAMPLERS.names())}",
        "behaviour": f"policy learning: {', '.join(BEHAVIOURS.names())}",
    }
    paths = {name: SHORT[name] for name in words}
    paths |= {name: tuple(name.replace("-", "_").split(".")) for name in SETTINGS}
    for name, text in {**words, **SETTINGS}.items():
        value = functools.reduce(getattr, paths[name], config)
        metavar = {"env": "ID", "device": "NAME"}.get(name, "NAME" if name in words else "VALUE")
        settings.add_argument(f"--{name}", metavar=metavar, help=f"{text} ({value})")
    return parser
