"""Whole updates captured as CUDA graphs and replayed.

An update launches a few thousand small kernels; launched one by one from Python, they leave a GPU
idle. A CUDA graph launches all of them at once. It needs no Triton and no compiler, replays the
kernels of the eager update, and does not change modules, parameters or their names.

What is recorded must do all its work on the device, on tensors that stay where they are, with
shapes that do not change, and must not look at a number: see :mod:`drama.ops.dispatch`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from drama.errors import ConfigError

EAGER_CALLS = 3
"""Eager calls before recording, in which libraries select kernels and allocate memory."""

Update = Callable[[], dict[str, Tensor]]


class Recorded:
    """Runs an update eagerly a few times, records it, and replays it from then on.

    Every call is one update, the first ones and the one that records included. The tensors that
    a replay returns are the same at each call: read them before this or any other recording of the
    same pool runs again.

    Args:
        update: Takes nothing, returns scalars for the log. All its state is in tensors, and random
            numbers come from ``generators``.
        generators: Sources of randomness that it draws from.
        device: The CUDA device.
        shared: Memory pool and stream, shared with other recordings that are replayed in a fixed
            order with this one, from :func:`shared_place`; its own if None.

    Raises:
        ConfigError: At the recording: the update does what cannot be recorded.
    """

    def __init__(
        self,
        update: Update,
        generators: Iterable[torch.Generator],
        device: torch.device,
        shared: tuple[Any, Any] | None = None,
    ) -> None:
        self.update = update
        self.generators = tuple(generators)
        self.device = device
        self.calls = 0
        # One stream for eager calls and recording: library workspaces and freed memory are kept
        # per stream. By default PyTorch records on one stream per process, on the device that
        # recorded first.
        self._pool, self._stream = shared or shared_place(device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._returned: dict[str, Tensor] = {}

    def __call__(self) -> dict[str, Tensor]:
        """Make one update."""
        self.calls += 1
        if self._graph is None and self.calls <= EAGER_CALLS:
            return self._eagerly()
        if self._graph is None:
            self._graph = self._record()
        self._graph.replay()
        return self._returned

    def _eagerly(self) -> dict[str, Tensor]:
        current = torch.cuda.current_stream(self.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            metrics = self.update()
        current.wait_stream(self._stream)
        return metrics

    def _record(self) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        for generator in self.generators:
            graph.register_generator_state(generator)
        # Nothing is computed here, so the replay that follows is the first run of what is recorded.
        try:
            with (
                torch.cuda.device(self.device),
                torch.cuda.graph(graph, pool=self._pool, stream=self._stream),
            ):
                self._returned = self.update()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            said = str(error).strip().splitlines() or [type(error).__name__]
            raise ConfigError(
                "an update could not be recorded as a CUDA graph: it synchronises with the host, "
                "perhaps in a sequence model of another package; "
                f"--training.no-cuda-graphs disables graphs ({said[0]})"
            ) from error
        return graph


def shared_place(device: torch.device) -> tuple[Any, Any]:
    """Return a memory pool and a stream for several recordings on one device.

    They then reuse each other's scratch memory, which requires a common stream.
    """
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    return torch.cuda.graph_pool_handle(), stream
