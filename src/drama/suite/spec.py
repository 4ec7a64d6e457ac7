"""Spec of a suite: games, seeds and variants of a configuration.

A [SuiteSpec][drama.suite.spec.SuiteSpec] is plain data: a built-in suite, a TOML or JSON file, or
the ``suite.json`` of an existing suite. Each run, a variant on a game with a seed, has exactly one
[Config][drama.config.Config].

One file: a suite and its two text forms, which change together.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from drama import presets
from drama.config import Config
from drama.errors import ConfigError
from drama.evaluation import game_of
from drama.renamed import update_names
from drama.suite.override import dotted, override
from drama.suite.validation import (
    as_toml,
    distinct,
    fields_of,
    items_at,
    listed,
    nearest,
    steps_by_game,
    table_at,
    typed,
)

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

RESERVED = ("report", "logs", "suite.json")
"""Names in a suite directory that no variant may have."""
LONGEST_NAME = 100
"""Maximum length of a variant's name: file systems limit path components to 255 bytes."""


def slug(game: str) -> str:
    """Return a game's id as a directory name: ``ALE/Pong-v5`` becomes ``ALE-Pong-v5``."""
    return re.sub(r"[^A-Za-z0-9]+", "-", game.split(":")[-1]).strip("-")


@dataclass(frozen=True)
class Variant:
    """One configuration of the agent."""

    name: str
    """Directory name: letters, digits, ``.``, ``_`` and ``-``."""
    label: str
    """Name in tables and figures."""
    preset: str
    """Base preset."""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Settings by dotted ``section.field``, as in ``drama train --section.field VALUE``."""

    def __post_init__(self) -> None:
        """Validate the name and normalise the overrides.

        Raises:
            ConfigError: One line about the first invalid value.
        """
        if len(self.name) > LONGEST_NAME:
            raise ConfigError(
                f"variant name {self.name[:20]!r}... has {len(self.name)} characters; the "
                f"maximum is {LONGEST_NAME}"
            )
        fine = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name)
        if not fine or self.name.casefold() in RESERVED:
            raise ConfigError(
                f"variant name {self.name!r} is not a valid directory name: use letters, digits, "
                f"'.', '_' and '-', a letter or digit first, and not {' or '.join(RESERVED)}"
            )
        object.__setattr__(self, "overrides", dotted(self.overrides))
        self.config  # noqa: B018 - raises if preset or overrides are invalid

    @functools.cached_property
    def config(self) -> Config:
        """Configuration without game, seed and steps.

        Raises:
            ConfigError: Preset or field is unknown, or a value is invalid.
        """
        try:
            return override(presets.preset(self.preset), self.overrides)
        except ConfigError as error:
            raise ConfigError(f"variant {self.name}: {error}") from error

    def with_overrides(self, overrides: Mapping[str, Any]) -> Variant:
        """Return a copy with further overrides, which take precedence."""
        return dataclasses.replace(self, overrides={**self.overrides, **dotted(overrides)})


@dataclass(frozen=True)
class SuiteSpec:
    """All combinations of variants, games and seeds."""

    name: str
    """One word, the default directory name."""
    title: str
    """Title of the report."""
    games: tuple[str, ...]
    """Gymnasium ids."""
    seeds: tuple[int, ...]
    """Training seeds."""
    variants: tuple[Variant, ...]
    """Compared configurations; the first is the baseline."""
    steps: int | Mapping[str, int] | None = None
    """Environment steps of each run: one number, or one for every game by id. None: those of the
    variant's preset."""

    def __post_init__(self) -> None:
        """Validate names, seeds and configurations.

        Raises:
            ConfigError: One line about the first invalid value.
        """
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise ConfigError(f"suite name {self.name!r} is not a valid directory name")
        distinct("game", self.games, lambda game: slug(game).casefold())
        distinct("seed", self.seeds, lambda seed: seed)
        distinct("variant", self.variants, lambda variant: variant.name.casefold())
        if any(not slug(game) for game in self.games):
            raise ConfigError("a game's id is empty")
        if isinstance(self.steps, Mapping):
            object.__setattr__(self, "steps", steps_by_game(self.steps, self.games))
        for variant in self.variants:
            self.config(variant, self.games[0], self.seeds[0])
            for seed in self.seeds:
                if not 0 <= seed < 2**63:
                    raise ConfigError(f"seeds must lie in [0, 2**63), got {seed}")

    @property
    def size(self) -> int:
        """Number of runs."""
        return len(self.variants) * len(self.games) * len(self.seeds)

    def variant(self, name: str) -> Variant:
        """Return the variant called ``name``.

        Raises:
            ConfigError: The suite has no such variant.
        """
        by_name = {variant.name: variant for variant in self.variants}
        return by_name[nearest("variant", name, by_name)]

    def steps_of(self, game: str) -> int | None:
        """Return the environment steps of each run of a game; None: those of the preset."""
        return self.steps[game] if isinstance(self.steps, Mapping) else self.steps

    def config(
        self, variant: Variant, game: str, seed: int, preset: Config | None = None
    ) -> Config:
        """Return the configuration of one run.

        Args:
            variant: Variant of the suite.
            game: Gymnasium id.
            seed: Training seed.
            preset: The variant's preset as recorded in the suite; None: the current one.

        Raises:
            ConfigError: A value is out of range.
        """
        config = variant.config if preset is None else override(preset, variant.overrides)
        steps = self.steps_of(game)
        return dataclasses.replace(
            config,
            seed=seed,
            steps=config.steps if steps is None else steps,
            env=dataclasses.replace(config.env, id=game),
        )

    # -- narrowing ----------------------------------------------------------------------------

    def narrowed(
        self,
        *,
        games: Sequence[str] | None = None,
        seeds: Sequence[int] | None = None,
        steps: int | Mapping[str, int] | None = None,
        variants: Sequence[str] | None = None,
        overrides: Mapping[str, Any] | None = None,
    ) -> SuiteSpec:
        """Return a subset of this suite, with changed settings.

        Args:
            games: Games to keep, by id, directory name or title: ``ALE/Pong-v5``, ``Pong``.
            seeds: Seeds to keep.
            steps: New number of steps of every run, or one for every game kept.
            variants: Variants to keep, by name.
            overrides: Further overrides for every variant.

        Raises:
            ConfigError: A name is not in this suite, or a value is out of range.
        """
        spec = self
        if games is not None:
            wanted = {self._game(name) for name in games}
            left = tuple(game for game in self.games if game in wanted)
            known = self.steps
            if isinstance(known, Mapping):
                known = {game: known[game] for game in left}
            spec = dataclasses.replace(spec, games=left, steps=known)
        if seeds is not None:
            for seed in seeds:
                if seed not in self.seeds:
                    raise ConfigError(
                        f"suite {self.name} has no seed {seed}; it has {listed(self.seeds)}"
                    )
            spec = dataclasses.replace(spec, seeds=tuple(s for s in self.seeds if s in seeds))
        if variants is not None:
            wanted = {self.variant(name).name for name in variants}
            kept = tuple(v for v in self.variants if v.name in wanted)
            spec = dataclasses.replace(spec, variants=kept)
        if overrides:
            changed = tuple(v.with_overrides(overrides) for v in spec.variants)
            spec = dataclasses.replace(spec, variants=changed)
        if steps is not None:
            spec = dataclasses.replace(spec, steps=steps)
        return spec

    def _game(self, name: str) -> str:
        known = {game: game for game in self.games}
        for game in self.games:
            known.setdefault(slug(game), game)
            if (title := game_of(game)) is not None:
                known.setdefault(title, game)
            known.setdefault(re.sub(r"-v\d+$", "", game.split("/")[-1]), game)
        by_key = {key.casefold(): game for key, game in known.items()}
        if name.casefold() in by_key:
            return by_key[name.casefold()]
        title = game_of(name)
        if title in known:
            return known[title]
        return known[nearest("game", name, known)]

    # -- as text ------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Return the spec for JSON."""
        tree: dict[str, Any] = {"name": self.name, "title": self.title}
        steps = dict(self.steps) if isinstance(self.steps, Mapping) else self.steps
        tree |= {"games": list(self.games), "seeds": list(self.seeds), "steps": steps}
        tree["variants"] = [
            {
                "name": variant.name,
                "label": variant.label,
                "preset": variant.preset,
                "overrides": {
                    key: list(value) if isinstance(value, tuple) else value
                    for key, value in variant.overrides.items()
                },
            }
            for variant in self.variants
        ]
        return tree

    def to_json(self) -> str:
        """Return the spec as indented JSON."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    def to_toml(self) -> str:
        """Return the spec as editable TOML.

        Raises:
            ConfigError: An override is None, which TOML cannot express.
        """
        tree = self.to_dict()
        variants = tree.pop("variants")
        by_game = tree.pop("steps") if isinstance(self.steps, Mapping) else {}
        lines = [f"{key} = {as_toml(value)}" for key, value in tree.items() if value is not None]
        if by_game:
            lines += ["", "[steps]"]
            lines += [f"{as_toml(game)} = {steps}" for game, steps in by_game.items()]
        for variant in variants:
            overrides = variant.pop("overrides")
            lines += ["", "[[variants]]"]
            lines += [f"{key} = {as_toml(value)}" for key, value in variant.items()]
            if overrides:
                lines += ["", "[variants.overrides]"]
                lines += [f"{as_toml(key)} = {as_toml(value)}" for key, value in overrides.items()]
        return "\n".join(lines) + "\n"

    @classmethod
    def from_dict(cls, tree: object) -> SuiteSpec:
        """Build a spec from nested dictionaries, validating names and types.

        Raises:
            ConfigError: A field is unknown or invalid; the message suggests the nearest name.
        """
        try:
            json.dumps(tree, ensure_ascii=False, skipkeys=True, default=str).encode()
        except UnicodeEncodeError as error:  # JSON allows lone surrogates: "\\ud800"
            raise ConfigError("the suite contains a lone surrogate: not Unicode") from error
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"the suite cannot be written as JSON: {error}") from error
        values = fields_of(cls, tree, "suite")
        variants = items_at(values["variants"], "suite.variants")
        built = []
        for index, branch in enumerate(variants):
            path = f"suite.variants[{index}]"
            found = fields_of(Variant, branch, path, optional=("label", "overrides"))
            name = typed(str, found["name"], f"{path}.name")
            built.append(
                Variant(
                    name,
                    typed(str, found.get("label", name), f"{path}.label"),
                    typed(str, found["preset"], f"{path}.preset"),
                    update_names(table_at(found.get("overrides", {}), f"{path}.overrides")),
                )
            )
        name = typed(str, values["name"], "suite.name")
        steps = values.get("steps")
        if steps is not None and not isinstance(steps, Mapping):
            steps = typed(int, steps, "suite.steps")
        return cls(
            name=name,
            title=typed(str, values.get("title", name), "suite.title"),
            games=tuple(
                typed(str, game, "suite.games") for game in items_at(values["games"], "suite.games")
            ),
            seeds=tuple(
                typed(int, seed, "suite.seeds") for seed in items_at(values["seeds"], "suite.seeds")
            ),
            variants=tuple(built),
            steps=steps,
        )

    @classmethod
    def from_json(cls, text: str) -> SuiteSpec:
        """Read the output of [to_json][drama.suite.spec.SuiteSpec.to_json].

        Raises:
            ConfigError: The text is not JSON, or a field is unknown or has the wrong type.
        """
        try:
            tree = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"not a suite in JSON: {error}") from error
        return cls.from_dict(tree)

    @classmethod
    def from_toml(cls, text: str) -> SuiteSpec:
        """Read a spec in TOML.

        Raises:
            ConfigError: The text is not TOML, or a field is unknown or has the wrong type.
        """
        try:
            tree = tomllib.loads(text)
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise ConfigError(f"not a suite in TOML: {error}") from error
        return cls.from_dict(tree)
