"""The replay ring: stored transitions, valid windows and counters."""

# One file: the tests of one class, all of them short.

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from drama.config import ReplayConfig
from drama.errors import ReplayError
from drama.observations import ObsSpace
from drama.ops import dispatch
from drama.replay import ReplayBuffer
from drama.types import Batch, Transition

Build = Callable[..., ReplayBuffer]


def g(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ends(buffer: ReplayBuffer, purpose: str, length: int) -> set[int]:
    """Row numbers that may end a window, found through the rewards, which are row numbers."""
    scores = buffer.scores(purpose, length)  # type: ignore[arg-type]
    slots = torch.isfinite(scores).nonzero().flatten()
    return {int(r) for r in buffer.columns["reward"][slots]}


def test_stored_transitions_are_returned_unchanged(
    make_buffer: Build, numbered: Callable[..., Transition]
) -> None:
    buffer = make_buffer()
    buffer.append(numbered(0, is_first=True))
    buffer.append(numbered(1, terminated=True))
    buffer.append(numbered(2, truncated=True))
    buffer.append(numbered(3, is_last=True))
    batch = buffer.windows(torch.tensor([3]), 4)
    assert batch.obs.shape == (1, 4, 2, 2, 1)
    assert batch.obs[0, :, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert batch.action.tolist() == [[0, 1, 2, 0]]
    assert batch.reward.tolist() == [[0, 1, 2, 3]]
    assert batch.is_first.tolist() == [[True, False, False, False]]
    assert batch.slot is not None
    assert batch.slot.tolist() == [[0, 1, 2, 3]]
    # Three separate flags: none replaces another.
    assert batch.terminated.tolist() == [[False, True, False, False]]
    assert batch.truncated.tolist() == [[False, False, True, False]]
    assert batch.is_last.tolist() == [[False, False, False, True]]
    kinds = [torch.uint8, torch.bool, torch.int64, torch.float32, *[torch.bool] * 3, torch.int64]
    assert [t.dtype for t in batch] == kinds


def test_overwriting_clears_the_counters(
    make_buffer: Build, numbered: Callable[..., Transition], fill: Build
) -> None:
    buffer = fill(make_buffer(capacity=4), 4)
    buffer.trained += 7
    buffer.imagined += 9
    buffer.append(numbered(4))
    assert buffer.trained.tolist() == [0, 7, 7, 7]
    assert buffer.imagined.tolist() == [0, 9, 9, 9]
    assert len(buffer) == 4
    assert buffer.total == 5


def test_windows_read_the_ring_in_order_of_arrival(make_buffer: Build, fill: Build) -> None:
    buffer = fill(make_buffer(capacity=5), 12)  # slots hold 10, 11, 7, 8, 9
    assert buffer.columns["reward"].tolist() == [10, 11, 7, 8, 9]
    assert buffer.windows(torch.tensor([1, 0]), 3).reward.tolist() == [[9, 10, 11], [8, 9, 10]]
    assert ends(buffer, "world_model", 3) == {9, 10, 11}


@given(capacity=st.integers(2, 17), total=st.integers(0, 60), data=st.data())
def test_no_window_crosses_the_write_position(
    make_buffer: Build, fill: Build, capacity: int, total: int, data: st.DataObject
) -> None:
    length = data.draw(st.integers(1, capacity))
    buffer = fill(make_buffer(capacity=capacity), total)
    held = min(capacity, total)
    assert len(buffer) == held
    if held < length:
        with pytest.raises(ReplayError):
            buffer.sample("world_model", 4, length, g())
        return
    oldest = total - held
    assert ends(buffer, "world_model", length) == set(range(oldest + length - 1, total))
    rewards = buffer.sample("world_model", 16, length, g()).reward
    assert (rewards.diff(dim=1) == 1).all()
    assert rewards.min() >= oldest
    assert rewards.max() < total


@given(capacity=st.integers(6, 30), total=st.integers(3, 90), episode=st.integers(2, 9))
def test_episode_boundaries_are_marked_and_final_observations_start_no_rollout(
    make_buffer: Build, fill: Build, capacity: int, total: int, episode: int
) -> None:
    buffer = fill(make_buffer(capacity=capacity), total, episode)
    oldest, length = total - len(buffer), 2
    number, place = np.divmod(np.arange(total), episode)
    # A final observation has no future; a rollout starts at it only if it is also a first row.
    ended = (place == episode - 2) & (number % 2 == 0) & (place > 0)
    barred = (place == episode - 1) | ended
    expected = {g for g in range(oldest + length - 1, total) if not barred[g]}
    assert ends(buffer, "behaviour", length) == expected
    # The world model trains on every row, including final observations.
    assert ends(buffer, "world_model", length) == set(range(oldest + length - 1, total))
    windows = buffer.windows(torch.tensor([(total - 1) % capacity]), min(total, len(buffer)))
    rows = windows.reward[0].long().numpy()
    np.testing.assert_array_equal(windows.is_first[0].numpy(), place[rows] == 0)
    np.testing.assert_array_equal(windows.is_last[0].numpy(), place[rows] == episode - 1)


def test_a_truncated_transition_has_a_future(make_buffer: Build, fill: Build) -> None:
    buffer = fill(make_buffer(capacity=30), 20, 5)  # ends at rows 3, 8, 13, 18
    live = ends(buffer, "behaviour", 1)
    assert {8, 18} <= live, "truncation is not termination"
    assert not {3, 13} & live
    assert not {4, 9, 14, 19} & live, "the final observation has no action"


def test_sampling_counts_the_sampled_rows(make_buffer: Build, fill: Build) -> None:
    buffer = fill(make_buffer(capacity=8), 11)
    trained, dreamt = np.zeros(8, dtype=int), np.zeros(8, dtype=int)
    for seed in range(5):
        for purpose, seen in (("world_model", trained), ("behaviour", dreamt)):
            batch = buffer.sample(purpose, 3, 2, g(seed))  # type: ignore[arg-type]
            for last in batch.reward[:, -1].long().tolist():
                seen[last % 8] += 1
    assert buffer.trained.tolist() == trained.tolist()
    assert buffer.imagined.tolist() == dreamt.tolist()
    assert trained.sum() == dreamt.sum() == 15


def test_repeated_rows_are_counted_each_time(make_buffer: Build, fill: Build) -> None:
    buffer = fill(make_buffer(), 3)
    batch = buffer.sample("world_model", 50, 2, g())
    expected = torch.bincount(batch.reward[:, -1].long(), minlength=10)
    assert torch.equal(buffer.trained, expected)
    assert buffer.trained.sum() == 50


def test_sampling_without_replacement_repeats_no_window(make_buffer: Build, fill: Build) -> None:
    buffer = fill(make_buffer(capacity=40), 40)
    for seed in range(5):
        last = buffer.sample("world_model", 30, 4, g(seed)).reward[:, -1]
        assert last.unique().numel() == 30


def test_too_small_a_replay_still_fills_a_batch(make_buffer: Build, fill: Build) -> None:
    buffer = fill(make_buffer(), 4)
    batch = buffer.sample("world_model", 16, 3, g())
    assert batch.reward.shape == (16, 3)
    assert buffer.trained.sum() == 16


@pytest.mark.parametrize(("purpose", "needed"), [("world_model", 4), ("behaviour", 5)])
def test_sampling_from_too_few_rows_is_refused(
    make_buffer: Build, fill: Build, purpose: str, needed: int
) -> None:
    buffer = make_buffer()
    for total in range(needed):
        fill(buffer, total)
        with pytest.raises(ReplayError, match=f"holds {total}: collect more"):
            buffer.sample(purpose, 2, 4, g())  # type: ignore[arg-type]
    fill(buffer, needed)
    assert buffer.sample(purpose, 2, 4, g()).reward.shape == (2, 4)  # type: ignore[arg-type]
    assert buffer.trained.sum() + buffer.imagined.sum() == 2


def test_scores_match_hand_computed_values(make_buffer: Build, fill: Build) -> None:
    # Scale 4: imagined 8, 20, 0, 40, 4 times counts as b = 2, 5, 0, 10, 1.
    rules = {
        ("uniform", "world_model"): [0, 0, 0, 0],
        ("dfs", "world_model"): [-1.5, -2, -2.5, 0],
        ("dfs-trained", "world_model"): [-1.5, -2, -2.5, 0],
        ("uniform", "behaviour"): [0, 0, 0, 0],
        ("dfs", "behaviour"): [-0.4, 0, -1, -0.2],
        ("dfs-trained", "behaviour"): [
            -0.4 + np.log(1 - np.exp(-0.6)),
            np.log(1 - np.exp(-0.8)),
            -1 + np.log(1 - np.exp(-1)),
            -np.inf,
        ],
    }
    for (sampler, purpose), expected in rules.items():
        buffer = fill(make_buffer(sampler=sampler, tau=2.0, imagination_tau=5.0), 5)
        buffer.trained[:5] = torch.tensor([9, 3, 4, 5, 0])
        buffer.imagined[:5] = torch.tensor([8, 20, 0, 40, 4])
        scores = buffer.scores(purpose, 2)  # type: ignore[arg-type]
        wanted = torch.tensor([-np.inf, *expected], dtype=torch.float64)
        torch.testing.assert_close(scores, wanted, msg=f"{sampler} {purpose}: {scores}")


def test_alpha_and_beta_are_used(make_buffer: Build, fill: Build) -> None:
    buffer = fill(make_buffer(sampler="dfs", alpha=2.0, beta=0.5, imagination_tau=4.0), 2)
    buffer.trained[:2] = torch.tensor([8, 2])
    buffer.imagined[:2] = torch.tensor([12, 28])  # b = 3, 7
    torch.testing.assert_close(
        buffer.scores("behaviour", 1), torch.tensor([-0.125, -3.0], dtype=torch.float64)
    )


def test_counters_of_any_size_can_be_sampled(make_buffer: Build, fill: Build) -> None:
    for sampler in ("dfs", "dfs-trained"):
        buffer = fill(make_buffer(sampler=sampler), 10)
        buffer.trained += 2**40
        buffer.imagined += 2**42
        buffer.trained[5] -= 1000  # few samples: always sampled
        for seed in range(5):
            assert 5 in buffer.sample("world_model", 3, 2, g(seed)).reward[:, -1]
            buffer.sample("behaviour", 3, 2, g(seed))


def test_dfs_evens_out_where_uniform_does_not(make_buffer: Build, fill: Build) -> None:
    spread = {}
    for sampler in ("uniform", "dfs"):
        buffer = fill(make_buffer(capacity=50, sampler=sampler, tau=1.0), 50)
        generator = g()
        for _ in range(300):
            buffer.sample("world_model", 4, 1, generator)
        spread[sampler] = buffer.trained.double().std().item()
    assert spread["dfs"] < spread["uniform"] / 2


def test_dfs_trained_never_starts_from_an_untrained_row(make_buffer: Build, fill: Build) -> None:
    buffer = fill(make_buffer(capacity=50, sampler="dfs-trained"), 50)
    with pytest.raises(ReplayError, match="no transition can be sampled"):
        buffer.sample("behaviour", 4, 2, g())
    trained = buffer.sample("world_model", 5, 2, g()).reward[:, -1]
    for seed in range(5):
        started = buffer.sample("behaviour", 20, 2, g(seed)).reward[:, -1]
        assert set(started.tolist()) <= set(trained.tolist())


def test_samples_depend_on_the_generator_only(make_buffer: Build, fill: Build) -> None:
    batches: list[list[Batch]] = []
    for _ in range(2):
        buffer, generator = fill(make_buffer(capacity=30), 40), g(3)
        torch.rand(2)
        batches.append([buffer.sample("world_model", 4, 3, generator) for _ in range(3)])
    for a, b in zip(*batches, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(
    "obs",
    [
        np.zeros((2, 3, 1), np.uint8),
        np.zeros((2, 2, 1), np.float32),
        np.zeros((2, 2), np.uint8),
    ],
)
def test_transition_of_a_wrong_shape_is_refused_and_not_written(
    make_buffer: Build, numbered: Callable[..., Transition], obs: np.ndarray
) -> None:
    buffer = make_buffer()
    with pytest.raises(ReplayError, match="does not fit a replay of"):
        buffer.append(numbered(0)._replace(obs=obs))
    assert buffer.total == 0


def test_stored_transitions_are_copies(
    make_buffer: Build, numbered: Callable[..., Transition]
) -> None:
    buffer, row = make_buffer(), numbered(5)
    buffer.append(row)
    row.obs[:] = 99
    buffer.append(numbered(6))
    window = buffer.windows(torch.tensor([1]), 2)
    assert window.obs[0, :, 0, 0, 0].tolist() == [5, 6]
    window.obs[:] = 1
    assert buffer.columns["obs"][0, 0, 0, 0] == 5


def test_vector_observations_are_stored() -> None:
    buffer = ReplayBuffer(ReplayConfig(capacity=4), ObsSpace.vector(3))
    row = Transition(np.array([0.5, -1, 2], np.float32), True, 1, 0.5, False, False, False)
    buffer.append(row)
    assert buffer.windows(torch.tensor([0]), 1).obs.tolist() == [[[0.5, -1.0, 2.0]]]


def test_cut_marks_the_newest_row_as_truncated(make_buffer: Build, fill: Build) -> None:
    buffer = make_buffer(capacity=4)
    buffer.mark_cut()
    assert not buffer.columns["truncated"].any()
    fill(buffer, 6)
    buffer.mark_cut()
    assert buffer.columns["truncated"].tolist() == [False, True, False, False]
    assert not buffer.columns["terminated"].any()


def test_storage_is_on_the_configured_device() -> None:
    buffer = ReplayBuffer(ReplayConfig(capacity=4), ObsSpace.image(2, 2, 1), device="meta")
    columns = [*buffer.columns.values(), buffer.trained, buffer.imagined]
    assert {t.device.type for t in columns} == {"meta"}


def test_memory_matches_the_size_of_the_rows(make_buffer: Build) -> None:
    # 4 pixels, action, reward, four flags; two counters and the slot number.
    assert make_buffer(capacity=100).nbytes == 100 * (4 + 8 + 4 + 4 + 3 * 8)


@pytest.mark.parametrize("sampler", ["uniform", "dfs", "dfs-trained"])
@given(capacity=st.integers(6, 30), total=st.integers(3, 90), episode=st.integers(2, 9))
def test_static_shapes_keep_the_sampling_distribution(
    make_buffer: Build, fill: Build, sampler: str, capacity: int, total: int, episode: int
) -> None:
    plain, static = (
        fill(make_buffer(capacity=capacity, sampler=sampler, static_shapes=fixed), total, episode)
        for fixed in (False, True)
    )
    for buffer in (plain, static):
        buffer.trained += torch.arange(capacity) % 5
        buffer.imagined += torch.arange(capacity) % 3
    held = len(plain)
    for purpose in ("world_model", "behaviour"):
        scores = static.scores(purpose, 2)  # type: ignore[arg-type]
        assert scores.shape == (capacity,)
        assert torch.equal(scores[:held], plain.scores(purpose, 2))  # type: ignore[arg-type]
        assert torch.isinf(scores[held:]).all()


def test_static_shapes_sample_no_empty_slot(make_buffer: Build, fill: Build) -> None:
    buffer = fill(make_buffer(capacity=1000, static_shapes=True), 7)
    batch = buffer.sample("world_model", 5, 3, g())
    assert batch.slot is not None
    assert sorted(batch.slot[:, -1].tolist()) == [2, 3, 4, 5, 6]  # no repeats: there are five
    assert buffer.trained.sum() == 5
    batch = buffer.sample("world_model", 50, 3, g())  # more than there are: with repeats
    assert batch.slot is not None
    assert set(batch.slot[:, -1].tolist()) == {2, 3, 4, 5, 6}


def test_episodes_of_one_step_start_rollouts_at_their_first_transition(
    make_buffer: Build, numbered: Callable[..., Transition]
) -> None:
    buffer = make_buffer(capacity=50)
    for i in range(0, 20, 2):
        buffer.append(numbered(i, is_first=True, terminated=True))
        buffer.append(numbered(i + 1, is_last=True))
    assert ends(buffer, "behaviour", 4) == set(range(4, 20, 2))
    assert buffer.sample("behaviour", 4, 4, g()).is_first[:, -1].all()


def test_empty_sample_is_reported_at_the_next_check(make_buffer: Build, fill: Build) -> None:
    """On an accelerator sampling does not synchronise, so it cannot raise."""
    buffer = fill(make_buffer(capacity=50, sampler="dfs-trained"), 20)
    with pytest.raises(ReplayError, match="no transition can be sampled yet"):
        buffer.sample("behaviour", 4, 4, g())
    buffer = fill(make_buffer(capacity=50, sampler="dfs-trained", static_shapes=True), 20)
    buffer.trained[10] = 3
    buffer.sample("behaviour", 4, 4, g())
    buffer.check()
    buffer.trained[10] = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dispatch, "_HOSTS", ())
        buffer.sample("behaviour", 4, 4, g())
    with pytest.raises(ReplayError, match="no transition can be sampled yet"):
        buffer.check()
