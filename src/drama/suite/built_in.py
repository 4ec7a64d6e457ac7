"""Built-in suites, and loading of suites from files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from drama.errors import ConfigError
from drama.evaluation import games
from drama.suite.layout import no_suite
from drama.suite.spec import SuiteSpec, Variant
from drama.text import did_you_mean


def atari100k() -> SuiteSpec:
    """Drama XS on the 26 games of the Atari100k benchmark, five seeds each."""
    return SuiteSpec(
        name="atari100k",
        title="Atari100k",
        games=tuple(f"ALE/{game}-v5" for game in games()),
        seeds=(0, 1, 2, 3, 4),
        variants=(Variant("xs", "Drama XS", "xs"),),
    )


def atari100k_ablations() -> SuiteSpec:
    """Single-component ablations on four games: sampler, sequence model, size, behaviour."""
    dynamics = "world_model.dynamics.name"
    return SuiteSpec(
        name="atari100k-ablations",
        title="Atari100k, one change at a time",
        games=tuple(f"ALE/{game}-v5" for game in ("Boxing", "Freeway", "Kangaroo", "Krull")),
        seeds=(0, 1, 2, 3, 4),
        variants=(
            Variant("xs", "Drama XS", "xs"),
            Variant("uniform", "Uniform sampler", "xs", {"replay.sampler": "uniform"}),
            Variant("dfs-learnt", "DFS, learnt first", "xs", {"replay.sampler": "dfs-trained"}),
            Variant("mamba1", "Mamba-1", "xs", {dynamics: "mamba1"}),
            Variant("transformer", "Transformer", "xs", {dynamics: "transformer"}),
            Variant("gru", "GRU", "xs", {dynamics: "gru"}),
            Variant("s", "Drama S", "s"),
            Variant("ppo", "PPO", "xs", {"behaviour.algorithm": "ppo"}),
        ),
    )


def toy() -> SuiteSpec:
    """Three built-in games, three seeds, two samplers; takes minutes on two cores."""
    # Half the batch sizes and less than half the steps of preset quick, slightly higher ratios.
    sizes = {
        "world_model.batch_size": 8,
        "behaviour.batch_size": 64,
        "training.warmup_steps": 400,
        "training.world_model_ratio": 0.3,
        "training.behaviour_ratio": 0.3,
    }
    return SuiteSpec(
        name="toy",
        title="Built-in games, two samplers",
        games=("drama/Catch-v0", "drama/Recall8-v0", "drama/Sparse-v0"),
        seeds=(0, 1, 2),
        variants=(
            Variant("dfs", "DFS sampler", "quick", sizes),
            Variant("uniform", "Uniform sampler", "quick", {**sizes, "replay.sampler": "uniform"}),
        ),
        steps=2000,
    )


def small() -> SuiteSpec:
    """Games of one preset without Atari: the built-in ones, two of Gymnasium, four of MinAtar."""
    steps = {
        "drama/Catch-v0": 5_000,
        "drama/Recall32-v0": 15_000,
        "drama/Sparse-v0": 120_000,
        "CartPole-v1": 5_000,
        "Acrobot-v1": 15_000,
        "MinAtar/Breakout-v1": 100_000,
        "MinAtar/SpaceInvaders-v1": 100_000,
        "MinAtar/Freeway-v1": 100_000,
        "MinAtar/Asterix-v1": 100_000,
    }
    return SuiteSpec(
        name="small",
        title="Small games",
        games=tuple(steps),
        seeds=(0, 1, 2),
        variants=(Variant("quick", "Drama quick", "quick"),),
        steps=steps,
    )


def atari_laptop() -> SuiteSpec:
    """Preset `laptop` on three Atari games, two seeds each; takes hours per run on two cores."""
    return SuiteSpec(
        name="atari-laptop",
        title="Atari on a laptop",
        games=("ALE/Pong-v5", "ALE/Boxing-v5", "ALE/Krull-v5"),
        seeds=(0, 1),
        variants=(Variant("laptop", "Drama laptop", "laptop"),),
        steps=100_000,
    )


BUILT_IN: dict[str, Callable[[], SuiteSpec]] = {
    "atari100k": atari100k,
    "atari100k-ablations": atari100k_ablations,
    "atari-laptop": atari_laptop,
    "small": small,
    "toy": toy,
}
"""Built-in suites by name."""


def load_spec(source: str) -> SuiteSpec:
    """Return a built-in suite, or read one from a file.

    Args:
        source: A name in `BUILT_IN`, or the path of a ``.toml`` or ``.json`` file.

    Raises:
        ConfigError: The suite or file does not exist, or the file is not a suite.
    """
    if source in BUILT_IN:
        return BUILT_IN[source]()
    path = Path(source)
    if path.is_dir():
        raise ConfigError(no_suite(path))
    if path.suffix not in (".toml", ".json") and not path.is_file():
        raise ConfigError(
            f"unknown suite {source!r}{did_you_mean(source, BUILT_IN)} (built-in: "
            f"{', '.join(BUILT_IN)}; or name a .toml file)"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read suite {source}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"cannot read suite {source}: it is not UTF-8") from error
    try:
        read = SuiteSpec.from_json if path.suffix == ".json" else SuiteSpec.from_toml
        return read(text)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error
