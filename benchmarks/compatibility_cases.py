"""Cases of the compatibility page: construction of each environment and expected result.

One file: it is a list, mostly data.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

OWN = "benchmarks.compatibility_envs"
SB3 = "stable_baselines3.common.atari_wrappers"

Given = Literal["id", "config", "object", "factory", "lambda"]
"""``id``: on the command line. ``config``: an id with settings, from Python. ``object``,
``factory``, ``lambda``: from Python."""
Reads = Literal["picture", "vector", "one-hot", "parts", "refused"]


@dataclass(frozen=True)
class Ref:
    """Argument given by import path: the object at ``path``."""

    path: str
    shown: str = "lambda"


@dataclass(frozen=True)
class Part:
    """A call: ``path`` is ``module:callable``."""

    path: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def call(self, *args: Any) -> Any:
        """Import the callable and call it."""
        resolved = {
            k: pkgutil.resolve_name(v.path) if isinstance(v, Ref) else v
            for k, v in self.kwargs.items()
        }
        return pkgutil.resolve_name(self.path)(*args, **resolved)

    def __str__(self) -> str:
        """Return the call without its module; that of ``gymnasium.make`` as the id."""
        kwargs = dict(self.kwargs)
        name = self.path.partition(":")[2]
        for key in ("id", "env_id"):
            if key in kwargs:
                made = str(kwargs.pop(key))
                name = made if name == "make" else f"{name} {made}"
        shown = ", ".join(
            f"{k}={v.shown if isinstance(v, Ref) else repr(v)}" for k, v in kwargs.items()
        )
        return f"{name}({shown})" if shown else name


@dataclass(frozen=True)
class Case:
    """One row of the page."""

    name: str
    group: str
    parts: tuple[Part, ...]
    """The call that makes the environment, then its wrappers from the inside out."""
    given: Given
    reads: Reads | None
    """Expected reading; None = any."""
    needs: tuple[str, ...] = ()
    """Modules to import first."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Changes to the configuration."""
    lives: bool = False
    """Whether its episodes are lives or its rewards clipped: no normalised score."""

    @property
    def id(self) -> str:
        """Return the id of the first part."""
        return str(self.parts[0].kwargs["id"])

    def build(self) -> Any:
        """Make a new environment."""
        env = self.parts[0].call()
        for part in self.parts[1:]:
            env = part.call(env)
        return env

    def source(self) -> Any:
        """Return the argument of `drama.Agent`."""
        if self.given in ("id", "config"):
            return self.id
        for module in self.needs:
            importlib.import_module(module)
        if self.given == "object":
            return self.build()
        if self.given == "lambda":
            return lambda: self.build()
        factory: Callable[[], Any] = pkgutil.resolve_name(self.parts[0].path)
        return factory

    @property
    def recipe(self) -> str:
        """Return a readable form of the calls, from the inside out, with relevant settings."""
        settings = "".join(f" --{k.replace('_', '-')} {v}" for k, v in self.settings.items())
        return " → ".join(map(str, self.parts)) + settings


CASES: list[Case] = []


def make(env_id: str, **kwargs: Any) -> Part:
    """Return the part that calls ``gymnasium.make``."""
    return Part("gymnasium:make", {"id": env_id, **kwargs})


def wrap(path: str, **kwargs: Any) -> Part:
    """Return a wrapper, of ``gymnasium.wrappers`` unless its module is named."""
    return Part(path if ":" in path else f"gymnasium.wrappers:{path}", kwargs)


def own(name: str, **kwargs: Any) -> Part:
    """Return an environment or wrapper of `benchmarks.compatibility_envs`."""
    return Part(f"{OWN}:{name}", kwargs)


def add(name: str, given: Given, reads: Reads | None, *parts: Part | str, **other: Any) -> None:
    """Append a case to the current group."""
    made = tuple(make(part) if isinstance(part, str) else part for part in parts)
    CASES.append(Case(name, _group, made, given, reads, **other))


NO_LIMIT = {"env.max_episode_steps": None}

