"""World-model reinforcement learning with Mamba dynamics: train, trust, look into.

    agent = drama.Agent("ALE/Pong-v5", drama.presets.xs(), seed=0)
    agent.learn(100_000)

See [drama.Agent][], [drama.Config][] and the ``drama`` command.
"""

from drama import presets, ssm
from drama.agent import Agent
from drama.config import Config
from drama.envs import make_env
from drama.errors import DramaError
from drama.play import DreamEnv

__version__ = "0.1.0"

__all__ = ["Agent", "Config", "DramaError", "DreamEnv", "__version__", "make_env", "presets", "ssm"]
