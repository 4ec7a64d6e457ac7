"""When an update runs eagerly, is recorded, or is replayed; CUDA is simulated.

`test_static_updates.py` (with a tape) and `tests/test_benchmark_gpu.py` (on a GPU) check that
replays equal eager updates.
"""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from drama.errors import ConfigError
from drama.training import graphs
from drama.training.graphs import EAGER_CALLS, Recorded


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stand-ins for streams and graphs that record their calls."""
    events: list[str] = []

    class Graph:
        def register_generator_state(self, generator: torch.Generator) -> None:
            events.append(f"register {generator.initial_seed()}")

        def replay(self) -> None:
            events.append("replay")

    class Stream:
        def __init__(self, device: Any = None) -> None:
            self.name = f"side of {device}"

        def wait_stream(self, other: Stream) -> None:
            events.append(f"{self.name} waits for {other.name}")

    main = Stream()
    main.name = "main"

    @contextlib.contextmanager
    def capture(graph: Graph, pool: Any, stream: Stream) -> Any:
        events.append(f"record into {pool} on {stream.name}")
        yield
        events.append("recorded")

    cuda = SimpleNamespace(
        CUDAGraph=Graph,
        Stream=Stream,
        current_stream=lambda device: main,
        stream=lambda stream: contextlib.nullcontext(),
        graph_pool_handle=lambda: "pool",
        device=lambda device: contextlib.nullcontext(),
        graph=capture,
    )
    monkeypatch.setattr(graphs.torch, "cuda", cuda)
    return events


def test_updates_run_eagerly_then_recorded_then_replayed(log: list[str]) -> None:
    ran: list[int] = []

    def update() -> dict[str, torch.Tensor]:
        log.append("update")
        ran.append(1)
        return {"loss": torch.tensor(float(len(ran)))}

    generator = torch.Generator().manual_seed(7)
    recorded = Recorded(update, [generator], torch.device("cuda:1"))
    for _ in range(EAGER_CALLS):
        recorded()
    # Each on a separate stream, ordered after and before all other work.
    side = "side of cuda:1"
    assert log == [f"{side} waits for main", "update", f"main waits for {side}"] * EAGER_CALLS
    log.clear()
    returned = recorded()
    # On the stream of the eager calls, the device's default.
    assert log == ["register 7", f"record into pool on {side}", "update", "recorded", "replay"]
    log.clear()
    assert recorded() is returned
    assert recorded() is returned
    assert log == ["replay", "replay"]
    assert len(ran) == EAGER_CALLS + 1
    assert recorded.calls == EAGER_CALLS + 3


def test_graphs_that_share_memory_share_the_stream(log: list[str]) -> None:
    place = graphs.shared_place(torch.device("cuda:1"))
    for _ in range(2):
        recorded = Recorded(lambda: {}, [], torch.device("cuda:1"), place)
        for _ in range(EAGER_CALLS + 1):
            recorded()
        assert recorded._stream is place[1]
    assert log.count("record into pool on side of cuda:1") == 2


def test_failed_recording_names_the_option_to_disable_it(log: list[str]) -> None:
    def update() -> dict[str, torch.Tensor]:
        if recorded.calls > EAGER_CALLS:
            raise RuntimeError("operation not permitted when stream is capturing\nmore of it")
        return {}

    recorded = Recorded(update, [], torch.device("cuda"))
    for _ in range(EAGER_CALLS):
        recorded()
    with pytest.raises(ConfigError, match=r"--training\.no-cuda-graphs .*is capturing\)$"):
        recorded()