_group = "Classic control"
add("cartpole", "id", "vector", "CartPole-v1")
add("mountain-car", "id", "vector", "MountainCar-v0")
add("acrobot", "id", "vector", "Acrobot-v1")
add("pendulum", "id", "refused", "Pendulum-v1")
add("cartpole-kwargs", "object", "vector", make("CartPole-v1", sutton_barto_reward=True))
add(
    "cartpole-config-kwargs",
    "config",
    "vector",
    "CartPole-v1",
    settings={"env.kwargs": {"sutton_barto_reward": True}},
)
add(
    "cartpole-config-wrappers",
    "config",
    "vector",
    "CartPole-v1",
    settings={"env.wrappers": [f"{OWN}:FlipReward"]},
)

_group = "Box2D"
BOX2D: dict[str, Any] = {"needs": ("Box2D",)}
LANDER = "LunarLander-v3"
add("lander", "id", "vector", LANDER, **BOX2D)
add("lander-kwargs", "object", "vector", make(LANDER, gravity=-2.0, enable_wind=True), **BOX2D)
add("lander-continuous", "object", "refused", make(LANDER, continuous=True), **BOX2D)
add("lander-factory", "factory", "vector", own("make_lander"), **BOX2D)
add("car-racing", "object", "picture", make("CarRacing-v3", continuous=False), **BOX2D)
add("walker", "id", "refused", "BipedalWalker-v3", **BOX2D)

_group = "Toy text"
FLAT = wrap("FlattenObservation")
add("frozen-lake", "id", "refused", "FrozenLake-v1")
add("taxi", "id", "refused", "Taxi-v4")
add("cliff-walking", "id", "refused", "CliffWalking-v1")
add("blackjack", "id", "refused", "Blackjack-v1")
add("frozen-lake-flat", "object", "vector", make("FrozenLake-v1", is_slippery=False), FLAT)
add("taxi-flat", "object", "vector", make("Taxi-v4"), FLAT)
add("blackjack-flat", "object", "vector", make("Blackjack-v1"), FLAT)

_group = "Built-in games"
add("catch", "id", "picture", "drama/Catch-v0")
add("recall", "id", "picture", "drama/Recall32-v0")
add("sparse", "id", "picture", "drama/Sparse-v0")
add("catch-object", "object", "picture", make("drama/Catch-v0"))
add("catch-made", "object", "picture", Part("drama:make_env", {"env_id": "drama/Catch-v0"}))

_group = "MiniGrid"
GRID: dict[str, Any] = {"needs": ("minigrid",)}
EMPTY = "MiniGrid-Empty-5x5-v0"
IMAGE = wrap("minigrid.wrappers:ImgObsWrapper")
add("minigrid-module-id", "id", "refused", f"minigrid:{EMPTY}", **GRID)
add("minigrid-bare-id", "id", "refused", EMPTY, **GRID)
add("minigrid-dict", "object", "refused", EMPTY, **GRID)
add("minigrid-codes", "object", "picture", EMPTY, IMAGE, **GRID)
add("minigrid-full", "object", "picture", EMPTY, wrap("minigrid.wrappers:FullyObsWrapper"), IMAGE,
    **GRID)  # fmt: skip
add("minigrid-rgb", "object", "picture", EMPTY, wrap("minigrid.wrappers:RGBImgObsWrapper"), IMAGE,
    **GRID)  # fmt: skip
add("minigrid-rgb-partial", "object", "picture", EMPTY,
    wrap("minigrid.wrappers:RGBImgPartialObsWrapper"), IMAGE, **GRID)  # fmt: skip
add("minigrid-flat", "object", "vector", EMPTY, wrap("minigrid.wrappers:FlatObsWrapper"), **GRID)
add("minigrid-factory", "lambda", "picture", EMPTY, IMAGE, **GRID)

_group = "MinAtar"
MINATAR: dict[str, Any] = {"needs": ("minatar",)}
add("minatar", "id", "picture", "MinAtar/Breakout-v1", **MINATAR)
add("minatar-full-actions", "id", "picture", "MinAtar/Freeway-v0", **MINATAR)
add(
    "minatar-made",
    "object",
    "picture",
    Part(
        "drama:make_env",
        {"env_id": "MinAtar/Breakout-v1", "env_kwargs": {"sticky_action_prob": 0.0}},
    ),
    **MINATAR,
)

