"""World model: encoder, latent, sequence model, decoder and heads."""

from typing import TYPE_CHECKING

from drama.attributes import lazy

if TYPE_CHECKING:
    from drama.world_model.model import LossTerm, Observed, WorldModel
    from drama.world_model.twohot import TwoHot, symexp, symlog

__all__ = [
    "LossTerm",
    "Observed",
    "TwoHot",
    "WorldModel",
    "symexp",
    "symlog",
]

if not TYPE_CHECKING:
    # On first use: the settings of this package need no torch.
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "drama.world_model.model": ("LossTerm", "Observed", "WorldModel"),
            "drama.world_model.twohot": ("TwoHot", "symexp", "symlog"),
        },
    )
