"""Cost of a preset: hand-computed arithmetic, and measurements of real updates."""

# One file: the tests share the spy on measured updates and the example costs.

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.faulty_envs import Walk, env_id
from tests.training.runs import global_random_state, tiny

from drama import Agent
from drama.config import Config
from drama.errors import ConfigError, EnvError, NonFiniteError
from drama.machine import calibration, measurement
from drama.machine.calibration import calibrate
from drama.machine.costs import Memory, PresetCost, Unmeasured, UpdateCost
from drama.machine.measurement import fill
from drama.replay import ReplayBuffer
from drama.training.graphs import EAGER_CALLS
from drama.training.learner import Learner
from drama.training.trainer import Trainer

WALK = env_id(Walk)
PRECISE = {"world_model.batch_size": 16, "behaviour.batch_size": 40}


def one(changes: dict[str, Any] | None = None) -> dict[str, Callable[[], Config]]:
    """A preset of the smallest size under the name ``tiny``."""
    return {"tiny": lambda: tiny(changes)}


def measured(**options: Any) -> PresetCost:
    changes = options.pop("changes", None)
    (cost,) = calibrate(
        one(changes), **{"env": WALK, "device": "cpu", "seconds": 60.0, **options}
    ).presets
    assert isinstance(cost, PresetCost), cost
    return cost


@pytest.fixture(autouse=True)
def _in_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurement, "ENV_SECONDS", 0.0)
    monkeypatch.setattr(measurement, "MOST_REPEATS", 3)


