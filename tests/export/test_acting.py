"""Exported acting steps: equal to the agent's, without PyTorch, and clear errors."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from tests.export.agents import made
from tests.export.conftest import Exported
from tests.training.runs import tiny

from drama import Agent
from drama.behaviour.acting import ActingNumbers
from drama.errors import CheckpointError, ConfigError, EnvError, RunDirError
from drama.export import export_onnx, export_torch, export_web
from drama.export.acting import acting_graph
from drama.export.modules import flat_state, unflatten
from drama.export.output import new_directory, write_new
from drama.runtime import OnnxAgent, OnnxState

STEPS = 500


def test_onnx_agent_acts_as_the_agent_over_500_steps(exported: Exported) -> None:
    agent, other = exported.agent, exported.onnx
    env = agent.new_env(0)
    obs, _ = env.reset()
    state, own, start = None, None, np.ones(1, bool)
    taken = set()
    for step in range(STEPS):
        action, state = agent.predict(obs, state, start, deterministic=True)
        mine, own = other.predict(obs, own, start, deterministic=True)
        assert mine == action, step
        assert mine.dtype == action.dtype
        for a, b in zip(flat_state(state), own.tensors, strict=True):
            np.testing.assert_allclose(a.numpy(), b, rtol=1e-3, atol=1e-4)
        taken.add(int(action))
        obs, _, terminated, truncated, _ = env.step(action)
        start = np.array([terminated or truncated])
        if start[0]:
            obs, _ = env.reset()
    assert len(taken) > 1, "a constant policy shows nothing"


def test_raw_observations_and_batches(exported: Exported) -> None:
    agent, other = exported.agent, exported.onnx
    raw = agent.env.unwrapped
    rng = np.random.default_rng(0)
    space = raw.observation_space
    space.seed(0)
    if isinstance(space, gym.spaces.Box) and not space.is_bounded("both"):
        batch = rng.normal(size=(3, *space.shape)).astype(space.dtype)
    else:
        batch = np.stack([space.sample() for _ in range(3)])
    if batch.dtype == np.float32 and batch.shape[1:] == (4,):
        batch = np.clip(batch, -2, 2)
    expected, state = agent.predict(batch, deterministic=True)
    found, own = other.predict(batch, deterministic=True)
    np.testing.assert_array_equal(found, expected)
    # The second environment starts a new episode, the others continue.
    start = np.array([False, True, False])
    expected, _ = agent.predict(batch[::-1].copy(), state, start, deterministic=True)
    found, again = other.predict(batch[::-1].copy(), own, start, deterministic=True)
    np.testing.assert_array_equal(found, expected)
    alone, fresh = other.predict(batch[1], deterministic=True)
    assert alone == found[1]
    for a, b in zip(again.tensors, fresh.tensors, strict=True):
        np.testing.assert_array_equal(a[1], b[0])


def test_sampled_actions_follow_the_given_numbers(exported: Exported) -> None:
    agent, other = exported.agent, exported.onnx
    graph = acting_graph(agent)
    rng = np.random.default_rng(1)
    env = agent.new_env(0)
    obs, _ = env.reset()
    state = [tensor for name, tensor in graph.inputs.items() if name.startswith("state.")]
    first, seen = True, set()
    for _ in range(40):
        uniform = rng.random(other.metadata["numbers"], dtype=np.float32)
        with torch.no_grad():
            action, *after = graph.module(
                torch.from_numpy(obs)[None],
                torch.tensor([first]),
                torch.from_numpy(uniform),
                torch.tensor([False]),
                *state,
            )
        names = [entry["name"] for entry in other.metadata["state"]]
        feeds = {"obs": obs[None], "is_first": np.array([first]), "greedy": np.zeros(1, bool)}
        feeds |= {"uniform": uniform}
        feeds |= {name: tensor.numpy() for name, tensor in zip(names, state, strict=True)}
        found, *_ = other._session.run(None, feeds)
        assert found.tolist() == action.tolist()
        state, first = after, False
        seen.add(int(action))
        obs, _, terminated, truncated, _ = env.step(int(action))
        if terminated or truncated:
            obs, _ = env.reset()
    assert len(seen) > 1
    draws = [exported.onnx.predict(obs)[0] for _ in range(2)]
    assert draws[0] == draws[1], "one seed, one action"


def test_acting_with_one_generator_is_as_with_four() -> None:
    agent = made("drama/Catch-v0", {"behaviour.lookahead": 2})
    obs, _ = agent.new_env(0).reset()
    batch = torch.from_numpy(obs)[None]
    results = []
    for separate in (False, True):
        generator = torch.Generator().manual_seed(5)
        given = ActingNumbers(generator, generator, generator, generator)
        state = agent.player.init_state(1)
        is_first, actions = torch.ones(1, dtype=torch.bool), []
        for _ in range(20):
            action, state = agent.player.act(
                batch, state, is_first, given if separate else generator
            )
            actions.append(int(action))
            is_first = torch.zeros(1, dtype=torch.bool)
        results.append(actions)
    assert results[0] == results[1]


def test_exported_lookahead_equals_that_of_the_player() -> None:
    agent = made("drama/Catch-v0", {"behaviour.lookahead": 3, "behaviour.entropy": 0.3})
    graph = acting_graph(agent)
    variables = agent.world_model.latent_variables
    generator = torch.Generator().manual_seed(2)
    uniform = torch.rand(5 * variables + 1, generator=generator)
    obs = torch.from_numpy(agent.new_env(0).reset()[0])[None]
    state = agent.player.init_state(1)
    first = torch.tensor([True])
    found, *after = graph.module(obs, first, uniform, torch.tensor([False]), *flat_state(state))
    numbers = ActingNumbers(
        uniform[:variables].view(1, -1, 1),
        uniform[variables : 2 * variables].view(1, -1, 1),
        uniform[2 * variables : 5 * variables].view(3, -1, 1),
        uniform[-1:].view(1, 1),
    )
    action, expected = agent.player.act(obs, state, first, numbers)
    assert found.tolist() == action.tolist()
    for a, b in zip(flat_state(unflatten(state, after)), flat_state(expected), strict=True):
        torch.testing.assert_close(a, b)


def test_runtime_needs_neither_torch_nor_gymnasium(exported: Exported) -> None:
    space = exported.agent.observation_space
    obs = np.zeros((1, *(space.shape or ())), space.dtype)
    script = f"""
