"""Sequence models ``d_t = f(z_{1:t}, a_{1:t})``: protocol, registry and backbones."""

from typing import TYPE_CHECKING

from drama.attributes import lazy
from drama.dynamics.config import DynamicsConfig

if TYPE_CHECKING:
    from drama.dynamics.base import (
        SequenceModel,
        Unroll,
        check_registered,
        make_dynamics,
        map_state,
        peek,
        register,
        registered,
        restart,
        step_inplace,
        unroll,
        where_state,
    )
    from drama.dynamics.gru import GRUDynamics
    from drama.dynamics.mamba import Mamba1Dynamics, Mamba2Dynamics
    from drama.dynamics.transformer import TransformerDynamics

__all__ = [
    "DynamicsConfig",
    "GRUDynamics",
    "Mamba1Dynamics",
    "Mamba2Dynamics",
    "SequenceModel",
    "TransformerDynamics",
    "Unroll",
    "check_registered",
    "make_dynamics",
    "map_state",
    "peek",
    "register",
    "registered",
    "restart",
    "step_inplace",
    "unroll",
    "where_state",
]

if not TYPE_CHECKING:
    # On first use: the settings of this package need no torch.
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "drama.dynamics.base": (
                "SequenceModel",
                "Unroll",
                "check_registered",
                "make_dynamics",
                "map_state",
                "peek",
                "register",
                "registered",
                "restart",
                "step_inplace",
                "unroll",
                "where_state",
            ),
            "drama.dynamics.gru": ("GRUDynamics",),
            "drama.dynamics.mamba": ("Mamba1Dynamics", "Mamba2Dynamics"),
            "drama.dynamics.transformer": ("TransformerDynamics",),
        },
    )
