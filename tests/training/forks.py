"""A server that runs training in forked children, so that they can be killed.

Reads one JSON request per line and answers with how the child ended. Forking saves the import time
of each child.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from tests.faults.disk import fault
from tests.training.runs import tiny

from drama import Agent, files
from drama.config import OptimConfig
from drama.replay import ReplayBuffer
from drama.training.learner import Learner
from drama.training.metrics import JsonLines
from drama.training.optim import Optimiser
from drama.training.stream import EnvStream
from drama.training.trainer import Trainer

PLACES: dict[str, tuple[type, str]] = {
    "collect": (Trainer, "collect"),
    "sample": (ReplayBuffer, "sample_with_ends"),
    "env": (EnvStream, "step"),
    "world model": (Learner, "update_world_model"),
    "optimiser": (Optimiser, "step"),
    "behaviour": (Learner, "update_behaviour"),
    "flush": (Trainer, "flush_metrics"),
    "log": (JsonLines, "write"),
}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at(place: str, call: int, after: bool) -> None:
    """Arrange for SIGKILL right before or right after the ``call``-th call of a method."""
    owner, name = PLACES[place]
    original, count = getattr(owner, name), 0

    def method(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        if count == call and not after:
            die()
        result = original(*args, **kwargs)
        if count == call:
            die()
        return result

    setattr(owner, name, method)


def kill_at_disk_operation(k: int, torn: bool) -> None:
    """Arrange for SIGKILL before the ``k``-th disk operation, or halfway through a write."""
    count = 0

    def wrapped(
        original: Callable[..., Any], tear: Callable[..., Any] | None = None
    ) -> Callable[..., Any]:
        def operation(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == k:
                if torn and tear is not None:
                    tear(*args, **kwargs)
                die()
            return original(*args, **kwargs)

        return operation

    def half_file(tensors: Any, path: str) -> None:
        save_file(tensors, path)
        os.truncate(path, os.path.getsize(path) // 2)

    def half_text(path: Path, text: str) -> None:
        create_text(path, text[: len(text) // 2])

    save_file, create_text = safetensors.torch.save_file, files._create_text
    if not torn:
        # (Not fsync: a kill leaves the same files before it and after it.)
        for name in ("replace", "unlink", "rmdir", "mkdir", "ftruncate"):
            setattr(os, name, wrapped(getattr(os, name)))
    safetensors.torch.save_file = wrapped(save_file, half_file)
    files._create_text = wrapped(create_text, half_text)


def sweep_save(step: int, cases: Path) -> None:
    """Kill the checkpoint of ``step`` at every disk operation, each in a copy of the run."""
    original = Trainer.save

    def save(trainer: Trainer) -> None:
        if trainer.step == step and trainer._saved_at != step:
            assert trainer.run_dir is not None
            for torn in (False, True):
                for k in range(1, 1000):
                    case = cases / f"{'torn' if torn else 'before'}-{k:03d}"
                    shutil.copytree(trainer.run_dir, case)
                    if not in_child(partial(save_in, trainer, case, k, torn)):
                        shutil.rmtree(case)  # not killed: there is no k-th operation
                        break
        original(trainer)

    def save_in(trainer: Trainer, case: Path, k: int, torn: bool) -> None:
        assert trainer.checkpointer is not None
        trainer.checkpointer.run_dir = trainer.run_dir = case
        trainer.checkpointer.directory.path = case / "checkpoints"
        trainer.checkpointer.store.directory = case / "replay"
        kill_at_disk_operation(k, torn)
        original(trainer)

    Trainer.save = save  # type: ignore[method-assign]


def sweep_load(run_dir: Path, cases: Path) -> None:
    """Kill a resume at every disk operation up to its first step."""

    def resume(case: Path, k: int) -> None:
        agent = Agent.load(case)
        kill_at_disk_operation(k, False)
        agent.learn(1, lambda *_: os._exit(0))

    for k in range(1, 1000):
        case = cases / f"load-{k:03d}"
        shutil.copytree(run_dir, case)
        if not in_child(partial(resume, case, k)):
            shutil.rmtree(case)
            break


def in_child(action: Callable[[], None]) -> bool:
    """Run ``action`` in a fork; return whether it was killed."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            action()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.WEXITSTATUS(status) == 0, "the child failed: see standard error"
    return False


def handle(request: dict[str, Any]) -> None:
    with fault(*request["fault"]) if "fault" in request else contextlib.nullcontext():
        _handle(request)


def _handle(request: dict[str, Any]) -> None:
    run_dir = Path(request["run_dir"])
    if "kill" in request:
        kill_at(*request["kill"])
    if "kill_disk" in request:
        kill_at_disk_operation(*request["kill_disk"])
    if "sweep_save" in request:
        sweep_save(request["sweep_save"], Path(request["cases"]))
    if request["do"] == "train":
        agent = Agent(request["env"], tiny(request.get("config")), seed=request.get("seed", 0))
        agent.learn(request["steps"], run_dir=run_dir)
    elif request["do"] == "resume":
        agent = Agent.load(run_dir)
        agent.learn(request["until"] - agent.num_timesteps)
    elif request["do"] == "sweep_load":
        sweep_load(run_dir, Path(request["cases"]))


def main() -> None:
    torch.set_num_threads(1)
    # The first optimiser takes seconds to import. (A backward pass here would break the forks.)
    Optimiser([("weight", torch.nn.Parameter(torch.zeros(1)))], OptimConfig())
    for line in sys.stdin:
        request = json.loads(line)
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(read)
            try:
                handle(request)
            except BaseException as error:
                os.write(write, f"{type(error).__name__}: {error}".encode())
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        os.close(write)
        if "kill_after" in request:
            time.sleep(request["kill_after"])
            os.kill(pid, signal.SIGKILL)  # a finished child exists until it is waited for
        with os.fdopen(read, "rb") as pipe:
            error = pipe.read().decode()
        _, status = os.waitpid(pid, 0)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        print(json.dumps({"killed": killed, "error": error}), flush=True)


if __name__ == "__main__":
    main()