import sys
BLOCKED = ("torch", "gymnasium", "cv2", "ale_py", "safetensors", "onnx", "onnxscript", "rich")
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Block())
import numpy as np
from drama.runtime import OnnxAgent
agent = OnnxAgent({str(exported.path)!r})
obs = np.zeros({obs.shape}, {str(obs.dtype)!r})
action, state = agent.predict(obs, deterministic=True)
action, state = agent.predict(obs, state, np.zeros(1, bool), deterministic=True)
assert not set(BLOCKED) & {{name.split(".")[0] for name in sys.modules}}
print(action.tolist())
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    _, state = exported.agent.predict(obs, deterministic=True)
    expected, _ = exported.agent.predict(obs, state, np.zeros(1, bool), deterministic=True)
    assert json.loads(done.stdout) == expected.tolist()


def test_the_file_describes_itself(exported: Exported) -> None:
    metadata = exported.onnx.metadata
    assert metadata["env"] == exported.agent.config.env.id
    assert metadata["greedy"] is True
    inputs = {entry.name for entry in exported.onnx._session.get_inputs()}
    assert inputs == {"obs", "is_first", *(entry["name"] for entry in metadata["state"])}
    text = exported.path.read_bytes()
    assert b"site-packages" not in text, "no paths of this machine"
    assert str(Path.cwd()).encode() not in text


def test_wrong_arguments_are_named(exported: Exported) -> None:
    other = exported.onnx
    space = exported.agent.observation_space
    obs = np.zeros((2, *(space.shape or ())), space.dtype)
    with pytest.raises(EnvError, match="does not fit"):
        other.predict(np.zeros((1, 2, 3, 4, 5)))
    with pytest.raises(EnvError, match="state must be what the last call returned"):
        other.predict(obs, (1, 2))  # type: ignore[arg-type]
    _, state = other.predict(obs)
    with pytest.raises(EnvError, match="state is of 2 environments, not 1"):
        other.predict(obs[:1], state)
    with pytest.raises(EnvError, match="episode_start has 3 entries for 2"):
        other.predict(obs, state, np.zeros(3, bool))
    assert isinstance(state, OnnxState)


