"""A suite on a local Ray cluster: killed workers, interrupts."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import pytest
from tests.suite.suites import WALK, run_suite, tiny_spec, tiny_variant
from tests.suite.test_suite_command import PATIENCE, Process, episodes, in_use, start, wait_for
from tests.training.faulty_envs import Endless, env_id
from tests.training.runs import json_rows

from drama.cli import main
from drama.errors import ConfigError
from drama.suite import ray as ray_module
from drama.suite import read_suite
from drama.suite.layout import begin_suite, scan
from drama.suite.ray import PENDING, RayPool, RayRun, Worker
from drama.training.checkpoint import CheckpointDir

real = [
    pytest.mark.slow,
    pytest.mark.faults,
    pytest.mark.skipif(os.name == "nt", reason="signals work otherwise there"),
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra suite"),
]


def test_missing_ray_is_reported_in_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = ray_module.importlib.import_module

    def refuse(name: str, *more: Any) -> Any:
        if name.partition(".")[0] == "ray":
            raise ImportError(name)
        return original(name, *more)

    monkeypatch.setattr(ray_module.importlib, "import_module", refuse)
    directory = tmp_path / "suite"
    assert main(["suite", "run", "toy", "--dir", str(directory), "--ray"]) == 2
    err = capfd.readouterr().err
    assert err == "drama: error: --ray needs Ray: pip install ray\n"
    assert not directory.exists()


def test_ray_is_imported_on_demand_only() -> None:
    code = "import sys, drama.cli, drama.suite.ray; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_worker_starts_resumes_or_skips_a_run(tmp_path: Path) -> None:
    """Its action depends on the files only."""
    spec = tiny_spec()
    directory = tmp_path / "suite"
    key = ("one", WALK, 0)
    code, why = Worker().run(str(directory), spec.to_dict(), key, 1)
    assert code == 1
    assert "all nodes must share its storage" in why
    run_suite(directory, spec)
    before = (cell := read_suite(directory).cells[0]).log.exists()
    assert Worker().run(str(directory), spec.to_dict(), key, 1) == (0, "")
    (cell.path / "config.json").unlink()
    code, why = Worker().run(str(directory), spec.to_dict(), key, 1)
    assert code == 1
    assert "no config.json" in why
    assert cell.log.exists() == before  # no process was started


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:x"])
def test_missing_cluster_is_reported(
    address: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_module, "import_ray", lambda: None)
    directory = tmp_path / "suite"
    assert main(["suite", "run", "toy", "--dir", str(directory), "--ray", address]) == 2
    err = capfd.readouterr().err
    assert err.startswith(f"drama: error: cannot reach the Ray cluster {address}: ")
    assert err.count("\n") == 1
    assert not directory.exists()


def test_cluster_that_may_require_a_token_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> None:
        raise ConnectionError("Failed to connect\nat length")

    fake = types.SimpleNamespace(init=refuse)
    monkeypatch.setattr(ray_module, "import_ray", lambda: fake)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)

    def said() -> str:
        with pytest.raises(ConfigError) as caught:
            RayPool(tmp_path, tiny_spec(), "auto")
        return str(caught.value)

    assert said() == "cannot use the Ray cluster auto: Failed to connect"
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("secret")
    assert said().endswith("Failed to connect; if it requires a token, set RAY_AUTH_MODE=token")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert said() == "cannot use the Ray cluster auto: Failed to connect"


class FakeRay:
    """The part of Ray that a handle needs."""

    class exceptions:
        class RayError(Exception):
            pass

        class RayTaskError(RayError):
            cause = ValueError("no drama there")

    def __init__(self, outcome: Any) -> None:
        self.outcome = outcome
        self.killed: list[object] = []

    def wait(self, references: list[object], timeout: float) -> tuple[list[object], list[object]]:
        return (references, []) if references[0] == "there" else ([], references)

    def get(self, reference: object) -> Any:
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    def kill(self, actor: object) -> None:
        self.killed.append(actor)


@pytest.mark.parametrize(
    ("outcome", "code", "why"),
    [
        ((0, ""), 0, ""),
        ((2, "it said so"), 2, "it said so"),
        (FakeRay.exceptions.RayTaskError(), 1, "no drama there"),
        (FakeRay.exceptions.RayError("The actor died\nlong story"), -9, "The actor died"),
    ],
)
def test_outcome_of_a_run_on_the_cluster(outcome: Any, code: int, why: str) -> None:
    ray = FakeRay(outcome)
    run = RayRun(ray, "actor", "there", "there")
    assert run.poll() == code
    assert why in run.reason()
    assert ray.killed == ["actor"]  # its resources are free again
    assert run.poll() == code


def test_waiting_run_is_cancelled_by_stop() -> None:
    ray = FakeRay((0, ""))
    run = RayRun(ray, "actor", "pending", "pending")
    assert run.poll() is None
    assert not run.scheduled
    run.stop()
    assert ray.killed == ["actor"]
    assert run.poll() == 130


def pool(jobs: int | None = None, **resources: float) -> RayPool:
    """A pool on a simulated cluster."""
    made = object.__new__(RayPool)
    made._ray = FakeRay((0, ""))
    made._ray.cluster_resources = lambda: resources
    made._runs = []
    made.jobs = jobs
    return made


def test_each_run_gets_its_share_of_a_gpu() -> None:
    auto = tiny_spec(variants=(tiny_variant("one", {"device": "auto"}),))
    assert pool(GPU=2)._gpus(auto, None) == 1
    assert pool(GPU=2)._gpus(auto, 4) == 0.25
    assert pool(CPU=8)._gpus(auto, None) == 0
    assert pool(GPU=2)._gpus(tiny_spec(), None) == 0  # it requests the CPU
    for cluster, spec in ((pool(CPU=8), auto), (pool(GPU=2), tiny_spec())):
        with pytest.raises(ConfigError, match="--per-gpu"):
            cluster._gpus(spec, 2)


def test_number_of_waiting_runs_is_limited() -> None:
    cluster = pool()
    ray = cluster._ray
    waiting = [RayRun(ray, "actor", "pending", "pending") for _ in range(PENDING)]
    cluster._runs = waiting[:-1]
    assert cluster.has_capacity()
    cluster._runs = waiting
    assert not cluster.has_capacity()
    cluster._runs = [RayRun(ray, "actor", "pending", "there") for _ in range(5)]
    assert cluster.has_capacity()  # they are running
    cluster.jobs = 5
    assert not cluster.has_capacity()
    cluster._runs[0] = RayRun(ray, "actor", "there", "there")
    assert cluster.has_capacity()  # it has finished
    assert len(cluster._runs) == 4


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


class TestRay:
    pytestmark = real

    @pytest.fixture(autouse=True)
    def _not_nice(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # Ray's workers have low priority by default: on a busy machine they start after minutes.
        monkeypatch.setenv("RAY_worker_niceness", "0")

    def test_run_of_a_killed_worker_resumes_from_its_checkpoint(self, tmp_path: Path) -> None:
        changes = {"training.checkpoint_every": 30, "evaluation.episodes": 2}
        spec = tiny_spec(seeds=(0, 1, 2), variants=(tiny_variant("one", changes),), steps=400)
        (tmp_path / "spec.json").write_text(spec.to_json())
        directory, errors = tmp_path / "suite", tmp_path / "stderr"
        args = ["run", str(tmp_path / "spec.json"), "--dir", str(directory)]
        victim = scan(directory, spec)[0]
        with start(*args, "--ray", "--jobs", "2", errors=errors) as process:
            wait_for("the run", lambda: episodes(victim.path) >= 8, process)
            child = int((victim.path / ".lock").read_text())
            worker = int(Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[1])
            made = 7 * episodes(victim.path)
            os.kill(worker, signal.SIGKILL)
            assert process.wait(PATIENCE) == 0, errors.read_text()
        state = read_suite(directory)
        assert state.counts() == {"finished": 3}
        attempts = [line for line in victim.log.read_text().splitlines() if line.startswith("--- ")]
        assert len(attempts) == 2
        assert "--resume" in attempts[1]
        resumed = [
            line for line in victim.log.read_text().splitlines() if line.startswith("continuing")
        ]
        assert int(resumed[0].rpartition(" ")[2]) >= made
        steps = [row["step"] for row in json_rows(victim.path / "episodes.jsonl")]
        assert steps == list(range(7, 400, 7))
        # The others were not affected.
        for cell in state.cells[1:]:
            assert cell.log.read_text().count("--- 2") == 1

    def test_interrupted_suite_leaves_resumable_runs(self, tmp_path: Path) -> None:
        spec = tiny_spec(games=(env_id(Endless),), seeds=(0, 1), steps=10**6)
        (tmp_path / "endless.json").write_text(spec.to_json())
        directory, errors = tmp_path / "suite", tmp_path / "stderr"
        first = scan(directory, spec)[0]
        args = ["run", str(tmp_path / "endless.json"), "--dir", str(directory), "--jobs", "1"]
        with start(*args, "--ray", errors=errors) as process:
            wait_for("it", lambda: (first.path / "checkpoints" / "last").exists(), process)
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE) == 130, errors.read_text()
        assert f"continue with: drama suite run {directory}" in errors.read_text()
        wait_for("its end", lambda: not in_use(first.path))
        one, other = read_suite(directory).cells
        assert (one.status, one.resumable) == ("interrupted", True)
        assert one.step == CheckpointDir(first.path).last().step > 0
        assert "saved at step" in one.log.read_text()
        assert other.status == "missing"

    def test_existing_cluster_is_used_by_its_address(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # A GPU declared to Ray is used, whether PyTorch finds it or not.
        spec = tiny_spec(seeds=(0, 1), variants=(tiny_variant("one", {"device": "auto"}),))
        (tmp_path / "spec.json").write_text(spec.to_json())
        with contextlib.ExitStack() as held:
            free = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
            port, clients = (server.getsockname()[1] for server in free)
        # Disable tokens, so that a token of this machine is not required.
        monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
        monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # A separate directory from other clusters of this machine; sockets need short paths.
        with (
            tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as sockets,
            (tmp_path / "head").open("wb") as log,
            Process(
                [
                    *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
                    *(
                        f"--port={port}",
                        "--num-cpus=2",
                        "--num-gpus=1",
                        "--include-dashboard=false",
                    ),
                    *(f"--ray-client-server-port={clients}", f"--temp-dir={sockets}"),
                ],
                stdout=log,
                stderr=log,
            ) as head,
        ):
            try:
                wait_for("the cluster", lambda: answers(port), head)
                args = ["run", str(tmp_path / "spec.json"), "--dir", str(tmp_path / "suite")]
                errors = tmp_path / "stderr"
                args += ["--ray", f"127.0.0.1:{port}", "--per-gpu", "2"]
                with start(*args, errors=errors) as process:
                    assert process.wait(PATIENCE) == 0, errors.read_text()
            finally:
                head.terminate()  # and its children, which a kill would leave running
                head.wait(PATIENCE)
        said = errors.read_text()
        assert f"on Ray (127.0.0.1:{port}), 1 CPU and 0.5 GPU each" in said
        # Both share one GPU: both start before either has finished.
        assert said.count("starts (Ray)") == 2
        assert said.rindex("starts (Ray)") < said.index(" finished in ")
        assert read_suite(tmp_path / "suite").counts() == {"finished": 2}

    def test_more_cores_than_any_node_has_is_refused(self, tmp_path: Path) -> None:
        begin_suite(tmp_path / "suite", tiny_spec())
        args = ["run", str(tmp_path / "suite"), "--ray", "--cpus", "4096"]
        with start(*args, errors=tmp_path / "stderr") as process:
            assert process.wait(PATIENCE) == 2
        assert "--cpus 4096: no node" in (tmp_path / "stderr").read_text().splitlines()[-1]
