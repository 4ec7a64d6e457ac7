"""Agents of three kinds of observations, exported once."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
from tests.export.agents import made

from drama import Agent
from drama.export import export_onnx
from drama.runtime import OnnxAgent

ENVS = {"pixels": "drama/Catch-v0", "minatar": "MinAtar/Breakout-v1", "vector": "CartPole-v1"}


class Exported(NamedTuple):
    agent: Agent
    path: Path

    @property
    def onnx(self) -> OnnxAgent:
        return OnnxAgent(self.path, seed=0)


@pytest.fixture(scope="session", params=ENVS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    if request.param == "minatar":
        pytest.importorskip("minatar")
    path = tmp_path_factory.mktemp("onnx") / f"{request.param}.onnx"
    agent = made(ENVS[request.param])
    export_onnx(agent, path)
    return Exported(agent, path)
