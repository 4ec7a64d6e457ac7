"""ONNX files of PyTorch modules."""

from __future__ import annotations

import contextlib
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from drama.errors import ConfigError
from drama.text import first_line

OPSET = 20
"""Version of ONNX's operators."""


@dataclass(frozen=True)
class Graph:
    """A module, example inputs, and the names of its inputs and outputs."""

    module: nn.Module
    inputs: Mapping[str, Tensor]
    """Examples by name, in the order of the module's arguments."""
    outputs: Sequence[str]
    defaults: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    """Values of inputs that need not be given."""

    def program(self) -> torch.export.ExportedProgram:
        """Trace the module.

        Raises:
            ConfigError: It cannot be traced.
        """
        self.module.eval()
        with torch.no_grad(), _traced():
            return torch.export.export(self.module, tuple(self.inputs.values()), strict=False)

    def decomposed(self) -> torch.export.ExportedProgram:
        """Trace the module to core operators; autocast regions would not be read back.

        Raises:
            ConfigError: It cannot be traced.
        """
        program = self.program()
        with torch.no_grad(), _traced():
            core: torch.export.ExportedProgram = program.run_decompositions({})
        return core

    def onnx(self, metadata: Mapping[str, Any]) -> bytes:
        """Return the ONNX file.

        Args:
            metadata: JSON under the key ``drama`` of the file.

        Raises:
            ConfigError: The extra ``onnx`` is missing, or the model cannot be translated.
        """
        require_onnx()
        import onnx

        program = self.program()
        with torch.no_grad(), _traced():
            translated = torch.onnx.export(
                program,
                dynamo=True,
                input_names=list(self.inputs),
                output_names=list(self.outputs),
                opset_version=OPSET,
                external_data=False,
                verbose=False,
            )
        assert translated is not None
        model = translated.model_proto
        for name, value in self.defaults.items():
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
        model.producer_name, model.doc_string = "drama", ""
        for node in model.graph.node:  # stack traces of this machine
            node.doc_string = ""
            del node.metadata_props[:]
        del model.metadata_props[:]
        del model.graph.metadata_props[:]
        for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
            del value.metadata_props[:]
        entry = model.metadata_props.add()
        entry.key, entry.value = "drama", json.dumps(metadata)
        return bytes(model.SerializeToString())


def require_onnx() -> None:
    """Raise a :class:`ConfigError` unless the packages that write ONNX files are installed."""
    try:
        import onnx
        import onnxscript
    except ImportError as error:
        raise ConfigError(
            f"ONNX files need the extra 'onnx' ({error.name} is missing): "
            "pip install onnx onnxscript onnxruntime"
        ) from error
    del onnx, onnxscript


@contextlib.contextmanager
def _traced() -> Iterator[None]:
    """Silence PyTorch's warnings about itself; report a failure in one line."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:
        raise ConfigError(f"the model cannot be exported: {first_line(error)}") from error
    finally:
        logger.setLevel(level)