def test_other_files_are_refused(exported: Exported, tmp_path: Path) -> None:
    import onnx

    with pytest.raises(CheckpointError, match="is missing"):
        OnnxAgent(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(CheckpointError, match="it is not an ONNX file"):
        OnnxAgent(tmp_path / "text.onnx")
    model = onnx.load(exported.path)
    entry = model.metadata_props[0]
    entry.value = json.dumps({**json.loads(entry.value), "format": 99, "drama": "9.9"})
    onnx.save(model, tmp_path / "newer.onnx")
    with pytest.raises(CheckpointError, match=r"format 99, written by drama 9.9; .* format 1"):
        OnnxAgent(tmp_path / "newer.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "foreign.onnx")
    with pytest.raises(CheckpointError, match="was not written by `drama export --onnx`"):
        OnnxAgent(tmp_path / "foreign.onnx")


def test_program_for_pytorch_acts_as_the_agent(tmp_path: Path) -> None:
    agent = made("CartPole-v1")
    path = tmp_path / "agent.pt2"
    export_torch(agent, path)
    script = f"""
import sys
sys.modules["drama"] = None
import json, torch
files = {{"drama.json": ""}}
program = torch.export.load({str(path)!r}, extra_files=files)
metadata = json.loads(files["drama.json"])
state = [torch.zeros(e["shape"], dtype=getattr(torch, e["dtype"])) for e in metadata["state"]]
module, actions, first = program.module(), [], True
for i in range(30):
    obs = torch.tensor([[0.1 * (i % 7), -0.2, 0.05 * (i % 3), 0.3]])
    uniform = torch.full((metadata["numbers"],), 0.5)
    action, *state = module(obs, torch.tensor([first]), uniform, torch.tensor([True]), *state)
    actions.append(int(action))
    first = False
print(json.dumps(actions))
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    state, expected = None, []
    for i in range(30):
        obs = np.array([0.1 * (i % 7), -0.2, 0.05 * (i % 3), 0.3], np.float32)
        action, state = agent.predict(obs, state, deterministic=True)
        expected.append(int(action))
    assert json.loads(done.stdout) == expected
    with pytest.raises(RunDirError, match="exists: remove it"):
        export_torch(agent, path)


def test_observations_of_classes_or_several_leaves_are_refused(tmp_path: Path) -> None:
    agent = Agent("FrozenLake-v1", tiny(), seed=0)
    for export in (export_onnx, export_torch, export_web):
        with pytest.raises(ConfigError, match="one image or one vector, not one-hot 1 of 16"):
            export(agent, tmp_path / "file")
    assert not list(tmp_path.iterdir())


def test_failed_writes_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def begin(path: Path) -> None:
        with new_directory(path) as found:
            (found / "a").write_text("begun")
            (found / "b").write_bytes(b"")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match="No space left"):
            write_new(tmp_path / "file", b"data")
        with pytest.raises(OSError, match="No space left"):
            begin(tmp_path / "dir")
    assert list(tmp_path.iterdir()) == []
    with new_directory(tmp_path / "dir") as found:
        (found / "a").write_text("whole")
    write_new(tmp_path / "file", b"data")
    assert (tmp_path / "dir" / "a").read_text() == "whole"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dir", "file"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mamba1", "transformer", "gru"])
@pytest.mark.parametrize("context", ["previous", "current"])
def test_every_sequence_model_is_exported(name: str, context: str, tmp_path: Path) -> None:
    from drama.export import export_onnx

    changes = {"world_model.dynamics.name": name, "behaviour.policy_context": context}
    agent: Agent = made("drama/Catch-v0", changes)
    export_onnx(agent, tmp_path / "a.onnx")
    other = OnnxAgent(tmp_path / "a.onnx")
    env = agent.new_env(0)
    obs, _ = env.reset()
    state, own = None, None
    for _ in range(60):
        action, state = agent.predict(obs, state, deterministic=True)
        mine, own = other.predict(obs, own, deterministic=True)
        assert mine == action
        obs, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            obs, _ = env.reset()
