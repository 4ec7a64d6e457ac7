"""The categorical latent, by hand: mixing, exact one-hots, their gradient, KL, frequencies."""

from __future__ import annotations

import math

import pytest
import torch

from drama.ops.categorical import mix_uniform, sample_categorical
from drama.world_model.latent import kl_divergence, sample_one_hot


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_mix_uniform_divides_by_the_classes_not_the_variables() -> None:
    # Five variables of two classes: softmax is (1/4, 3/4), and 10 % of the mass is spread over
    # two classes: 0.9 / 4 + 0.1 / 2 = 0.275. Over five variables it would be 0.245.
    logits = torch.tensor([0.0, math.log(3.0)]).expand(5, 2)
    probs = mix_uniform(logits, 0.1).exp()
    torch.testing.assert_close(probs, torch.tensor([0.275, 0.725]).expand(5, 2))


@pytest.mark.parametrize("share", [0.0, 0.01, 1.0])
def test_mix_uniform_is_a_distribution_for_any_logits(share: float) -> None:
    logits = torch.tensor([[0.0, 200.0, -200.0], [1e4, -1e4, 0.0]])
    log_probs = mix_uniform(logits, share)
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(2))
    assert torch.isfinite(log_probs).all()
    assert log_probs.exp().min() >= share / 3 - 1e-7


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_log_probabilities_of_half_precision_logits_are_float32(half: torch.dtype) -> None:
    logits = torch.randn(4, 8, generator=generator()).to(half)
    for share in (0.0, 0.01):
        log_probs = mix_uniform(logits, share)
        assert log_probs.dtype == torch.float32
        torch.testing.assert_close(log_probs, mix_uniform(logits.float(), share), rtol=0, atol=0)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_samples_are_exact_one_hots(precision: torch.dtype) -> None:
    # Thousands of draws: (one_hot + p) - p rounds for about one value in ten.
    logits = torch.randn(512, 32, 32, generator=generator()).to(precision).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision is torch.bfloat16):
        sample = sample_one_hot(mix_uniform(logits, 0.01), generator())
    assert sample.dtype == torch.float32
    assert sample.requires_grad
    assert set(sample.detach().unique().tolist()) == {0.0, 1.0}
    assert (sample.detach().sum(-1) == 1.0).all()


def test_straight_through_gradient_is_that_of_the_probabilities() -> None:
    logits = torch.randn(6, 3, 5, generator=generator(), dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, 3, 5, generator=generator(1), dtype=torch.float64)
    (sample_one_hot(mix_uniform(logits, 0.1), generator()) * weight).sum().backward()
    through, logits.grad = logits.grad, None
    (mix_uniform(logits, 0.1).exp() * weight).sum().backward()
    assert through is not None
    assert through.abs().max() > 1e-3
    torch.testing.assert_close(through, logits.grad)


def test_without_a_gradient_nothing_is_tracked() -> None:
    log_probs = mix_uniform(torch.randn(4, 5, generator=generator(), requires_grad=True), 0.01)
    assert not sample_one_hot(log_probs, generator(), straight_through=False).requires_grad
    assert not sample_one_hot(log_probs.detach(), generator()).requires_grad


def test_sampling_frequencies_match_the_probabilities() -> None:
    probs = torch.tensor([0.5, 0.3, 0.15, 0.05])
    draws = 20_000
    index = sample_categorical(probs.log().expand(draws, 4), generator())
    counts = torch.bincount(index, minlength=4)
    chi_square = ((counts - draws * probs).square() / (draws * probs)).sum()
    assert chi_square < 16.3  # the 99.9 % quantile at three degrees of freedom


