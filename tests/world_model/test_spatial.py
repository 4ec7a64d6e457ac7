"""Spatial latents: weights shared across the positions of a feature map."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from drama.config import WorldModelConfig
from drama.errors import ConfigError
from drama.types import Batch
from drama.world_model import WorldModel
from drama.world_model.spatial import (
    MapShape,
    SpatialEmbedding,
    SpatialHead,
    SpatialPrior,
    state_map,
    to_map,
)

LATENTS = MapShape(5, 5, 8)


@pytest.fixture
def model(tiny_model: Callable[..., WorldModel]) -> WorldModel:
    """Images of 10x10, a feature map of 3x3: two variables of four classes at each position."""
    return tiny_model((10, 10, 3), spatial_latents=2)


def test_latents_have_variables_at_each_position(model: WorldModel) -> None:
    obs = torch.randint(256, (2, 3, 10, 10, 3), dtype=torch.uint8)
    posterior = model.posterior(obs)
    assert posterior.shape == (2, 3, 18, 4)
    assert (model.latent_variables, model.stoch_size) == (18, 72)
    stoch = model.sample(posterior, None)
    assert model.decode(stoch).shape == obs.shape
    deter, _ = model.dynamics(model.sequence_input(stoch, torch.zeros(2, 3, dtype=torch.int64)))
    assert model.prior(deter).shape == posterior.shape
    assert model.reward(deter).shape == model.termination(deter).shape == (2, 3)


def changed(before: Tensor, after: Tensor) -> list[tuple[int, int]]:
    """Positions of a 3x3 map of latents whose entries differ."""
    rows, columns = torch.nonzero((before != after).view(3, 3, -1).any(-1), as_tuple=True)
    return list(zip(rows.tolist(), columns.tolist(), strict=True))


def test_posterior_and_image_of_a_position_are_local(model: WorldModel) -> None:
    obs = torch.randint(256, (1, 10, 10, 3), dtype=torch.uint8)
    other = obs.clone()
    other[0, 0, 0] = 255 - other[0, 0, 0]  # the first pixel, read by two 3x3 kernels of stride 2
    assert changed(model.posterior(obs), model.posterior(other)) == [(0, 0)]
    stoch = model.sample(model.posterior(obs), torch.Generator().manual_seed(0))
    moved = stoch.clone()
    moved[0, -8:-4] = moved[0, -8:-4].roll(1)  # the first variable of the last position
    rows, columns = torch.nonzero((model.decoder(stoch) != model.decoder(moved))[0].any(-1)).T
    assert min(rows) >= 5
    assert min(columns) >= 5


def test_positions_share_the_layers_beside_the_latent(model: WorldModel) -> None:
    assert model.encoder.out.weight.shape == (8, 6)  # filters to two variables of four classes
    assert model.decoder.inp.weight.shape == (6, 8)


def test_the_prior_is_equivariant_to_shifts_of_the_map() -> None:
    torch.manual_seed(0)
    prior = SpatialPrior(LATENTS, 53, 6)  # two channels at each of 25 positions, and three entries
    deter = torch.zeros(2, 53)
    deter[:, 50:] = torch.randn(3)
    maps = torch.zeros(2, 5, 5, 2)
    maps[0, 1, 1], maps[1, 2, 3] = torch.tensor([1.0, -2.0]), torch.tensor([1.0, -2.0])
    deter[:, :50] = maps.flatten(1)
    prior.hidden.everywhere.weight.data[:, :50] = 0.0  # what is added everywhere knows no place
    logits = prior(deter).view(2, 5, 5, 8)
    torch.testing.assert_close(logits[0, 1:3, 1:3], logits[1, 2:4, 3:5])


def test_the_embedding_begins_with_unit_variance() -> None:
    torch.manual_seed(0)
    embedding = SpatialEmbedding(LATENTS, 2, 3, 64, 48)  # two variables of four classes
    index = torch.randint(4, (200, 25, 2))
    stoch = torch.nn.functional.one_hot(index, 4).float().flatten(1)
    inside = embedding.stoch(to_map(stoch, LATENTS))[..., 1:-1, 1:-1]  # nine positions are read
    assert inside.square().mean().item() == pytest.approx(1.0, abs=0.15)
    action = embedding.action.weight  # one entry of an action is 1
    assert action.square().mean().item() == pytest.approx(1.0, abs=0.25)


def test_heads_pool_the_map_by_mean_and_maximum() -> None:
    torch.manual_seed(0)
    head = SpatialHead(LATENTS, 50, 2, torch.nn.Identity())
    deter = torch.randn(4, 3, 50)
    hidden = head.hidden(deter.view(12, 50)).flatten(2)  # (12, 2, 25)
    expected = torch.cat([hidden.mean(-1), hidden.max(-1).values], dim=-1)
    torch.testing.assert_close(head(deter), expected.view(4, 3, 4))


def test_the_window_and_the_steps_agree(
    model: WorldModel, make_batch: Callable[..., Batch]
) -> None:
    batch = make_batch(obs_shape=(10, 10, 3))
    with torch.no_grad():
        seen = model.observe(batch, torch.Generator().manual_seed(0))
        state = model.dynamics.init_state(2)
        for t in range(6):
            deter, state = model.step(seen.stoch[:, t], batch.action[:, t], state)
            torch.testing.assert_close(deter, seen.deter[:, t], rtol=1e-4, atol=1e-5)


def test_every_parameter_has_a_gradient(
    model: WorldModel, make_batch: Callable[..., Batch]
) -> None:
    model.train()
    model.reward_head.head.out.reset_parameters()
    model.loss(make_batch(obs_shape=(10, 10, 3)), torch.Generator().manual_seed(0))[0].backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_vectors_ignore_it(tiny_model: Callable[..., WorldModel]) -> None:
    state = {k: v.shape for k, v in tiny_model((5,)).state_dict().items()}
    spatial = tiny_model((5,), spatial_latents=2).state_dict()
    assert {k: v.shape for k, v in spatial.items()} == state


def test_the_width_is_divided_among_the_positions(
    tiny_config: Callable[..., WorldModelConfig], tiny_model: Callable[..., Any]
) -> None:
    assert state_map(LATENTS, 53) == (5, 5, 2)
    with pytest.raises(ConfigError, match="at least 25, one entry for each position of the 5x5"):
        tiny_model((20, 20, 3), spatial_latents=1)  # width 16
    with pytest.raises(ConfigError, match="must not be negative"):
        tiny_config(spatial_latents=-1)
