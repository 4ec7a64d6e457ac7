"""Suites of very short runs, and a pool that runs them in this process."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tests.training.faulty_envs import Walk, env_id
from tests.training.runs import TINY

from drama.cli import main
from drama.dynamics import registered
from drama.envs import make_env
from drama.suite import load_spec
from drama.suite.layout import Cell, begin_suite
from drama.suite.process import arguments, prepare
from drama.suite.runner import Outcome, Runner
from drama.suite.spec import SuiteSpec, Variant
from drama.suite.view import View

WALK = env_id(Walk)
STEPS = 40


def tiny_variant(name: str = "one", changes: Mapping[str, Any] | None = None) -> Variant:
    overrides = {key: value for key, value in TINY.items() if key != "steps"}
    return Variant(name, name.title(), "quick", {**overrides, **(changes or {})})


def tiny_spec(
    games: Sequence[str] = (WALK,),
    seeds: Sequence[int] = (0,),
    variants: Sequence[Variant] | None = None,
    steps: int | Mapping[str, int] = STEPS,
) -> SuiteSpec:
    variants = (tiny_variant(),) if variants is None else variants
    return SuiteSpec("tiny", "Tiny", tuple(games), tuple(seeds), tuple(variants), steps)


class Here:
    """The handle of a run that finishes as soon as it starts."""

    where = "here"

    def __init__(self, code: int, said: str) -> None:
        self.code = code
        self.said = said
        self.asked: list[str] = []

    def poll(self) -> int:
        return self.code

    def stop(self) -> None:
        self.asked.append("stop")

    def kill(self) -> None:
        self.asked.append("kill")

    def reason(self) -> str:
        return self.said


class HerePool:
    """Runs in sequence in this process; ``instead`` replaces the real run."""

    def __init__(self, instead: Callable[[Cell], Here | None] = lambda cell: None) -> None:
        self.instead = instead
        self.started: list[str] = []

    def has_capacity(self) -> bool:
        return True

    def start(self, cell: Cell) -> Here:
        prepare(cell)
        self.started.append(f"{cell.name} from {cell.step}")
        if (handle := self.instead(cell)) is not None:
            return handle
        try:
            return Here(main(arguments(cell)), "what it said")
        except ZeroDivisionError as error:
            return Here(1, f"ZeroDivisionError: {error}")

    def close(self) -> None:
        pass


def run_suite(
    directory: Path, spec: SuiteSpec, pool: HerePool | None = None
) -> tuple[Outcome, list[str], str]:
    """Run a suite here; return the outcome, the started runs and the messages."""
    begin_suite(directory, spec)
    pool = HerePool() if pool is None else pool
    said = io.StringIO()
    runner = Runner(directory, spec, pool, View(Console(file=said, width=200)))
    outcome = runner.run()
    return outcome, pool.started, said.getvalue()


def edit_json(path: Path, change: Callable[[Any], object]) -> None:
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(json.dumps(tree))


def assert_fits_its_games(path: Path) -> None:
    """Assert that each variant of a suite file can be trained in each of its games."""
    spec = load_spec(str(path))
    assert spec.name == path.stem
    for game in spec.games:
        if game.startswith("MinAtar/"):
            pytest.importorskip("minatar", reason="the extra 'minatar' is not installed")
        for variant in spec.variants:
            config = spec.config(variant, game, spec.seeds[0])
            assert config.steps <= config.replay.capacity
            assert config.world_model.dynamics.name in registered()
            make_env(game, image_size=config.env.image_size)
