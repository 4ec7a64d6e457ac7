"""Reconstruction of moving objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lab import moving_objects
from lab.tests.measured import measured


def test_training_continues_with_other_loss_weights(
    run: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    place = {"everywhere": (slice(None), slice(None))}
    monkeypatch.setattr(moving_objects, "PLACES", {"drama/Catch-v0": place})
    plain, _, weighted = measured(
        moving_objects, "objects", run, tmp_path, "--updates", "40", "--every", "20"
    )
    assert plain["shares"]["0"] == weighted["shares"]["0"]
    assert set(plain["shares"]) == {"0", "20", "40"}
    assert plain["shares"]["40"] != weighted["shares"]["40"]


def test_shares_match_hand_computed_values() -> None:
    class Model:
        def eval(self) -> None: ...

        def posterior(self, frames: torch.Tensor) -> torch.Tensor:
            return frames

        def sample(self, latent: torch.Tensor, _: torch.Generator) -> torch.Tensor:
            return latent

        def decoder(self, latent: torch.Tensor) -> torch.Tensor:
            shown = latent.float() / 255
            shown[:, 0] *= 0.5  # half of the brightness is a quarter of the error
            shown[:, 1] = 0.0  # and the second row is never reconstructed
            return shown

    frames = torch.zeros(5, 2, 3, 1, dtype=torch.uint8)
    frames[0, 0, 0] = frames[1, 1, 2] = 200
    places = {"drawn": (slice(0, 1), slice(None)), "missing": (slice(1, 2), slice(None))}
    assert moving_objects.shown(Model(), frames, places) == {"drawn": 0.75, "missing": 0.0}  # type: ignore[arg-type]
