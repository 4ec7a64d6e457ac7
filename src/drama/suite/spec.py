"""What a suite consists of: games, seeds, and variants of a configuration.

A [SuiteSpec][drama.suite.spec.SuiteSpec] is plain data. It comes from a built-in name, from a TOML
or JSON file, or from the ``suite.json`` of a suite that was begun; every cell of it, a variant on
a game with a seed, has exactly one [Config][drama.config.Config].
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
from drama.suite.checking import (
    as_toml,
    distinct,
    fields_of,
    items_at,
    listed,
    nearest,
    table_at,
    typed,
)
from drama.suite.override import dotted, override

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

RESERVED = ("report", "logs", "suite.json")
"""What lies in the directory of a suite and is not a variant's."""
LONGEST_NAME = 100
"""Characters of a variant's name: file systems take 255 bytes, and it is joined to others."""


def slug(game: str) -> str:
    """Return a game's id as the name of a directory: ``ALE/Pong-v5`` is ``ALE-Pong-v5``."""
    return re.sub(r"[^A-Za-z0-9]+", "-", game.split(":")[-1]).strip("-")


@dataclass(frozen=True)
class Variant:
    """One way of configuring the agent."""

    name: str
    """Name of its directory: letters, digits, ``.``, ``_`` and ``-``."""
    label: str
    """What tables and plots call it."""
    preset: str
    """Name of the preset it starts from."""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Dotted ``section.field`` to value, as ``--section.field VALUE`` of ``drama train``."""

    def __post_init__(self) -> None:
        """Check the name, and make the overrides exact.

        Raises:
            ConfigError: One line about the first thing that is wrong.
        """
        if len(self.name) > LONGEST_NAME:
            raise ConfigError(
                f"variant name {self.name[:20]!r}... has {len(self.name)} characters; at most "
                f"{LONGEST_NAME} are possible"
            )
        fine = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name)
        if not fine or self.name.casefold() in RESERVED:
            raise ConfigError(
                f"variant name {self.name!r} is no directory name: letters, digits, '.', '_' and "
                f"'-', a letter or digit first, and not {' or '.join(RESERVED)}"
            )
        object.__setattr__(self, "overrides", dotted(self.overrides))
        self.config  # noqa: B018 - raises where preset or overrides are wrong

    @functools.cached_property
    def config(self) -> Config:
        """The configuration with everything but game, seed and steps.

        Raises:
            ConfigError: No such preset or field, or a value that does not fit.
        """
        try:
            return override(presets.preset(self.preset), self.overrides)
        except ConfigError as error:
            raise ConfigError(f"variant {self.name}: {error}") from error

    def with_overrides(self, overrides: Mapping[str, Any]) -> Variant:
        """Return the same with further overrides, which prevail."""
        return dataclasses.replace(self, overrides={**self.overrides, **dotted(overrides)})


@dataclass(frozen=True)
class SuiteSpec:
    """Every variant on every game with every seed."""

    name: str
    """One word; the default name of the suite's directory."""
    title: str
    """What a report is headed with."""
    games: tuple[str, ...]
    """Gymnasium ids."""
    seeds: tuple[int, ...]
    """Training seeds."""
    variants: tuple[Variant, ...]
    """What is compared; the first is what the others are held against."""
    steps: int | None = None
    """Environment steps of each run. None: what the variant's preset says."""

    def __post_init__(self) -> None:
        """Check that there is something to do, and nothing twice.

        Raises:
            ConfigError: One line about the first thing that is wrong.
        """
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise ConfigError(f"suite name {self.name!r} is no directory name")
        distinct("game", self.games, lambda game: slug(game).casefold())
        distinct("seed", self.seeds, lambda seed: seed)
        distinct("variant", self.variants, lambda variant: variant.name.casefold())
        if any(not slug(game) for game in self.games):
            raise ConfigError("a game's id is empty")
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
            ConfigError: There is none.
        """
        by_name = {variant.name: variant for variant in self.variants}
        return by_name[nearest("variant", name, by_name)]

    def config(
        self, variant: Variant, game: str, seed: int, preset: Config | None = None
    ) -> Config:
        """Return the configuration of one run.

        Args:
            variant: One of the suite's.
            game: Gymnasium id.
            seed: Of the run.
            preset: What the variant's preset was when the suite was begun; None: what it is.

        Raises:
            ConfigError: A value is out of range.
        """
        config = variant.config if preset is None else override(preset, variant.overrides)
        return dataclasses.replace(
            config,
            seed=seed,
            steps=config.steps if self.steps is None else self.steps,
            env=dataclasses.replace(config.env, id=game),
        )

    # -- narrowing ----------------------------------------------------------------------------

    def narrowed(
        self,
        *,
        games: Sequence[str] | None = None,
        seeds: Sequence[int] | None = None,
        steps: int | None = None,
        variants: Sequence[str] | None = None,
        overrides: Mapping[str, Any] | None = None,
    ) -> SuiteSpec:
        """Return a part of this suite.

        Args:
            games: Those to keep, by id, directory name or title: ``ALE/Pong-v5``, ``Pong``.
            seeds: Those to keep.
            steps: Replaces the steps of every run.
            variants: Those to keep, by name.
            overrides: Further overrides for every variant.

        Raises:
            ConfigError: Something named is not in this suite, or is out of range.
        """
        spec = self
        if games is not None:
            wanted = {self._game(name) for name in games}
            spec = dataclasses.replace(spec, games=tuple(g for g in self.games if g in wanted))
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
        """Return the spec as a tree for JSON."""
        tree: dict[str, Any] = {"name": self.name, "title": self.title}
        tree |= {"games": list(self.games), "seeds": list(self.seeds), "steps": self.steps}
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
        """Return the spec as TOML, to be edited by hand.

        Raises:
            ConfigError: An override is None, for which TOML has no word.
        """
        tree = self.to_dict()
        variants = tree.pop("variants")
        lines = [f"{key} = {as_toml(value)}" for key, value in tree.items() if value is not None]
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
        """Build a spec from nested dictionaries, checking names and types.

        Raises:
            ConfigError: Naming the field, with the nearest known name where there is one.
        """
        try:
            json.dumps(tree, ensure_ascii=False, skipkeys=True, default=str).encode()
        except UnicodeEncodeError as error:  # JSON can spell half of a character: "\\ud800"
            raise ConfigError("the suite has text that is not Unicode: a lone surrogate") from error
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
            steps=None if steps is None else typed(int, steps, "suite.steps"),
        )

    @classmethod
    def from_json(cls, text: str) -> SuiteSpec:
        """Read what [to_json][drama.suite.spec.SuiteSpec.to_json] wrote.

        Raises:
            ConfigError: It is not JSON, or a field is unknown or has the wrong type.
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
            ConfigError: It is not TOML, or a field is unknown or has the wrong type.
        """
        try:
            tree = tomllib.loads(text)
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise ConfigError(f"not a suite in TOML: {error}") from error
        return cls.from_dict(tree)


def differences(before: SuiteSpec, after: SuiteSpec) -> list[str]:
    """Say in words how ``after`` differs from ``before``; empty if they ask for the same runs."""
    found = []
    for name in ("name", "title", "steps"):
        old, new = getattr(before, name), getattr(after, name)
        if old != new:
            found.append(f"{name} {new} (there: {old})")
    for name in ("games", "seeds"):
        found += _sets(name, getattr(before, name), getattr(after, name))
    old_variants = {variant.name: variant for variant in before.variants}
    new_variants = {variant.name: variant for variant in after.variants}
    found += _sets("variants", tuple(old_variants), tuple(new_variants))
    for name in old_variants.keys() & new_variants.keys():
        one, other = old_variants[name], new_variants[name]
        for key in ("label", "preset"):
            if getattr(one, key) != getattr(other, key):
                found.append(f"{name}: {key} {getattr(other, key)} (there: {getattr(one, key)})")
        for key in sorted(one.overrides.keys() | other.overrides.keys()):
            old, new = (side.overrides.get(key, "unset") for side in (one, other))
            if old != new:
                found.append(f"{name}: {key}={new} (there: {old})")
    return found


def _sets(name: str, before: tuple[Any, ...], after: tuple[Any, ...]) -> list[str]:
    if before == after:
        return []
    added = [item for item in after if item not in before]
    missing = [item for item in before if item not in after]
    parts = [f"more: {listed(added)}"] if added else []
    parts += [f"without: {listed(missing)}"] if missing else []
    return [f"{name} {', '.join(parts) or 'in another order'}"]
