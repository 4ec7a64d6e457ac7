"""Selection of device and precision with their reasons, and process settings of a run."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.runs import tiny

from drama import Agent
from drama.behaviour import Player
from drama.errors import ConfigError
from drama.training import device
from drama.training.device import (
    choose_device,
    choose_dtype,
    pick_device,
    pick_dtype,
    process_settings,
)
from drama.types import pinned

CPU = torch.device("cpu")


def machine(monkeypatch: pytest.MonkeyPatch, *, cuda: bool, mps: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: int(cuda))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("cuda", "mps", "name", "reason"),
    [
        (True, False, "cuda", "PyTorch finds a CUDA device"),
        (True, True, "cuda", "PyTorch finds a CUDA device"),
        (False, True, "mps", "PyTorch finds no CUDA device, but Apple's GPU"),
        (False, False, "cpu", "PyTorch finds no GPU"),
    ],
)
def test_device_is_selected_with_a_reason(
    cuda: bool, mps: bool, name: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, cuda=cuda, mps=mps)
    assert choose_device("auto") == (torch.device(name), reason)
    assert pick_device("auto") == torch.device(name)
    assert choose_device(name) == (torch.device(name), "requested")
    assert choose_device("cpu") == (CPU, "requested")


def test_missing_devices_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, cuda=True, mps=False)
    for name in ("cuda:1", "mps"):
        with pytest.raises(ConfigError, match="not available here: use cpu"):
            choose_device(name)
    with pytest.raises(ConfigError, match="unknown device 'tpu'"):
        choose_device("tpu")


@pytest.mark.parametrize(
    ("machine", "line", "expected"),
    [
        ("x86_64", "flags : fpu avx512_bf16 amx_bf16 amx_tile", "this CPU has amx_bf16"),
        ("x86_64", "flags : fpu avx512_bf16 avx512f", "this CPU has avx512_bf16"),
        ("x86_64", "flags : fpu avx2 bf16 noavx512_bf16x", None),
        ("aarch64", "Features : fp asimd i8mm bf16 dgh", "this CPU has bf16"),
        ("aarch64", "Features : fp asimd svebf16", None),
        ("arm64", None, None),
    ],
)
def test_bfloat16_is_selected_if_the_cpu_has_units_for_it(
    machine: str, line: str | None, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(path: Path) -> str:
        if line is None:
            raise FileNotFoundError(path)
        return f"processor : 0\n{line}\n"

    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(device.Path, "read_text", read)
    if expected is None:
        none = (torch.float32, "this CPU names no units for bfloat16")
        assert choose_dtype("auto", CPU) == none
    else:
        assert choose_dtype("auto", CPU) == (torch.bfloat16, expected)
    assert choose_dtype("float32", CPU) == (torch.float32, "requested")
    assert choose_dtype("bfloat16", CPU) == (torch.bfloat16, "requested")


@pytest.mark.parametrize(("native", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_emulated_bfloat16_on_a_gpu_is_not_selected(
    native: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    def supported(including_emulation: bool = True) -> bool:
        return native or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert pick_dtype("auto", torch.device("cuda")) == dtype
    assert pick_dtype("auto", torch.device("mps")) == torch.float32


def test_thread_count_is_set_for_the_run_and_restored() -> None:
    before = torch.get_num_threads()
    config = tiny({"training.threads": before + 1}).training

    def fail() -> None:
        with process_settings(config, CPU):
            assert torch.get_num_threads() == before + 1
            raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        fail()
    assert torch.get_num_threads() == before
    with process_settings(tiny({"training.threads": 0}).training, CPU):
        assert torch.get_num_threads() == before


def test_evaluation_uses_the_thread_count_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    before, seen, act = torch.get_num_threads(), set(), Player.act

    def watched(*args: Any, **kwargs: Any) -> Any:
        seen.add(torch.get_num_threads())
        return act(*args, **kwargs)

    monkeypatch.setattr(Player, "act", watched)
    agent = Agent("drama/Catch-v0", tiny({"training.threads": before + 1}))
    agent.evaluate(1)
    assert seen == {before + 1}
    assert torch.get_num_threads() == before

    def fail(*_: object) -> None:
        raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        agent.evaluate(1, progress=fail)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("keep", "where", "kept"), [(True, "cpu", 1), (False, "cpu", 0), (True, "cuda", 0)]
)
def test_freed_memory_is_kept_if_requested(
    keep: bool, where: str, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    original = device.keep_freed_memory

    def counted() -> object:
        calls.append(1)
        return original()

    monkeypatch.setattr(device, "keep_freed_memory", counted)
    config = tiny({"training.keep_memory": keep}).training
    with process_settings(config, torch.device(where)):
        assert len(calls) == kept


def test_host_memory_is_pinned_for_cuda_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies from pageable memory wait for the device."""
    given, copy = torch.arange(3), torch.arange(3)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda _: copy)
    assert pinned(given, torch.device("cuda", 1)) is copy
    assert pinned(given, torch.device("cpu")) is given
    assert pinned(given, torch.device("mps")) is given
    elsewhere = torch.empty(3, device="meta")
    assert pinned(elsewhere, torch.device("cuda")) is elsewhere
