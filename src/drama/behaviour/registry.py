"""Construction of behaviours from their settings."""

from __future__ import annotations

from typing import cast

from drama.actions import ActionSpace
from drama.behaviour.base import Behaviour
from drama.behaviour.config import BehaviourConfig
from drama.registry import BEHAVIOURS


def make_behaviour(config: BehaviourConfig, features: int, actions: ActionSpace) -> Behaviour:
    """Build the behaviour that ``config.algorithm`` names.

    Args:
        config: Its name, sizes and coefficients.
        features: Size of the policy features.
        actions: The action space.

    Raises:
        ConfigError: No behaviour has that name; the nearest is given.
    """
    return cast("Behaviour", BEHAVIOURS.get(config.algorithm)(config, features, actions))