def test_a_class_of_probability_zero_is_never_drawn() -> None:
    log_probs = torch.tensor([-torch.inf, math.log(0.5), -torch.inf, math.log(0.5)])
    index = sample_categorical(log_probs.expand(5000, 4), generator())
    assert set(index.tolist()) == {1, 3}


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_frequencies_of_many_unequal_classes(precision: torch.dtype) -> None:
    # As the latents have them: 32 classes, the rarest with 1 % / 32, a distribution per variable.
    draws = 200_000
    logits = 2.5 * torch.randn(3, 32, generator=generator(), dtype=precision)
    log_probs = mix_uniform(logits, 0.01)
    index = sample_categorical(log_probs.expand(draws, 3, 32), generator(1))
    assert index.shape == (draws, 3)
    counts = torch.stack([torch.bincount(column, minlength=32) for column in index.unbind(1)])
    expected = draws * log_probs.exp()
    assert expected.min() < 100
    chi_square = ((counts - expected).square() / expected).sum(1)
    assert (chi_square < 61.1).all()  # the 99.9 % quantile at 31 degrees of freedom
    # Variables are drawn independently of each other.
    both = torch.bincount(32 * index[:, 0] + index[:, 1], minlength=1024).reshape(32, 32)
    product = counts[0, :, None] * counts[1] / draws
    often = product > 20
    assert often.sum() > 50
    assert ((both - product).abs() < 6 * product.sqrt())[often].all()


@pytest.mark.parametrize("uniform", [0.0, 1.0 - 2.0**-24])
def test_the_ends_of_the_uniform_numbers_give_possible_classes(
    uniform: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """0 must not fall to an impossible first class, the largest below 1 not behind the last."""

    def rand(size: tuple[int, ...], **options: object) -> torch.Tensor:
        return torch.full(size, uniform)

    # Sums of float32 probabilities end a little below or above 1.
    probs = torch.rand(20_000, 9, generator=generator())
    probs[:, 0] = probs[:, -1] = 0.0
    probs /= probs.sum(1, keepdim=True)
    assert (probs.cumsum(1)[:, -1] < 1).any()
    assert (probs.cumsum(1)[:, -1] > 1).any()
    monkeypatch.setattr(torch, "rand", rand)
    index = sample_categorical(probs.log(), None)
    assert (index == (1 if uniform == 0.0 else 7)).all()
    sure = torch.tensor([[-torch.inf, 0.0, -torch.inf]])
    assert sample_categorical(sure, None).item() == 1


def test_one_random_number_is_drawn_per_variable() -> None:
    used, plain = generator(), generator()
    sample_categorical(mix_uniform(torch.zeros(5, 3, 32), 0.01), used)
    torch.rand(5, 3, generator=plain)
    assert torch.equal(used.get_state(), plain.get_state())


def test_a_distribution_of_nan_still_gives_an_index() -> None:
    # The NaN is to be found by the check of the loss, which can name it.
    log_probs = torch.full((4, 3), torch.nan)
    assert sample_categorical(log_probs, generator()).max() <= 2
    assert sample_one_hot(log_probs, generator()).shape == (4, 3)


def test_the_draw_follows_from_the_generator_alone() -> None:
    log_probs = mix_uniform(torch.randn(64, 4, generator=generator()), 0.0)
    first = sample_categorical(log_probs, generator(3))
    torch.rand(7)  # the global source does not matter
    assert torch.equal(first, sample_categorical(log_probs, generator(3)))
    assert not torch.equal(first, sample_categorical(log_probs, generator(4)))


def test_kl_is_summed_over_the_variables() -> None:
    p = torch.tensor([[0.5, 0.5], [0.9, 0.1], [0.2, 0.8]])
    q = torch.tensor([[0.25, 0.75], [0.9, 0.1], [0.6, 0.4]])
    first = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    third = 0.2 * math.log(0.2 / 0.6) + 0.8 * math.log(0.8 / 0.4)
    kl = kl_divergence(p.log(), q.log())
    assert kl.shape == ()
    assert kl.item() == pytest.approx(first + 0.0 + third, rel=1e-5)
    # Not symmetric: the first argument is the one averaged over.
    assert kl_divergence(q.log(), p.log()).item() != pytest.approx(kl.item(), rel=1e-2)


def test_kl_keeps_the_leading_axes_and_is_never_negative() -> None:
    p, q = (mix_uniform(torch.randn(2, 7, 3, 4, generator=generator(i)), 0.01) for i in (0, 1))
    assert kl_divergence(p, q).shape == (2, 7)
    assert (kl_divergence(p, q) > 0).all()
    torch.testing.assert_close(kl_divergence(p, p), torch.zeros(2, 7))
