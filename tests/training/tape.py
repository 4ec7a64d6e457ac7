"""What a CUDA graph does, on any machine: operations noted once and repeated on the same memory."""

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
"""Operations that hand a number, or a shape made from numbers, back to the host."""

FREE = {"aten::detach", "aten::view", "aten::_unsafe_view", "aten::t", "aten::transpose",
        "aten::permute", "aten::expand", "aten::slice", "aten::select", "aten::unsqueeze",
        "aten::squeeze", "aten::split", "aten::unbind", "aten::alias", "aten::as_strided",
        "aten::empty", "aten::empty_like", "aten::empty_strided", "aten::new_empty",
        "aten::chunk", "aten::split_with_sizes", "aten::lift_fresh"}  # fmt: skip
"""Operations that launch nothing."""


class Watch(TorchDispatchMode):
    """Notes the name of every operation."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func._schema.name)
        return func(*args, **(kwargs or {}))

    @property
    def looks(self) -> list[str]:
        """Names of those that make the host wait for a number."""
        return [name for name in self.names if name in LOOKS]

    @property
    def launches(self) -> int:
        """Number of those that compute or copy."""
        return sum(name not in FREE for name in self.names)


class Tape(TorchDispatchMode):
    """Notes operations with their tensors; :meth:`replay` repeats them, on the same memory.

    As with a CUDA graph nothing of Python runs again: numbers of the host are those of the day of
    the recording, and only what tensors hold can differ.
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
        """Run ``function`` once and note what it does."""
        with cls() as tape:
            returned = function()
        return tape, returned

    @torch.no_grad()
    def replay(self) -> None:
        """Repeat everything that was noted."""
        for func, args, kwargs, outs in self.entries:
            for old, new in zip(outs, pytree.tree_leaves(func(*args, **kwargs)), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)
