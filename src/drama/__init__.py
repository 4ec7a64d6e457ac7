"""World-model reinforcement learning with Mamba dynamics.

    agent = drama.Agent("ALE/Pong-v5", drama.presets.xs(), seed=0)
    agent.learn(100_000)

See [drama.Agent][], [drama.Config][] and the ``drama`` command.
"""

import contextlib as _contextlib
from typing import TYPE_CHECKING

from drama.attributes import lazy as _lazy
from drama.version import __version__

with _contextlib.suppress(ModuleNotFoundError):  # drama.runtime does without its dependencies
    from drama import envs  # noqa: F401 (registers the built-in games in Gymnasium)

if TYPE_CHECKING:
    from drama import presets, runtime, ssm
    from drama.agent import Agent
    from drama.config import Config
    from drama.envs import make_env
    from drama.errors import DramaError
    from drama.play import DreamEnv

__all__ = [
    "Agent",
    "Config",
    "DramaError",
    "DreamEnv",
    "__version__",
    "make_env",
    "presets",
    "runtime",
    "ssm",
]

if not TYPE_CHECKING:
    # On first use: `drama --help` needs no torch.
    __getattr__, __dir__ = _lazy(
        __name__,
        {
            "drama": ("presets", "runtime", "ssm"),
            "drama.agent": ("Agent",),
            "drama.config": ("Config",),
            "drama.envs": ("make_env",),
            "drama.errors": ("DramaError",),
            "drama.play": ("DreamEnv",),
        },
    )
