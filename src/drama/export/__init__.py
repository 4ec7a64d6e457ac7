"""Export of trained agents: an acting step for ONNX Runtime or PyTorch, a dream for a web page."""

from typing import TYPE_CHECKING

from drama.attributes import lazy

if TYPE_CHECKING:
    from drama.export.acting import export_onnx, export_torch
    from drama.export.web import export_web

__all__ = ["export_onnx", "export_torch", "export_web"]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "drama.export.acting": ("export_onnx", "export_torch"),
            "drama.export.web": ("export_web",),
        },
    )
