"""A frame that a batch holds more than once is encoded once, with the same result."""

from __future__ import annotations

from collections.abc import Callable

import torch

from drama.types import Batch
from drama.world_model import WorldModel


def overlapping(make_batch: Callable[..., Batch]) -> Batch:
    """Eight windows over the same nine rows, in which equal slots hold equal frames."""
    rows = make_batch(batch=1, length=9)
    index = torch.arange(6) + torch.tensor([[0], [3], [1], [1], [2], [0], [3], [2]])
    batch = Batch(*(t if t is None else t[0][index] for t in rows))
    return batch._replace(slot=index + 40)


def test_each_distinct_frame_is_encoded_once(
    tiny_model: Callable[..., WorldModel], make_batch: Callable[..., Batch]
) -> None:
    model, batch = tiny_model(), overlapping(make_batch)
    encoded = []
    model.encoder.register_forward_pre_hook(lambda _, inputs: encoded.append(inputs[0].shape[0]))
    with torch.no_grad():
        once = model.observe(batch, torch.Generator().manual_seed(1))
        assert encoded == [9]
        plain = model.observe(batch._replace(slot=None), torch.Generator().manual_seed(1))
    torch.testing.assert_close(once.posterior, plain.posterior)
    # Copies of one frame share their distribution, not their draw.
    assert not torch.equal(once.stoch[0, 0], once.stoch[5, 0]) or not torch.equal(
        once.stoch[1], once.stoch[6]
    )


def test_training_encodes_the_batch_as_it_is(
    tiny_model: Callable[..., WorldModel], make_batch: Callable[..., Batch]
) -> None:
    """Batch statistics must see each frame as often as it was drawn."""
    model, batch = tiny_model().train(), overlapping(make_batch)
    encoded = []
    model.encoder.register_forward_pre_hook(lambda _, inputs: encoded.append(inputs[0].shape[:2]))
    model.observe(batch, torch.Generator().manual_seed(1))
    assert encoded == [(8, 6)]
