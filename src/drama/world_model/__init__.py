"""The learnt simulator: encoder, latent, sequence model, decoder and heads."""

from drama.world_model.model import LossTerm, Observed, WorldModel
from drama.world_model.twohot import TwoHot, symexp, symlog

__all__ = ["LossTerm", "Observed", "TwoHot", "WorldModel", "symexp", "symlog"]
