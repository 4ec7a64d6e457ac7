"""Encoder, decoder and sizes: shapes, exact doubling, one frame at a time."""

# One file: encoder and decoder share the frames and the comparison of buffers.

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from drama import presets
from drama.actions import ActionSpace
from drama.config import WorldModelConfig
from drama.ops import dispatch
from drama.ops.batch_norm import ConvLayers
from drama.ops.pixel_loss import pixel_loss
from drama.types import Batch
from drama.world_model import WorldModel, symlog
from drama.world_model import encoder as encoder_module
from drama.world_model.decoder import ImageDecoder, VectorDecoder
from drama.world_model.encoder import ImageEncoder, VectorEncoder, feature_maps
from drama.world_model.heads import MLP
from drama.world_model.motion import moving_pixels


def frames(*lead: int, side: int = 8, channels: int = 3, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    shape = (*lead, side, side, channels)
    return torch.randint(0, 256, shape, generator=g, dtype=torch.uint8)


def buffers(model: nn.Module) -> dict[str, Tensor]:
    return {name: t.clone() for name, t in model.named_buffers()}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize(
    ("preset", "millions"), [("xs", (6.8, 7.4)), ("s", (9.5, 10.7))], ids=["xs", "s"]
)
@pytest.mark.parametrize("num_actions", [6, 18])
def test_parameters_of_the_paper(
    preset: str, millions: tuple[float, float], num_actions: int
) -> None:
    with torch.device("meta"):
        model = WorldModel(
            presets.preset(preset).world_model, (64, 64, 3), ActionSpace(num_actions)
        )
    count = sum(p.numel() for p in model.parameters())
    assert millions[0] <= count / 1e6 <= millions[1]


def test_the_layers_of_the_paper() -> None:
    with torch.device("meta"):
        model = WorldModel(presets.xs().world_model, (64, 64, 3), ActionSpace(6))
    down = [m for m in model.encoder.modules() if isinstance(m, nn.Conv2d)]
    assert [m.out_channels for m in down] == [16, 32, 48, 64, 64]
    assert [m.stride for m in down] == [(1, 1), (2, 2), (2, 2), (2, 2), (2, 2)]
    assert {m.kernel_size for m in down} == {(5, 5)}
    up = [m for m in model.decoder.modules() if isinstance(m, nn.ConvTranspose2d)]
    assert [m.out_channels for m in up] == [64, 48, 32, 16, 3]
    assert [m.stride for m in up] == [(2, 2), (2, 2), (2, 2), (2, 2), (1, 1)]
    assert model.encoder.out.in_features == 4 * 4 * 64
    assert model.encoder.out.out_features == model.prior_head.out_features == 32 * 32
    assert model.embed[0].in_features == 1024 + 6
    for head in (model.reward_head, model.termination_head):
        assert [m.out_features for m in head.hidden if isinstance(m, nn.Linear)] == [256]
    assert model.reward_head.out.out_features == 255


@pytest.mark.parametrize(
    ("side", "filters", "kernel", "stem_stride"),
    [
        (64, (2, 3, 4, 5, 6), 5, 1),
        (32, (2, 3, 4, 5), 3, 1),
        (32, (2, 3, 4), 3, 2),
        (16, (2, 3), 7, 2),
        (8, (4,), 3, 1),
        (8, (4,), 5, 2),
    ],
)
def test_every_layer_halves_or_doubles_exactly(
    tiny_config: Callable[..., WorldModelConfig],
    side: int,
    filters: tuple[int, ...],
    kernel: int,
    stem_stride: int,
) -> None:
    config = tiny_config(filters=filters, kernel=kernel, stem_stride=stem_stride)
    shape = (side, side, 3)
    encoder, decoder = ImageEncoder(shape, config), ImageDecoder(shape, config)
    sides: list[int] = []
    for module in itertools.chain(encoder.modules(), decoder.modules()):
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            module.register_forward_hook(lambda _m, _x, y: sides.append(y.shape[-1]))
    logits = encoder(frames(2, 3, side=side))
    assert logits.shape == (2, 3, 3, 4)
    picture = decoder(torch.zeros(2, 3, 12))
    assert picture.shape == (2, 3, *shape)
    down = [side // stem_stride // 2**i for i in range(len(filters))]
    up = [2 * s for s in reversed(down[1:])] + [side]
    assert sides == down + up


def test_grey_frames(tiny_config: Callable[..., WorldModelConfig]) -> None:
    config = tiny_config()
    assert ImageEncoder((8, 8, 1), config)(frames(2, channels=1)).shape == (2, 3, 4)
    assert ImageDecoder((8, 8, 1), config)(torch.zeros(2, 12)).shape == (2, 8, 8, 1)


def test_vectors(tiny_config: Callable[..., WorldModelConfig]) -> None:
    config = tiny_config()
    assert VectorEncoder((5,), config)(torch.zeros(2, 7, 5)).shape == (2, 7, 3, 4)
    assert VectorDecoder((5,), config)(torch.zeros(2, 7, 12)).shape == (2, 7, 5)


@pytest.mark.parametrize(
    ("size", "min_side", "maps"),
    [
        ((10, 10), 1, [(5, 5), (3, 3), (2, 2)]),
        ((10, 10), 4, [(10, 10), (10, 10), (5, 5)]),
        ((63, 63), 4, [(32, 32), (16, 16), (8, 8)]),
        ((8, 20), 4, [(8, 20), (8, 20), (4, 10)]),
        ((2, 2), 4, [(2, 2), (2, 2), (2, 2)]),
        ((1, 3), 1, [(1, 2), (1, 1), (1, 1)]),
        ((32, 32), 4, [(16, 16), (8, 8), (4, 4)]),
    ],
)
def test_images_of_any_size_keep_a_least_side(
    tiny_config: Callable[..., WorldModelConfig],
    size: tuple[int, int],
    min_side: int,
    maps: list[tuple[int, int]],
) -> None:
    config = tiny_config(filters=(2, 3, 4), min_feature_side=min_side)
    assert [(h, w) for h, w, _ in feature_maps(*size, config)] == maps
    model = WorldModel(config, (*size, 3), ActionSpace(2)).eval()
    obs = torch.randint(256, (2, *size, 3), dtype=torch.uint8)
    found: list[tuple[int, ...]] = []
    for module in itertools.chain(model.encoder.modules(), model.decoder.modules()):
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            module.register_forward_hook(lambda _m, _x, y: found.append(tuple(y.shape[-2:])))
    stoch = model.sample(model.posterior(obs), None)
    assert model.decoder(stoch).shape == (2, *size, 3)
    assert found == [*maps, maps[1], maps[0], size]


def test_pixels_are_read_as_fractions(tiny_config: Callable[..., WorldModelConfig]) -> None:
    torch.manual_seed(0)
    encoder = ImageEncoder((8, 8, 3), tiny_config()).eval()
    seen: list[Tensor] = []
    encoder.layers.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    obs = frames(2)
    encoder(obs)
    torch.testing.assert_close(seen[0], obs.permute(0, 3, 1, 2).float() / 255)


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_the_action_enters_beside_the_latent_with_its_scale(
    tiny_model: Callable[..., WorldModel], scale: float
) -> None:
    model = tiny_model(action_scale=scale)
    linear, rest = model.embed[0], model.embed[1:]
    latent = torch.zeros(2, 12)
    latent[:, [1, 6, 8]] = 1.0  # three variables of four classes
    columns = linear.weight[:, [1, 6, 8]].sum(dim=1)
    expected = torch.stack([columns + scale * linear.weight[:, 12 + a] for a in (2, 0)])
    x = model.sequence_input(latent, torch.tensor([2, 0]))
    torch.testing.assert_close(x, rest(expected))


def test_one_frame_decides_its_latent_in_evaluation_mode(
    tiny_model: Callable[..., WorldModel],
) -> None:
    model = tiny_model()
    obs = frames(2, 5)
    logits = model.encoder(obs)
    other = frames(2, 5, seed=1)
    other[1, 3] = obs[1, 3]
    torch.testing.assert_close(model.encoder(other)[1, 3], logits[1, 3], atol=1e-6, rtol=0)
    torch.testing.assert_close(model.encoder(obs[1, 3]), logits[1, 3], atol=1e-6, rtol=0)
    assert (model.encoder(other)[0, 0] - logits[0, 0]).abs().max() > 1e-3


def test_encoding_in_pieces_changes_nothing(
    tiny_model: Callable[..., WorldModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model()
    obs = frames(3, 7)
    with torch.no_grad():
        whole = model.encoder(obs)
        monkeypatch.setattr(encoder_module, "FRAMES_AT_ONCE", 4)
        sizes: list[int] = []
        model.encoder.out.register_forward_pre_hook(lambda _m, x: sizes.append(len(x[0])))
        pieces = model.encoder(obs)
    assert sizes == [4, 4, 4, 4, 4, 1]
    torch.testing.assert_close(pieces, whole, atol=1e-6, rtol=0)
    sizes.clear()
    torch.testing.assert_close(model.encoder(obs), whole, atol=1e-6, rtol=0)
    assert sizes == [21], "with a gradient nothing is split"
    sizes.clear()
    with torch.no_grad():
        model.train().encoder(obs)
    assert sizes == [21], "statistics are those of the whole batch"
    sizes.clear()
    monkeypatch.setattr(dispatch, "_HOSTS", ())
    with torch.no_grad():
        model.eval().encoder(obs)
    assert sizes == [21], "on an accelerator nothing is split"


def test_batch_norm_is_folded_once_for_all_pieces(
    tiny_model: Callable[..., WorldModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model()
    folds: list[ConvLayers] = []
    original = ConvLayers.folded

    def folded(layers: ConvLayers) -> list[Callable[[Tensor], Tensor]]:
        folds.append(layers)
        return original(layers)

    monkeypatch.setattr(encoder_module, "FRAMES_AT_ONCE", 4)
    monkeypatch.setattr(ConvLayers, "folded", folded)
    with torch.no_grad():
        model.encoder(frames(3, 7))
    assert len(folds) == 1


def test_only_training_moves_batch_norm(
    tiny_model: Callable[..., WorldModel], make_batch: Callable[..., Batch]
) -> None:
    model, batch = tiny_model(), make_batch()
    before = buffers(model)
    model.loss(batch, None)
    model.posterior(batch.obs)
    model.decoder(torch.zeros(4, 12))
    assert same(before, buffers(model))
    model.train().loss(batch, None)
    assert not same(before, buffers(model))


def test_batch_norm_statistics_are_saved(tiny_model: Callable[..., WorldModel]) -> None:
    model = tiny_model()
    saved = model.state_dict()
    names = [name for name, _ in model.named_buffers() if "running" in name]
    assert len(names) == 8  # mean and variance of two layers in the encoder and two mirrored
    assert set(names) <= saved.keys()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_folded_layers_equal_those_in_turn(
    tiny_config: Callable[..., WorldModelConfig], dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    encoder = ImageEncoder((8, 8, 3), tiny_config())
    with torch.no_grad():
        for layer in encoder.layers:
            if isinstance(layer, nn.BatchNorm2d):
                layer.weight.uniform_(0.5, 2.0)
                layer.bias.normal_()
    for seed in range(3):
        encoder(frames(64, seed=seed))  # moves the running statistics
    encoder.eval()
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        in_turn = encoder(frames(5, seed=9)).float()
        with torch.no_grad():
            folded = encoder(frames(5, seed=9)).float()
    assert in_turn.requires_grad
    assert in_turn.std() > 0.1
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    torch.testing.assert_close(folded, in_turn.detach(), atol=tolerance, rtol=tolerance)


def plain_error(
    logits: Tensor, obs: Tensor, moving: Tensor | None = None, weight: float = 1.0
) -> Tensor:
    error = (torch.sigmoid(logits.float()) - obs.float() / 255).square()
    if moving is not None:
        error = error * (1 + (weight - 1) * moving.unsqueeze(-1))
    return error.sum((-3, -2, -1))


def test_reconstruction_error_is_summed_over_pixels_and_channels() -> None:
    obs = torch.zeros(2, 4, 4, 3, dtype=torch.uint8)
    obs[1] = 255
    logits = torch.zeros(2, 4, 4, 3)
    logits[1] = 40.0
    torch.testing.assert_close(pixel_loss(logits, obs), torch.tensor([12.0, 0.0]))


@pytest.mark.parametrize("weight", [None, 10.0])
@pytest.mark.parametrize("lead", [(), (7,), (3, 5), (2, 70)])
def test_reconstruction_error_and_gradient_equal_the_plain_ones(
    lead: tuple[int, ...], weight: float | None
) -> None:
    g = torch.Generator().manual_seed(1)
    logits = (3 * torch.randn(*lead, 64, 64, 3, generator=g)).requires_grad_()
    obs = frames(*lead, side=64)
    upstream = torch.rand(lead, generator=g) - 0.3
    moving = torch.rand(*lead, 64, 64, generator=g) < 0.1
    more = () if weight is None else (moving, weight)
    results = []
    for function in (pixel_loss, plain_error):
        error = function(logits, obs, *more)
        (gradient,) = torch.autograd.grad(error, logits, upstream)
        results.append((error, gradient))
    (ours, our_gradient), (plain, plain_gradient) = results
    assert ours.shape == lead
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=0)
    torch.testing.assert_close(our_gradient, plain_gradient, rtol=1e-4, atol=1e-6)


def test_what_moves_is_what_differs_from_a_neighbour_in_the_episode() -> None:
    obs = torch.zeros(1, 5, 1, 4, 2, dtype=torch.uint8)
    for t, place in enumerate((0, 1, 1, 2, 3)):
        obs[0, t, 0, place, 1] = 200
    obs[0, 3, 0, 3, 0] = 8  # no change to speak of
    is_first = torch.tensor([[False, False, False, True, False]])
    moving = moving_pixels(obs, is_first)[0, :, 0].int().tolist()
    #                 to 1          from 0        seam          to 3          from 2
    assert moving == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]


def test_moving_pixels_count_as_often_as_the_setting_says(
    tiny_config: Callable[..., WorldModelConfig],
) -> None:
    obs = torch.zeros(1, 2, 8, 8, 3, dtype=torch.uint8)
    obs[0, 1, 5, 5, 2] = 255
    latent, is_first = torch.randn(1, 2, 12), torch.zeros(1, 2, dtype=torch.bool)
    for weight in (1.0, 7.0):
        torch.manual_seed(0)
        decoder = ImageDecoder((8, 8, 3), tiny_config(motion_weight=weight)).eval()
        each = (decoder(latent) - obs / 255).square().sum(-1)
        expected = each.sum((-2, -1)) + (weight - 1) * each[..., 5, 5]
        torch.testing.assert_close(decoder.loss(latent, obs, is_first), expected)


def test_vectors_have_no_moving_pixels(tiny_config: Callable[..., WorldModelConfig]) -> None:
    obs, latent = torch.randn(1, 3, 2), torch.randn(1, 3, 12)
    losses = []
    for weight in (1.0, 7.0):
        torch.manual_seed(0)
        decoder = VectorDecoder((2,), tiny_config(motion_weight=weight))
        losses.append(decoder.loss(latent, obs, torch.zeros(1, 3, dtype=torch.bool)))
    assert torch.equal(*losses)


def test_reconstruction_error_without_a_gradient_keeps_none() -> None:
    logits, obs = torch.randn(2, 8, 8, 3, requires_grad=True), frames(2)
    with torch.no_grad():
        error = pixel_loss(logits, obs)
    assert not error.requires_grad
    torch.testing.assert_close(error, plain_error(logits, obs).detach())


def test_reconstruction_error_of_half_precision_is_summed_in_float32() -> None:
    obs = torch.full((64, 64, 3), 255, dtype=torch.uint8)
    logits = torch.zeros(64, 64, 3, dtype=torch.bfloat16, requires_grad=True)
    loss = pixel_loss(logits, obs)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(64 * 64 * 3 / 4, rel=1e-6)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.dtype == torch.bfloat16
    assert gradient.unique().tolist() == [-0.25]  # 2 (0.5 - 1) 0.5 (1 - 0.5)


def test_vector_error_is_taken_in_symlog_space(
    tiny_config: Callable[..., WorldModelConfig],
) -> None:
    obs = torch.tensor([[1.0, -3.0], [0.0, 0.0]])
    decoder = VectorDecoder((2,), tiny_config())
    decoder.layers = nn.Identity()
    error = decoder.loss(symlog(obs) + torch.tensor([1.0, 2.0]), obs, torch.zeros(2).bool())
    torch.testing.assert_close(error, torch.tensor([5.0, 5.0]))
    torch.testing.assert_close(decoder.to_obs(symlog(obs)), obs)


def test_decoded_frames_are_fractions_and_round_to_pixels(
    tiny_config: Callable[..., WorldModelConfig],
) -> None:
    torch.manual_seed(0)
    decoder = ImageDecoder((8, 8, 3), tiny_config()).eval()
    picture = decoder(100 * torch.randn(5, 12, generator=torch.Generator().manual_seed(0)))
    assert picture.min() >= 0
    assert picture.max() <= 1
    pixels = ImageDecoder.to_obs(torch.tensor([0.0, 0.5, 1.0, 100.4 / 255, 100.6 / 255]))
    assert pixels.dtype == torch.uint8
    assert pixels.tolist() == [0, 128, 255, 100, 101]


def test_every_frame_can_be_given_back_exactly() -> None:
    obs = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(ImageDecoder.to_obs(obs.float() / 255), obs)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_hidden_layers(layers: int) -> None:
    head = MLP(5, 7, layers=layers, units=11)
    # Linear without bias and the gain of RMSNorm per hidden layer, then a linear with bias.
    expected = (5 * 11 + 11) + (layers - 1) * (11 * 11 + 11) + (11 * 7 + 7)
    assert sum(p.numel() for p in head.parameters()) == expected
    assert head(torch.zeros(2, 3, 5)).shape == (2, 3, 7)


def test_cross_entropy_is_the_divergence_of_bernoulli_distributions() -> None:
    obs = torch.tensor([0, 51, 255, 102], dtype=torch.uint8).view(2, 1, 2, 1)  # y 0, 0.2, 1, 0.4
    p = torch.tensor([0.1, 0.2, 0.5, 0.8]).view(2, 1, 2, 1)
    logits = torch.logit(p).requires_grad_()
    loss = pixel_loss(logits, obs, cross_entropy=True)
    last = 0.4 * math.log(0.4 / 0.8) + 0.6 * math.log(0.6 / 0.2)
    expected = torch.tensor([-math.log(0.9), -math.log(0.5) + last])
    torch.testing.assert_close(loss, expected)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    torch.testing.assert_close(gradient.flatten(), torch.tensor([0.1, 0.0, -0.5, 0.4]))


def some_batch(obs: Tensor) -> Batch:
    """A window ``(1, 2)`` inside an episode, with these observations."""
    no = torch.zeros(1, 2, dtype=torch.bool)
    return Batch(obs, no, torch.zeros(1, 2, dtype=torch.int64), torch.zeros(1, 2), no, no, no)


def test_vectors_are_standardised_by_running_moments(
    tiny_config: Callable[..., WorldModelConfig],
) -> None:
    model = WorldModel(tiny_config(standardise_obs=True), (2,), ActionSpace(2))
    # symlog: means 0 and ln 3, standard deviations ln 2 and ln 3.
    obs = torch.tensor([[[1.0, 0.0], [-1.0, 8.0]]])
    batch = some_batch(obs)
    model.eval().loss(batch, None)
    assert not model.encoder.moments.started  # only training moves the moments
    model.train().loss(batch, None)
    for part in (model.encoder, model.decoder):
        deviation = part.moments.variance.sqrt()
        torch.testing.assert_close(part.moments.mean, torch.tensor([0.0, math.log(3)]))
        torch.testing.assert_close(deviation, torch.tensor([math.log(2), math.log(3)]))
    model.eval()
    target = torch.tensor([[[1.0, -1.0], [-1.0, 1.0]]])
    seen = model.observe(batch, None)
    loss = model.reconstruction_term(batch, seen).losses
    expected = (model.decoder(seen.stoch) - target).square().sum(-1)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.decoder.to_obs(target), obs, rtol=1e-4, atol=1e-4)
    names = {name for name in model.state_dict() if "moments" in name}
    assert {"encoder.moments.mean", "decoder.moments.variance"} <= names


def test_images_are_decoded_as_deviations_from_their_mean(
    tiny_config: Callable[..., WorldModelConfig],
) -> None:
    model = WorldModel(tiny_config(standardise_obs=True), (8, 8, 3), ActionSpace(2))
    obs = frames(1, 2, side=8)
    obs[..., 0, 0, :] = 0
    model.train().loss(some_batch(obs), None)
    mean = (obs.float() / 255).mean((0, 1))
    torch.testing.assert_close(model.decoder.moments.mean.view(8, 8, 3), mean)
    last = next(m for m in reversed(model.decoder.layers) if isinstance(m, nn.ConvTranspose2d))
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    model.eval()
    image = model.decoder(torch.randn(4, 12))
    torch.testing.assert_close(image, mean.clamp(0.01, 0.99).expand(4, 8, 8, 3))


def test_observations_are_taken_as_they_are_by_default(
    tiny_config: Callable[..., WorldModelConfig],
) -> None:
    for shape in ((8, 8, 3), (2,)):
        model = WorldModel(tiny_config(), shape, ActionSpace(2))
        assert not any("moments" in name for name in model.state_dict())
