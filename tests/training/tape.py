"""A CUDA graph on any machine: operations recorded once and replayed on the same memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

LOOKS = {
    "aten::_local_scalar_dense",
    "aten::item",
    "aten::nonzero",
    "aten::masked_select",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::equal",
    "aten::is_nonzero",
}
"""Operations that return a value, or a shape that depends on values, to the host."""

FREE = {"aten::detach", "aten::view", "aten::_unsafe_view", "aten::t", "aten::transpose",
        "aten::permute", "aten::expand", "aten::slice", "aten::select", "aten::unsqueeze",
        "aten::squeeze", "aten::split", "aten::unbind", "aten::alias", "aten::as_strided",
        "aten::empty", "aten::empty_like", "aten::empty_strided", "aten::new_empty",
        "aten::chunk", "aten::split_with_sizes", "aten::lift_fresh"}  # fmt: skip
"""Operations that launch nothing."""


class Watch(TorchDispatchMode):
    """Records the name of every operation."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func._schema.name)
        return func(*args, **(kwargs or {}))

    @property
    def looks(self) -> list[str]:
        """Names of the operations that synchronise."""
        return [name for name in self.names if name in LOOKS]

    @property
    def launches(self) -> int:
        """Number of operations that compute or copy."""
        return sum(name not in FREE for name in self.names)


class Tape(TorchDispatchMode):
    """Records operations with their tensors; :meth:`replay` repeats them on the same memory.

    As with a CUDA graph, no Python code runs again: host numbers keep their recorded values, only
    tensor contents change.
    """

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[tuple[Any, Any, Any, list[Any]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        assert func._schema.name not in LOOKS, f"{func} looks at a number"
        out = func(*args, **kwargs)
        self.entries.append((func, args, kwargs, pytree.tree_leaves(out)))
        return out

    @classmethod
    def record(cls, function: Callable[[], Any]) -> tuple[Tape, Any]:
        """Run ``function`` once and record its operations."""
        with cls() as tape:
            returned = function()
        return tape, returned

    @torch.no_grad()
    def replay(self) -> None:
        """Repeat the recorded operations."""
        for func, args, kwargs, outs in self.entries:
            for old, new in zip(outs, pytree.tree_leaves(func(*args, **kwargs)), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)