_group = "Atari"
ALE: dict[str, Any] = {"needs": ("ale_py",)}
BREAKOUT = "ALE/Breakout-v5"
PLAIN = "BreakoutNoFrameskip-v4"
SHORT = wrap("TimeLimit", max_episode_steps=60)
PREPROCESS = wrap("AtariPreprocessing", noop_max=10)
LIVES = wrap("AtariPreprocessing", noop_max=10, terminal_on_life_loss=True)
STACK = wrap("FrameStackObservation", stack_size=4)
BASELINE = wrap(f"{SB3}:AtariWrapper")
MONITOR = wrap("stable_baselines3.common.monitor:Monitor")
add("atari", "id", "picture", BREAKOUT, **ALE)
add(
    "atari-sticky",
    "id",
    "picture",
    "ALE/Pong-v5",
    settings={"env.sticky_actions": 0.25, "env.full_action_space": True},
    **ALE,
)
add("atari-whole-games", "id", "picture", BREAKOUT, settings={"env.life_loss": False}, **ALE)
add("atari-no-frameskip", "id", "picture", PLAIN, **ALE)
add("atari-v4", "id", "picture", "Breakout-v4", **ALE)
add("atari-deterministic", "id", "refused", "BreakoutDeterministic-v4", **ALE)
add("atari-ram-id", "id", "refused", "ALE/Breakout-ram-v5", **ALE)
add("atari-object", "object", "picture", BREAKOUT, **ALE)
add(
    "atari-made",
    "object",
    "picture",
    Part("drama:make_env", {"env_id": BREAKOUT, "life_loss": False, "max_episode_steps": 60}),
    settings=NO_LIMIT,
    **ALE,
)
add("atari-ram", "object", "vector", make(BREAKOUT, obs_type="ram"), **ALE)
add("atari-grey", "object", "picture", make(BREAKOUT, obs_type="grayscale"), **ALE)
add("atari-mode", "object", "picture", make(BREAKOUT, mode=4, difficulty=1), **ALE)
add("atari-grayscale", "object", "picture", BREAKOUT,
    wrap("GrayscaleObservation", keep_dim=True), **ALE)  # fmt: skip
add("atari-resize", "object", "picture", BREAKOUT, wrap("ResizeObservation", shape=(84, 84)), **ALE)
add("atari-preprocessing", "object", "picture", PLAIN, PREPROCESS, **ALE)
add("atari-scaled", "object", "picture", PLAIN,
    wrap("AtariPreprocessing", noop_max=10, scale_obs=True), **ALE)  # fmt: skip
add("atari-life-loss", "object", "picture", PLAIN, LIVES, lives=True, **ALE)
add("atari-stack", "object", "picture", PLAIN, PREPROCESS, STACK, **ALE)
add("atari-stack-rgb", "object", None, PLAIN,
    wrap("AtariPreprocessing", noop_max=10, grayscale_obs=False), STACK, **ALE)  # fmt: skip
add("atari-stack-factory", "lambda", "picture", PLAIN, PREPROCESS, STACK, **ALE)

_group = "Stable-Baselines3's wrappers"
SB: dict[str, Any] = {"needs": ("ale_py", "stable_baselines3")}
add("sb3-atari", "object", "picture", PLAIN, BASELINE, lives=True, **SB)
add("sb3-atari-factory", "lambda", "picture", PLAIN, BASELINE, lives=True, **SB)
add("sb3-atari-monitor", "object", "picture", PLAIN, BASELINE, MONITOR, lives=True, **SB)
add("sb3-monitor-atari", "object", "picture", PLAIN, MONITOR, BASELINE, **SB)
add("sb3-atari-games", "object", "picture", PLAIN,
    wrap(f"{SB3}:AtariWrapper", terminal_on_life_loss=False, clip_reward=False), **SB)  # fmt: skip
