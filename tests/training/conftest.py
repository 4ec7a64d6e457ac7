"""The fork server that runs killed trainings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import drama

ROOT = Path(__file__).parents[2]

Forks = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """Run a training in a separate process; return how it ended."""
    if not hasattr(os, "fork"):
        pytest.skip("needs fork()")
    source = str(Path(drama.__file__).parents[1])
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    env["PYTHONPATH"] = os.pathsep.join([source, str(ROOT), env.get("PYTHONPATH", "")])
    errors = (tmp_path_factory.mktemp("forks") / "stderr").open("w+")
    with (
        errors,
        subprocess.Popen(
            [sys.executable, "-m", "tests.training.forks"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=env,
            cwd=errors.name.rpartition("/")[0],
        ) as server,
    ):
        assert server.stdin is not None
        assert server.stdout is not None

        def ask(do: str, run_dir: Path, **request: Any) -> dict[str, Any]:
            full = {"do": do, "run_dir": str(run_dir), **request}
            server.stdin.write(json.dumps(full, default=str) + "\n")
            server.stdin.flush()
            line = server.stdout.readline()
            if not line:
                errors.seek(0)
                pytest.fail("the fork server died: " + errors.read()[-2000:])
            answer: dict[str, Any] = json.loads(line)
            return answer

        yield ask
        server.stdin.close()