class Spy:
    """Records the batch size of each update, and the duration of each sample of a fake clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: dict[str, list[int]] = {"world_model": [], "behaviour": []}
        self.steps = 0
        for section in ("world_model", "behaviour"):
            self.watch(monkeypatch, section)
        collect = Trainer.collect

        def counted(trainer: Trainer) -> None:
            self.steps += 1
            collect(trainer)

        monkeypatch.setattr(Trainer, "collect", counted)

    def watch(self, monkeypatch: pytest.MonkeyPatch, section: str) -> None:
        original = getattr(Learner, f"update_{section}")

        def noted(learner: Learner) -> dict[str, torch.Tensor]:
            self.sizes[section].append(getattr(learner.config, section).batch_size)
            metrics: dict[str, torch.Tensor] = original(learner)
            return metrics

        monkeypatch.setattr(Learner, f"update_{section}", noted)


# -- arithmetic ----------------------------------------------------------------------------------


def test_smaller_batches_are_extrapolated() -> None:
    samples = [{"replay": 0.5, "world_model": 3.5}, {"world_model": 2.0}, {"world_model": 9.0}]
    cost = UpdateCost.scaled(samples, 1000, measured=4, full=16)
    assert cost.seconds == {"replay": 2.0, "world_model": 14.0}  # the median, four times
    assert cost.peak_bytes == 4000
    assert cost.estimate == "batches of 4 instead of 16, extrapolated"
    # Of two the faster one: disturbances only make a machine slower.
    assert UpdateCost.scaled(samples[:2], None, 4, 16).seconds == {"world_model": 8.0}
    whole = UpdateCost.scaled(samples, 1000, measured=16, full=16)
    assert whole.seconds == samples[0]
    assert (whole.peak_bytes, whole.estimate) == (1000, None)


@pytest.mark.parametrize(
    ("smaller", "seconds"),
    [
        (
            (1, 1.0),
            2.0 + 12 * 1 / 3,
        ),  # 1/3 s for each further window
        ((1, 0.1), 8.0),  # at most proportional
        ((1, 5.0), 2.0 + 12 * 2 / 4 / 8),  # noise: an eighth of it is assumed to grow
    ],
)
def test_two_batch_sizes_give_the_constant_part(smaller: tuple[int, float], seconds: float) -> None:
    cost = UpdateCost.scaled([{"world_model": 2.0}], None, 4, 16, smaller)
    assert cost.seconds["world_model"] == pytest.approx(seconds)


def memory(**changes: int | None) -> Memory:
    return dataclasses.replace(Memory(1, 2, 3, 100, 200, None, None), **changes)  # type: ignore[arg-type]


def preset_cost(**changes: Any) -> PresetCost:
    cost = PresetCost(
        preset="big",
        precision="float32",
        backend="torch: tensors are on the CPU",
        threads=2,
        env_seconds=0.25,
        acting_seconds=0.5,
        world_model=UpdateCost({"replay": 1.0, "world_model": 7.0}, 50, 4, 16),
        behaviour=UpdateCost({"replay": 1.0, "imagination": 6.0, "behaviour": 3.0}, 60, 8, 8),
        ratios=(0.5, 0.25),
        warmup_steps=1000,
        memory=memory(),
    )
    return dataclasses.replace(cost, **changes)


def test_step_and_run_times_match_hand_computed_values() -> None:
    cost = preset_cost()
    assert cost.step_seconds == 0.25 + 0.5 + 0.5 * 8.0 + 0.25 * 10.0  # 7.25
    assert cost.hours(10_000) == pytest.approx((1000 * 0.25 + 9000 * 7.25) / 3600)
    assert cost.hours(400) == pytest.approx(400 * 0.25 / 3600)  # never beyond the warm-up
    numbers = cost.to_dict()
    assert numbers["seconds"] == {
        "env_step": 0.25,
        "acting": 0.5,
        "world_model_update": 8.0,  # including batch sampling
        "imagination": 6.0,
        "behaviour_update": 4.0,
    }
    how = "batches of 4 instead of 16, extrapolated"
    assert numbers["estimated"] == {
        "world_model_update": how,
        "imagination": None,
        "behaviour_update": None,
    }
    assert numbers["env_steps_per_second"] == pytest.approx(1 / 7.25)
    assert (numbers["steps"], numbers["hours"]) == (100_000, cost.hours())


@pytest.mark.parametrize(
    ("changes", "fits"),
    [
        ({}, True),
        ({"host_available": 100}, True),
        ({"host_available": 99}, False),
        ({"host": None, "host_available": 99}, True),
        ({"host_available": None}, True),
        ({"device": 50, "device_available": 60}, True),
        ({"device": 70, "device_available": 60}, False),
        ({"device": None, "device_available": 60}, True),
    ],
)
def test_presets_that_fit_in_memory(changes: dict[str, int | None], fits: bool) -> None:
    assert memory(**changes).fits == fits
    assert preset_cost(memory=memory(**changes)).to_dict()["memory_bytes"]["fits"] == fits


# -- measurements ----------------------------------------------------------------------------


def test_full_batch_is_measured_if_time_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    spy = Spy(monkeypatch)
    cost = measured(changes=PRECISE, seconds=30.0)
    # One warm-up and one timed update per size; then the samples of the full size.
    repeats = 1 + measurement.MOST_REPEATS
    assert spy.sizes["world_model"] == [1, 1, 4, 4] + [16] * repeats
    assert spy.sizes["behaviour"] == [1, 1, 4, 4, 16, 16] + [40] * repeats
    assert spy.steps == 1 + 10
    for update, full in ((cost.world_model, 16), (cost.behaviour, 40)):
        assert (update.measured, update.full, update.estimate) == (full, full, None)
    assert set(cost.world_model.seconds) == {"replay", "world_model"}
    assert set(cost.behaviour.seconds) == {"replay", "imagination", "behaviour"}
    assert all(
        value > 0 for c in (cost.world_model, cost.behaviour) for value in c.seconds.values()
    )
    assert cost.env_seconds > 0
    assert cost.acting_seconds > 0
    assert (cost.ratios, cost.warmup_steps) == ((0.5, 0.5), 24)
    assert (cost.precision, cost.threads) == ("float32", 1)
    assert cost.backend == "torch: tensors are on the CPU"


class SlowUpdates:
    """A clock on which an update takes one second per window of its batch, or another time."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        seconds: Callable[[int], float] = float,
    ) -> None:
        self.now = 0.0
        monkeypatch.setattr(calibration.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(measurement, "ENV_SECONDS", -1.0)
        for section in ("world_model", "behaviour"):
            original = getattr(Learner, f"update_{section}")

            def slow(learner: Learner, section: str = section, original: Any = original) -> Any:
                with learner.clock.phase(section):
                    self.now += seconds(getattr(learner.config, section).batch_size)
                return original(learner)

            monkeypatch.setattr(Learner, f"update_{section}", slow)


def test_largest_batch_within_the_time_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    spy = Spy(monkeypatch)
    SlowUpdates(monkeypatch)
    # The world model has half of 128: after 2 + 8 seconds, three updates of 16 take 51.2 of the
    # 54 left with the margin, and a fourth does not fit. The behaviour has what is left, 70: after
    # 2 + 8 seconds three of 16 fit, and after two of those neither three of 40 nor of 32.
    cost = measured(changes=PRECISE, seconds=128.0)
    assert spy.sizes["world_model"] == [1, 1, 4, 4, 16, 16, 16]
    assert cost.world_model.seconds["world_model"] == 16.0
    assert spy.sizes["behaviour"] == [1, 1, 4, 4, 16, 16, 16]
    assert cost.behaviour.seconds["behaviour"] == 40.0
    assert cost.behaviour.estimate == "batches of 16 instead of 40, extrapolated"


@pytest.mark.parametrize(
    ("seconds", "sizes", "seconds_of_an_update"),
    [
        # Half of it is the world model's: two updates of each size take two seconds, and what
        # they predict for the next must fit.
        (20.0, [1, 2, 8, 16], 1.0),
        (13.0, [1, 2], 1.0 + 14 / 16),  # an eighth of an update is assumed to grow
    ],
)
def test_constant_part_of_an_update_is_not_multiplied(
    seconds: float,
    sizes: list[int],
    seconds_of_an_update: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Small models spend the same time on any batch."""
    spy = Spy(monkeypatch)
    SlowUpdates(monkeypatch, lambda batch: 1.0)
    cost = measured(changes=PRECISE, seconds=seconds)
    assert list(dict.fromkeys(spy.sizes["world_model"])) == sizes
    assert cost.world_model.seconds["world_model"] == pytest.approx(seconds_of_an_update)


def test_time_limit_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    """No measurement starts after the limit, and unmeasured presets are named."""
    spy = Spy(monkeypatch)
    clock = SlowUpdates(monkeypatch)
    presets = {name: lambda: tiny(PRECISE) for name in ("a", "b", "c")}
    seen: list[list[str]] = []
    found = calibrate(
        presets,
        env=WALK,
        device="cpu",
        seconds=5.5,
        found=lambda so_far: seen.append([cost.preset for cost in so_far.presets]),
    )
    assert clock.now == 6.0  # one update more than fits
    assert spy.sizes == {"world_model": [1, 1, 1, 1], "behaviour": [1, 1]}
    assert isinstance(found.presets[0], PresetCost)
    assert found.presets[1:] == (
        Unmeasured("b", "not measured in 5.5 s"),
        Unmeasured("c", "not measured in 5.5 s"),
    )
    assert seen == [["a"], ["a", "b"], ["a", "b", "c"]]


def test_a_full_ring_is_not_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    original = measurement.fill
    monkeypatch.setattr(
        measurement, "fill", lambda ring, n: (rows.append(ring.capacity), original(ring, n))
    )
    cost = measured(changes={"replay.capacity": 100_000})
    assert rows == [measurement.ROWS]
    assert cost.memory.replay == 100_000 * (12 + 4 + 8 + 4 + 3 * 8)  # the preset's own


def test_batch_sizes_beyond_the_memory_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    # 100 bytes at any tried size: 400 at four times it, 200 at twice.
    monkeypatch.setattr(measurement.PeakMemory, "start", lambda _: None)
    monkeypatch.setattr(measurement.PeakMemory, "read", lambda _: 100)
    # Replay and process; then before each size except the full one.
    free = iter([10**9, 10**9, 500, 300, 300, 150, 500, 150])
    monkeypatch.setattr(measurement, "available_bytes", lambda _: next(free))
    spy = Spy(monkeypatch)
    cost = measured(changes=PRECISE, seconds=60.0)
    assert list(dict.fromkeys(spy.sizes["world_model"])) == [1, 4, 8, 16]
    assert list(dict.fromkeys(spy.sizes["behaviour"])) == [1]
    assert cost.world_model.peak_bytes == 100
    assert cost.behaviour.peak_bytes == 4000


def test_memory_matches_hand_computed_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurement, "resident_bytes", lambda: 7000)
    monkeypatch.setattr(measurement, "available_bytes", lambda _: 10**9)
    monkeypatch.setattr(measurement.PeakMemory, "start", lambda _: None)
    # Of each kind: the smaller sizes, then the timed one.
    peaks = iter([1, 1, 500, 1, 1, 1, 300])
    monkeypatch.setattr(measurement.PeakMemory, "read", lambda _: next(peaks))
    found = measured(changes=PRECISE, seconds=30.0).memory
    agent = Agent(WALK, tiny(PRECISE))
    models = (agent.world_model, agent.behaviour)
    weights = sum(4 * p.numel() for m in models for p in m.parameters() if p.requires_grad)
    others = sum(
        t.nbytes
        for m in models
        for name, t in m.state_dict().items()
        if name not in {n for n, p in m.named_parameters() if p.requires_grad}
    )
    assert found.model == 4 * weights + others  # weights, gradient, two moments; slow critic etc.
    # 200 rows: 3 float32, four flags, int64 action, float32 reward, two counters and a slot.
    assert found.replay == 200 * (12 + 4 + 8 + 4 + 3 * 8)
    assert found.updates == 500  # the larger of the two, as they run in sequence
    assert found.host == 7000 + found.replay + found.model + 500
    assert found.host_available == 10**9 + 7000
    assert (found.device, found.device_available) == (None, None)


def test_unknown_memory_is_not_estimated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurement, "resident_bytes", lambda: None)
    monkeypatch.setattr(measurement, "available_bytes", lambda _: None)
    monkeypatch.setattr(measurement.PeakMemory, "read", lambda _: None)
    found = measured().memory
    assert (found.updates, found.host, found.host_available) == (None, None, None)
    assert found.replay > 0
    assert found.fits


def test_random_transitions_are_valid_episodes() -> None:
    config = tiny({"replay.capacity": 3000}).replay
    replay = ReplayBuffer(config, (3,), torch.float32)
    fill(replay, num_actions=5)
    assert len(replay) == 3000
    rows = replay.columns
    assert sorted(rows["action"].unique().tolist()) == [0, 1, 2, 3, 4]
    firsts, lasts = rows["is_first"].nonzero().flatten(), rows["is_last"].nonzero().flatten()
    assert firsts.tolist() == [0, 501, 1002, 1503, 2004, 2505]
    assert lasts.tolist() == [500, 1001, 1502, 2003, 2504]
    assert (rows["truncated"].nonzero().flatten() + 1).tolist() == [*lasts.tolist(), 3005][:5]
    assert rows["obs"].std() == pytest.approx(1.0, abs=0.1)
    frames = ReplayBuffer(config, (8, 8, 3), torch.uint8)
    fill(frames, num_actions=2)
    assert frames.columns["obs"].float().mean() == pytest.approx(127.5, abs=2)
    assert replay.sample("behaviour", 8, 4).obs.shape == (8, 4, 3)


# -- which presets, which environment --------------------------------------------------------------


def test_every_preset_gets_a_share_of_the_time_and_is_announced() -> None:
    said: list[str] = []
    presets = {"a": tiny, "b": lambda: tiny({"training.world_model_ratio": 2.0})}
    found = calibrate(presets, env=WALK, device="cpu", seconds=60.0, progress=said.append)
    assert said == ["measuring preset a", "measuring preset b"]
    assert [cost.preset for cost in found.presets] == ["a", "b"]
    assert [c.ratios[0] for c in found.presets if isinstance(c, PresetCost)] == [0.5, 2.0]
    assert (found.env, found.obs_shape, found.num_actions) == (WALK, (3,), 2)
    assert found.seconds > 0


@pytest.mark.parametrize("there", [True, False])
def test_default_environment_is_atari_if_installed(
    there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = importlib.util.find_spec
    monkeypatch.setattr(
        calibration.importlib.util,
        "find_spec",
        lambda name: (original(name) if there else None) if name == "ale_py" else original(name),
    )
    small = {"world_model.filters": (4, 4, 4), "world_model.stem_stride": 2}
    found = calibrate(one(small), device="cpu", seconds=60.0)
    assert found.env == ("ALE/Pong-v5" if there else None)
    assert (found.obs_shape, found.num_actions) == ((64, 64, 3), 6)
    assert isinstance(found.presets[0], PresetCost)


def test_process_settings_are_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    threads, state = torch.get_num_threads(), global_random_state()
    changes = {"training.threads": threads + 1}
    cost = measured(changes=changes)
    assert cost.threads == threads + 1  # that of the preset, during its measurement
    assert torch.get_num_threads() == threads
    assert global_random_state() == state
    assert torch.is_grad_enabled()
    assert not list(tmp_path.rglob("*"))


def test_the_environment_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []
    monkeypatch.setattr(Walk, "close", lambda env: closed.append(env))
    measured()
    assert len(closed) == 1


def test_process_settings_are_restored_after_an_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Learner, "update_behaviour", interrupt)
    threads = torch.get_num_threads()
    with pytest.raises(KeyboardInterrupt):
        measured(changes={"training.threads": threads + 1})
    assert torch.get_num_threads() == threads


# -- failed measurements -----------------------------------------------------------------------


def test_replay_that_does_not_fit_is_not_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurement, "available_bytes", lambda _: 2 * 10**9)
    original, asked = ReplayBuffer.__init__, []

    def noted(buffer: ReplayBuffer, config: Any, *args: Any, **kwargs: Any) -> None:
        asked.append(config.capacity)
        original(buffer, config, *args, **kwargs)

    monkeypatch.setattr(ReplayBuffer, "__init__", noted)
    presets = {"huge": lambda: tiny({"replay.capacity": 10**9}), "tiny": tiny}
    huge, small = calibrate(presets, env=WALK, device="cpu", seconds=60.0).presets
    assert huge == Unmeasured(
        "huge",
        "does not fit: its replay needs 52.0 GB and 2.0 GB are free on cpu; lower replay.capacity",
    )
    assert isinstance(small, PresetCost)
    assert max(asked) == 200


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (torch.OutOfMemoryError("CUDA out of memory.\nMore."), "does not fit: CUDA out of memory."),
        (MemoryError(), "does not fit: MemoryError"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
            "does not fit: DefaultCPUAllocator: can't allocate memory: you tried",
        ),
        (NonFiniteError("loss is NaN"), "loss is NaN"),
    ],
)
def test_failed_preset_does_not_stop_the_next(
    error: Exception, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Learner.update_world_model

    def fail(learner: Learner) -> dict[str, torch.Tensor]:
        if learner.config.seed == 1:
            raise error
        return original(learner)

    monkeypatch.setattr(Learner, "update_world_model", fail)
    presets = {"bad": lambda: tiny({"seed": 1}), "good": tiny}
    bad, good = calibrate(presets, env=WALK, device="cpu", seconds=60.0).presets
    assert isinstance(bad, Unmeasured)
    assert bad.error.startswith(text)
    assert isinstance(good, PresetCost)


def test_sizes_that_do_not_fit_the_environment_are_reported() -> None:
    presets = {"shifted": lambda: tiny({"replay.random_shift": (40, 40)}), "tiny": tiny}
    shifted, small = calibrate(presets, env="drama/Catch-v0", device="cpu", seconds=60.0).presets
    assert isinstance(shifted, Unmeasured)
    assert "random_shift" in shifted.error
    assert isinstance(small, PresetCost)


def test_other_errors_are_not_reported_as_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr(Learner, "update_world_model", fail)
    with pytest.raises(RuntimeError, match="shapes"):
        measured()


def test_invalid_arguments_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least one preset"):
        calibrate({})
    for seconds in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ConfigError, match="positive"):
            calibrate(one(), env=WALK, device="cpu", seconds=seconds)
    with pytest.raises(ConfigError, match="unknown device"):
        calibrate(one(), env=WALK, device="tpu")
    with pytest.raises(EnvError, match="drama/Catch-v0"):
        calibrate(one(), env="drama/Cacth-v0")


# -- as JSON -------------------------------------------------------------------------------------


def keys(tree: object) -> object:
    """The structure of a JSON tree."""
    if isinstance(tree, dict):
        return {name: keys(value) for name, value in tree.items()}
    if isinstance(tree, list):
        return [keys(value) for value in tree]
    return None


def test_json_has_the_documented_structure() -> None:
    presets = {"tiny": tiny, "bad": lambda: tiny({"replay.random_shift": (40, 40)})}
    found = calibrate(presets, env="drama/Catch-v0", device="cpu", seconds=60.0).to_dict()
    tree = json.loads(json.dumps(found, allow_nan=False))
    assert tree == found
    seconds = ("env_step", "acting", "world_model_update", "imagination", "behaviour_update")
    sizes = ("replay", "model", "updates", "host", "host_available", "device", "device_available")
    assert keys(tree) == {
        "env": None,
        "obs_shape": [None, None, None],
        "num_actions": None,
        "seconds": None,
        "presets": [
            {
                "preset": None,
                "precision": None,
                "backend": None,
                "threads": None,
                "seconds": dict.fromkeys(seconds),
                "estimated": dict.fromkeys(seconds[2:]),
                "updates_per_step": {"world_model": None, "behaviour": None},
                "env_steps_per_second": None,
                "steps": None,
                "hours": None,
                "memory_bytes": dict.fromkeys((*sizes, "fits")),
                "error": None,
            },
            {"preset": None, "error": None},
        ],
    }
    assert tree["obs_shape"] == [32, 32, 3]
    assert [preset["preset"] for preset in tree["presets"]] == ["tiny", "bad"]
    assert tree["presets"][0]["error"] is None
    assert tree["presets"][1]["error"]


def test_recorded_updates_are_timed_when_replayed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each size is recorded again, after its warm-up calls."""
    monkeypatch.setattr(Learner, "records", property(lambda _: True))
    monkeypatch.setattr(
        Learner,
        "_make_programs",
        lambda made: {"world_model": made.update_world_model, "behaviour": made.update_behaviour},
    )
    forgotten = []
    original = Learner.record_again
    monkeypatch.setattr(
        Learner, "record_again", lambda made: (forgotten.append(1), original(made))[1]
    )
    spy = Spy(monkeypatch)
    measured(changes=PRECISE, seconds=60.0)
    once = EAGER_CALLS + 2
    assert spy.sizes["world_model"][: 3 * once] == [1] * once + [4] * once + [16] * once
    assert spy.sizes["behaviour"][: 2 * once] == [1] * once + [4] * once
    assert len(forgotten) == 3 + 4