add("sb3-atari-stack", "object", None, PLAIN, BASELINE, STACK, lives=True, **SB)
add("sb3-limit-atari", "object", "picture", PLAIN, SHORT, BASELINE, lives=True, **SB)
add("sb3-clip", "object", "picture", PLAIN, wrap(f"{SB3}:ClipRewardEnv"), lives=True, **SB)
add("sb3-monitor", "object", "vector", "CartPole-v1", MONITOR, needs=("stable_baselines3",))
add(
    "sb3-monitor-file",
    "object",
    "vector",
    "CartPole-v1",
    wrap("stable_baselines3.common.monitor:Monitor", filename="monitor.csv"),
    needs=("stable_baselines3",),
)
add("sb3-vectors", "object", "refused", own("make_vectors"), needs=("stable_baselines3",))

_group = "Gymnasium's wrappers"
CARTPOLE = "CartPole-v1"
add("stack", "object", "vector", CARTPOLE, STACK)
add("stack-bounded", "object", "vector", LANDER,
    wrap("FrameStackObservation", stack_size=4), **BOX2D)  # fmt: skip
add("stack-flat", "object", "vector", LANDER, STACK, FLAT, **BOX2D)
add("flat-stack", "object", "vector", LANDER, FLAT, STACK, **BOX2D)
add("normalize-observation", "object", "vector", CARTPOLE, wrap("NormalizeObservation"))
add("normalize-reward", "object", "vector", CARTPOLE, wrap("NormalizeReward"))
add("transform-reward", "object", "vector", CARTPOLE,
    wrap("TransformReward", func=Ref(f"{OWN}:tenfold")))  # fmt: skip
add("transform-observation", "object", "vector", CARTPOLE,
    wrap("TransformObservation", func=Ref(f"{OWN}:negative"),
         observation_space=None))  # fmt: skip
add("clip-reward", "object", "vector", LANDER,
    wrap("ClipReward", min_reward=-1.0, max_reward=1.0), **BOX2D)  # fmt: skip
add("time-limit", "object", "vector", CARTPOLE,
    wrap("TimeLimit", max_episode_steps=9), settings=NO_LIMIT)  # fmt: skip
add("make-limit", "object", "vector", make("MountainCar-v0", max_episode_steps=25),
    settings=NO_LIMIT)  # fmt: skip
add("time-aware", "object", "vector", CARTPOLE, wrap("TimeAwareObservation"))
add("time-aware-dict", "object", "refused", CARTPOLE,
    wrap("TimeAwareObservation", flatten=False))  # fmt: skip
add("flatten", "object", "vector", CARTPOLE, FLAT)
add("rescale", "object", "vector", "MountainCar-v0",
    wrap("RescaleObservation", min_obs=-1.0, max_obs=1.0))  # fmt: skip
add("dtype-64", "object", "vector", CARTPOLE,
    wrap("DtypeObservation", dtype=Ref("numpy:float64", "float64")))  # fmt: skip
add("dtype-16", "object", "vector", CARTPOLE,
    wrap("DtypeObservation", dtype=Ref("numpy:float16", "float16")))  # fmt: skip
add("delay", "object", "vector", CARTPOLE, wrap("DelayObservation", delay=2))
add("sticky", "object", "vector", CARTPOLE, wrap("StickyAction", repeat_action_probability=0.25))
add("transform-action", "object", "vector", CARTPOLE,
    wrap("TransformAction", func=Ref(f"{OWN}:swap"), action_space=None))  # fmt: skip
add("statistics", "object", "vector", CARTPOLE, wrap("RecordEpisodeStatistics"))
add("autoreset", "object", "vector", CARTPOLE, wrap("Autoreset"))
add(
    "video",
    "object",
    "vector",
    make(CARTPOLE, render_mode="rgb_array"),
    wrap("RecordVideo", video_folder="videos", disable_logger=True),
    needs=("moviepy", "pygame"),
)
add(
    "rendered",
    "object",
    "picture",
    make(CARTPOLE, render_mode="rgb_array"),
    wrap("AddRenderObservation"),
    wrap("ResizeObservation", shape=(32, 32)),
    needs=("pygame",),
)
add("no-checker", "object", "vector", make(CARTPOLE, disable_env_checker=True))
add("many-wrappers", "object", "vector", LANDER, wrap("ClipReward", min_reward=-1.0),
    wrap("TimeAwareObservation"), STACK, FLAT, wrap("RecordEpisodeStatistics"),
    **BOX2D)  # fmt: skip
