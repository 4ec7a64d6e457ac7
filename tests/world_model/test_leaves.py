"""Encoders and decoders by leaf, and the losses of observations with several leaves."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from drama.actions import ActionSpace
from drama.config import WorldModelConfig
from drama.observations import Leaf, ObsSpace
from drama.types import Batch
from drama.world_model import WorldModel
from drama.world_model.decoder import ImageDecoder, OneHotDecoder, VectorDecoder
from drama.world_model.encoder import ImageEncoder, JointEncoder, OneHotEncoder, VectorEncoder

SPACE = ObsSpace(
    (
        Leaf("image", (8, 8, 3), "camera"),
        Leaf("vector", (2,), "speed"),
        Leaf("one-hot", (3,), "cards", (2, 5, 3)),
    )
)


def observations(*lead: int, seed: int = 0) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {
        "camera": torch.randint(0, 256, (*lead, 8, 8, 3), generator=g, dtype=torch.uint8),
        "speed": torch.randn((*lead, 2), generator=g),
        "cards": (torch.rand((*lead, 3), generator=g) * torch.tensor([2, 5, 3])).int(),
    }


@pytest.fixture
def model(tiny_config: Callable[..., WorldModelConfig]) -> WorldModel:
    torch.manual_seed(0)
    return WorldModel(tiny_config(), SPACE, ActionSpace(3)).eval()


@pytest.fixture
def batch(make_batch: Callable[..., Batch]) -> Batch:
    return make_batch(batch=2, length=6)._replace(obs=observations(2, 6))


def test_each_kind_has_its_encoder_and_decoder(model: WorldModel) -> None:
    kinds = [type(part) for part in model.encoder.parts]
    assert kinds == [ImageEncoder, VectorEncoder, OneHotEncoder]
    kinds = [type(part) for part in model.decoder.parts]
    assert kinds == [ImageDecoder, VectorDecoder, OneHotDecoder]


def test_one_hot_encoder_sees_each_variable_by_itself(
    tiny_config: Callable[..., WorldModelConfig],
) -> None:
    encoder = OneHotEncoder((2, 5), tiny_config()).eval()
    seen: list[Tensor] = []
    encoder.layers.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    encoder(torch.tensor([[1, 4]], dtype=torch.int32))
    assert seen[0].tolist() == [[0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]]


def test_one_hot_loss_is_the_cross_entropy_of_each_variable(
    tiny_config: Callable[..., WorldModelConfig],
) -> None:
    torch.manual_seed(0)
    decoder = OneHotDecoder((2, 5), tiny_config()).eval()
    stoch, obs = torch.randn(2, 6, 12), observations(2, 6)["cards"][..., :2]
    logits = decoder.layers(stoch).unflatten(-1, (2, 5))
    expected = F.cross_entropy(
        logits[..., 0, :2].reshape(-1, 2), obs[..., 0].long().flatten(), reduction="none"
    ) + F.cross_entropy(
        logits[..., 1, :].reshape(-1, 5), obs[..., 1].long().flatten(), reduction="none"
    )
    loss = decoder.loss(stoch, obs, torch.zeros(2, 6, dtype=torch.bool))
    torch.testing.assert_close(loss, expected.view(2, 6))
    loss.sum().backward()
    gradient = decoder.layers[-1].weight.grad
    assert bool(torch.isfinite(gradient).all())
    assert bool((gradient[2:5] == 0).all())  # the classes that the first variable lacks


def test_one_hot_decoder_returns_the_most_probable_classes(
    tiny_config: Callable[..., WorldModelConfig],
) -> None:
    decoder = OneHotDecoder((2, 5), tiny_config()).eval()
    with torch.no_grad():
        decoder.layers[-1].weight.zero_()
        decoder.layers[-1].bias.copy_(torch.tensor([0.0, 1.0, 9.0, 9.0, 9.0, 0, 0, 0, 2.0, 0]))
    found = decoder.to_obs(decoder(torch.zeros(4, 12)))
    assert found.dtype == torch.int32
    assert found.tolist() == [[1, 3]] * 4


def test_joint_encoder_is_one_linear_layer_over_all_features(model: WorldModel) -> None:
    encoder = model.encoder
    assert isinstance(encoder, JointEncoder)
    features: list[Tensor] = []
    lasts = [encoder.parts[0].out, *(part.layers[-1] for part in list(encoder.parts)[1:])]
    for last in lasts:
        last.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    obs = observations(4)
    with torch.no_grad():
        logits = encoder(obs)
        weight = torch.cat([last.weight for last in lasts], dim=1) / 3**0.5
        bias = sum(last.bias for last in lasts) / 3**0.5
        joined = F.linear(torch.cat(features, dim=-1), weight, bias)
    torch.testing.assert_close(logits.flatten(1), joined)


@pytest.mark.parametrize("name", list(observations(1)))
def test_every_leaf_changes_the_latent(model: WorldModel, name: str) -> None:
    obs, other = observations(4), observations(4, seed=1)
    with torch.no_grad():
        before = model.posterior(obs)
        after = model.posterior({**obs, name: other[name]})
    assert not torch.allclose(before, after)


def test_reconstruction_is_the_sum_of_the_leaves_and_each_is_logged(
    model: WorldModel, batch: Batch
) -> None:
    with torch.no_grad():
        _, metrics = model.loss(batch, torch.Generator().manual_seed(0), window_losses=True)
    parts = [metrics[f"reconstruction/{name}"] for name in ("camera", "speed", "cards")]
    torch.testing.assert_close(metrics["reconstruction"], sum(parts))
    assert all(part > 0 for part in parts)
    assert metrics["window_losses"].shape == (2,)
    seen = model.observe(batch, torch.Generator().manual_seed(0))
    speed = model.decoder.parts[1].loss(seen.stoch, batch.obs["speed"], batch.is_first)
    torch.testing.assert_close(metrics["reconstruction/speed"], speed.mean())


def test_settings_of_a_kind_apply_to_its_leaves(
    tiny_config: Callable[..., WorldModelConfig], batch: Batch
) -> None:
    config = tiny_config(standardise_obs=True, image_loss="cross-entropy", motion_weight=5.0)
    torch.manual_seed(0)
    model = WorldModel(config, SPACE, ActionSpace(3)).train()
    model.loss(batch, torch.Generator().manual_seed(0))
    image, vector, _ = model.decoder.parts
    assert image.cross_entropy
    assert image.motion_weight == 5.0
    mean = batch.obs["camera"].float().flatten(0, 1).mean(dim=0).flatten() / 255
    torch.testing.assert_close(image.moments.mean, mean)
    for moments in (vector.moments, model.encoder.parts[1].moments):
        assert bool(moments.started)


def test_leaves_that_are_not_reconstructed_are_read_only(
    tiny_config: Callable[..., WorldModelConfig], batch: Batch
) -> None:
    torch.manual_seed(0)
    model = WorldModel(tiny_config(), SPACE.reconstructing(["speed"]), ActionSpace(3)).eval()
    assert len(model.encoder.parts) == 3
    assert len(model.decoder.parts) == 1
    _, metrics = model.loss(batch, torch.Generator().manual_seed(0))
    assert [name for name in metrics if "reconstruction/" in name] == ["reconstruction/speed"]
    assert list(model.decode(torch.zeros(2, 12))) == ["speed"]


def test_decoded_observations_have_the_form_of_real_ones(model: WorldModel) -> None:
    obs = observations(4)
    decoded = model.decode(torch.zeros(4, 12))
    assert {k: (v.shape, v.dtype) for k, v in decoded.items()} == {
        k: (v.shape, v.dtype) for k, v in obs.items()
    }


def test_repeated_observations_are_encoded_once(model: WorldModel, batch: Batch) -> None:
    slot = torch.arange(6).expand(2, 6)
    repeated = {name: leaf[:1].expand_as(leaf) for name, leaf in batch.obs.items()}
    counts: list[int] = []
    model.encoder.register_forward_pre_hook(
        lambda _, inputs: counts.append(len(inputs[0]["speed"]))
    )
    with torch.no_grad():
        found = model.posterior_of(batch._replace(obs=repeated, slot=slot))
    assert counts == [6]
    with torch.no_grad():
        torch.testing.assert_close(found, model.posterior(repeated))


def test_names_of_the_weights_of_one_array_are_those_of_its_layers(
    tiny_config: Callable[..., WorldModelConfig],
) -> None:
    for space in (ObsSpace.image(8, 8, 3), ObsSpace.vector(2)):
        names = WorldModel(tiny_config(), space, ActionSpace(3)).state_dict()
        assert "encoder.layers.0.weight" in names
        assert not any(name.startswith(("encoder.parts", "decoder.parts")) for name in names)
