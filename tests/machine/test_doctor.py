"""Report of ``drama doctor`` on a machine and the cost of the presets on it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.machine.test_calibration import memory, preset_cost
from tests.training.faulty_envs import Walk, env_id
from tests.training.runs import tiny

import drama
from drama import presets
from drama.cli import main
from drama.errors import ConfigError
from drama.machine import calibration, inspection, measurement
from drama.machine.costs import Calibration, Unmeasured, UpdateCost
from drama.machine.inspection import Machine, inspect_machine
from drama.machine.table import CalibrationTable
from drama.training.learner import Learner

WALK = env_id(Walk)
Capture = pytest.CaptureFixture[str]
CPU = ("--device", "cpu")


@pytest.fixture(autouse=True)
def _tiny_presets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two tiny presets, no measurement time, and a temporary working directory."""
    small = {"world_model.filters": (4, 4, 4), "world_model.stem_stride": 2}
    monkeypatch.setattr(
        presets, "PRESETS", {"small": lambda: tiny(small), "other": lambda: tiny(small)}
    )
    monkeypatch.setattr(measurement, "ENV_SECONDS", 0.0)
    monkeypatch.setattr(measurement, "MOST_REPEATS", 1)
    monkeypatch.chdir(tmp_path)


# -- the machine ---------------------------------------------------------------------------------


MACHINE = Machine(
    device="cuda",
    device_name="Some GPU",
    device_reason="PyTorch finds a CUDA device",
    precision="bfloat16",
    precision_reason="this GPU multiplies bfloat16",
    backend="torch",
    backend_reason="mamba_ssm cannot be imported",
    threads=4,
    cores=8,
    load=0.1,
    memory_available=12_340_000_000,
    device_memory_available=79_000_000_000,
    python="3.12.1",
    system="Linux",
    packages={"torch": "2.8.0", "ale-py": None},
)


def test_every_choice_is_reported_with_its_reason() -> None:
    assert MACHINE.render().splitlines() == [
        "device     cuda (Some GPU): PyTorch finds a CUDA device",
        "precision  bfloat16: this GPU multiplies bfloat16",
        "backend    torch: mamba_ssm cannot be imported",
        "threads    4 of 8 cores",
        "memory     12.3 GB free, 79.0 GB free on cuda",
        "python     3.12.1 on Linux",
        "packages   torch 2.8.0, ale-py missing",
    ]


def test_busy_machine_is_reported() -> None:
    busy = dataclasses.replace(MACHINE, load=3.0, device_memory_available=None)
    assert "4 of 8 cores; load average 3.0: an idle machine would be faster" in busy.render()
    assert "12.3 GB free\n" in busy.render()
    assert "load" not in dataclasses.replace(MACHINE, load=None).render()


def test_report_of_this_machine() -> None:
    machine = inspect_machine("cpu")
    assert (machine.device, machine.device_reason) == ("cpu", "requested")
    assert machine.precision in ("float32", "bfloat16")
    assert "this CPU" in machine.precision_reason
    assert (machine.backend, machine.backend_reason) == ("torch", "tensors are on the CPU")
    assert machine.threads == torch.get_num_threads()
    assert machine.packages["torch"] == torch.__version__
    assert machine.device_memory_available is None
    assert machine.to_dict()["precision_reason"] == machine.precision_reason
    with pytest.raises(ConfigError, match="tpu"):
        inspect_machine("tpu")


def test_missing_package_is_reported() -> None:
    assert inspection._version("no-such-package") is None
    assert inspection._version("numpy")


# -- the calibration as text -----------------------------------------------------------------------


def render(found: Calibration) -> list[str]:
    table = CalibrationTable(cost.preset for cost in found.presets)
    return [*table.header(found), *map(table.row, found.presets), *table.footer(found)]


def test_table_matches_hand_computed_values() -> None:
    quick = preset_cost(
        preset="quick",
        env_seconds=0.0005,
        acting_seconds=0.00225,
        world_model=UpdateCost({"replay": 0.01, "world_model": 0.29}, 50, 16, 16),
        behaviour=UpdateCost({"replay": 0.002, "imagination": 0.117, "behaviour": 0.02}, 6, 9, 9),
        ratios=(0.2, 0.2),
    )
    gigabytes = memory(host=5_500_000_000, host_available=8_000_000_000)
    found = Calibration(
        env="ALE/Pong-v5",
        observations="image 64x64x3",
        num_actions=6,
        seconds=29.6,
        presets=(
            dataclasses.replace(quick, memory=gigabytes),
            preset_cost(memory=gigabytes),
            Unmeasured("s", "does not fit: its replay needs 9.0 GB"),
        ),
    )
    # quick: 0.5 + 2.25 + 0.2 * (300 + 139) ms = 90.55 ms a step, 11.0 a second, 2.49 hours after
    # 1000 steps of 0.5 ms. big: 7.25 s a step, 199 hours = 8.3 days.
    *said, _, took = render(found)
    assert said == [
        "calibration on ALE/Pong-v5 (image 64x64x3, 6 actions)",
        "preset  env step    acting  world model  imagination  behaviour  env steps/s  "
        "100 000 steps    memory",
        "quick     0.5 ms   2.25 ms       300 ms       117 ms      22 ms           11  "
        "       2.49 h    5.5 GB",
        "big       250 ms    500 ms         ~8 s          6 s        4 s       ~0.138  "
        "    ~8.3 days    5.5 GB",
        "s              -         -            -            -          -            -  "
        "            -         -",
        "big: ~ = extrapolated from smaller batches (world model 4 of 16)",
        "s: does not fit: its replay needs 9.0 GB",
    ]
    assert took == "calibrated in 30 s"