add("vectors", "object", "refused", Part("gymnasium:make_vec", {"id": CARTPOLE, "num_envs": 2}))

_group = "Own classes, wrappers and factories"
add("own-id", "id", "vector", f"{OWN}:compat/Walk-v0")
add("own-object", "object", "vector", own("Walk"))
add("own-argument", "object", "vector", own("WithArgument", length=5))
add("own-factory", "factory", "vector", own("make_walk"))
add("own-class", "factory", "vector", own("Walk"))
add("own-lambda", "lambda", "vector", own("Walk"))
add("own-factory-id", "id", "vector", make(f"{OWN}:make_walk"))
add("lander-factory-id", "id", "vector", make(f"{OWN}:make_lander"), **BOX2D)
add("own-wrapper", "object", "vector", CARTPOLE, own("FlipReward"))
add("own-wrapper-argument", "object", "vector", CARTPOLE, own("FlipReward", scale=-2.0))
add("own-wrapper-factory", "lambda", "vector", CARTPOLE, own("FlipReward"))
add("own-actions", "object", "vector", CARTPOLE, own("SwapActions"))
add("own-twice", "object", "vector", CARTPOLE, own("FlipReward"), FLAT, own("SwapActions"))
add("factory-of-nothing", "factory", "refused", own("make_nothing"))

_group = "Pictures and their likes"
for _name, _reads, _picture in (
    ("float-rgb", "picture", {"shape": (16, 16, 3), "dtype": "float32", "high": 1}),
    ("float-rgb-255", "picture", {"shape": (16, 16, 3), "dtype": "float32", "high": 255}),
    ("channels-first", "picture", {"shape": (3, 16, 16), "dtype": "uint8", "high": 255}),
    ("grey", "picture", {"shape": (16, 16), "dtype": "uint8", "high": 255}),
    ("bool-planes", "picture", {"shape": (10, 10, 4), "dtype": "bool", "high": 1}),
    ("oblong", "picture", {"shape": (40, 90, 3), "dtype": "uint8", "high": 255}),
    ("float-matrix", "vector", {"shape": (4, 8), "dtype": "float32", "low": -2, "high": 2}),
    ("float-unbounded", "vector", {"shape": (4, 8), "dtype": "float32", "low": float("-inf"),
                                   "high": float("inf")}),
    ("int-matrix", None, {"shape": (4, 4), "dtype": "int32", "high": 17}),
    ("four-axes", None, {"shape": (2, 16, 16, 3), "dtype": "uint8", "high": 255}),
):  # fmt: skip
    add(_name, "lambda", _reads,
        own("Picture", **{"low": 0, "bright": 1, **_picture}))  # fmt: skip

_group = "Environments with faults"
add("endless", "factory", "vector", own("Endless"), settings=NO_LIMIT)
add("endless-limit", "factory", "vector", own("Endless"), settings={"env.max_episode_steps": 20})
add("float64", "factory", "vector", own("Float64"))
add("integers", "factory", "vector", own("IntegerVector"))
add("list-observation", "factory", None, own("ListObservation"))
add("reused-array", "factory", "vector", own("ReusedArray"))
add("info-none", "factory", "refused", own("InfoNone"))
add("reset-info-none", "factory", "refused", own("ResetInfoNone"))
add("reward-array", "factory", "vector", own("RewardArray"))
add("reward-none", "factory", "refused", own("RewardNone"))
add("reward-nan", "factory", "refused", own("NanReward"))
add("observation-nan", "factory", "refused", own("NanObservation"))
add("out-of-bounds", "factory", "refused", own("OutOfBounds"))
add("unseeded", "factory", "vector", own("Unseeded"))
add("from-five", "factory", "vector", own("FromFive"))
add("one-action", "factory", "refused", own("OneAction"))
add("many-actions", "factory", "refused", own("ManyActions"))
add("old-api", "factory", "refused", own("OldApi"))