def lines(**changes: Any) -> str:
    cost = preset_cost(world_model=UpdateCost({"world_model": 1.0}, 1, 1, 1), **changes)
    return "\n".join(render(Calibration(None, (64, 64, 3), 6, 1.0, (cost,))))


def test_preset_that_does_not_fit_names_the_missing_memory() -> None:
    text = lines(memory=memory(host=9_000_000_000, host_available=8_000_000_000))
    assert "9.0 GB (too much)" in text
    assert "big: does not fit: needs 9.0 GB of host memory, 8.0 GB free" in text
    text = lines(
        memory=memory(
            host=2_000_000_000,
            host_available=8_000_000_000,
            device=30_000_000_000,
            device_available=24_000_000_000,
        )
    )
    assert "2.0 GB + 30.0 GB GPU (too much)" in text
    assert "big: does not fit: needs 30.0 GB of GPU memory, 24.0 GB free" in text
    assert "does not fit" not in lines()


def test_unknown_values_are_reported() -> None:
    text = lines(memory=memory(updates=None, host=None))
    assert "big: this system does not report the memory of an update" in text
    assert text.splitlines()[2].endswith("?")
    assert "ale-py is missing, so game stepping is not measured" in text


# -- the command ---------------------------------------------------------------------------------


def test_the_command_measures_every_preset(capfd: Capture) -> None:
    assert main(["doctor", *CPU, "--seconds", "60"]) == 0
    said = capfd.readouterr()
    assert "device     cpu" in said.out
    assert "on ALE/Pong-v5 (image 64x64x3, 6 actions)" in said.out
    rows = [line.split()[0] for line in said.out.splitlines() if line[:5] in ("small", "other")]
    assert rows[:2] == ["small", "other"]
    assert said.err.splitlines() == ["measuring preset small", "measuring preset other"]
    assert not list(Path().iterdir())


def test_a_row_is_printed_before_the_next_preset_is_measured(
    capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, seen = calibration.measure, []

    def noted(preset: str, *args: Any) -> Any:
        seen.append((preset, capfd.readouterr().out))
        return original(preset, *args)

    monkeypatch.setattr(calibration, "measure", noted)
    assert main(["doctor", *CPU, "--seconds", "60"]) == 0
    (first, before), (second, between) = seen
    assert (first, second) == ("small", "other")
    assert before.startswith("device ")  # the machine first
    assert between.splitlines()[-1].startswith("small ")
    assert capfd.readouterr().out.splitlines()[0].startswith("other ")


def test_unmeasured_presets_are_named(capfd: Capture) -> None:
    assert main(["doctor", *CPU, "--seconds", "1e-6"]) == 0
    said = capfd.readouterr()
    assert "small: not measured in 1e-06 s" in said.out
    assert "other: not measured in 1e-06 s" in said.out
    assert said.err == ""


def test_options_select_one_preset_or_none(capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["doctor", *CPU, "--preset", "other", "--seconds", "60"]) == 0
    said = capfd.readouterr()
    assert said.err.splitlines() == ["measuring preset other"]
    assert "\nsmall" not in said.out

    def refuse(*_: object, **__: object) -> None:
        pytest.fail("it measured all the same")

    monkeypatch.setattr(calibration, "calibrate", refuse)
    assert main(["doctor", *CPU, "--no-calibration"]) == 0
    said = capfd.readouterr()
    assert "backend    torch: tensors are on the CPU" in said.out
    assert "calibration" not in said.out
    assert said.err == ""


def test_given_environment_is_checked_and_used(capfd: Capture) -> None:
    assert main(["doctor", *CPU, "--env", WALK, "--steps", "20", "--seconds", "60"]) == 0
    out = capfd.readouterr().out
    assert "20 steps" in out
    assert f"on {WALK} (vector 3, 2 actions)" in out


def test_json_option_prints_only_json(capfd: Capture) -> None:
    args = ["doctor", *CPU, "--json", "--env", WALK, "--steps", "20", "--seconds", "60"]
    assert main(args) == 0
    tree = json.loads(capfd.readouterr().out)
    assert list(tree) == ["drama", "machine", "environment", "calibration"]
    assert tree["drama"] == drama.__version__
    assert set(tree["machine"]) == {field.name for field in dataclasses.fields(Machine)}
    assert tree["environment"]["env_id"] == "tests/Walk-v0"
    assert tree["environment"]["steps"] == 20
    assert tree["calibration"]["env"] == WALK
    assert [p["preset"] for p in tree["calibration"]["presets"]] == ["small", "other"]
    assert main(["doctor", *CPU, "--json", "--no-calibration"]) == 0
    assert list(json.loads(capfd.readouterr().out)) == ["drama", "machine"]


def test_interrupt_ends_with_one_line(capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Learner, "update_world_model", interrupt)
    assert main(["doctor", *CPU, "--seconds", "60"]) == 130
    assert capfd.readouterr().err.splitlines() == ["measuring preset small", "drama: interrupted"]
