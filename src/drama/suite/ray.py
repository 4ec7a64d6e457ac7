"""Runs of a suite on a Ray cluster whose nodes share the suite's storage.

Each run is an actor with one ``drama train`` process. Its state lies in files only, so Ray may
restart it on another node at any time: it resumes from the last checkpoint.
"""

from __future__ import annotations

import importlib
import os
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drama.errors import ConfigError, RunDirError
from drama.suite.layout import Cell, is_suite, read_cell
from drama.suite.local import check_counts, cores
from drama.suite.process import RunProcess, prepare
from drama.suite.runner import LOCK_SECONDS
from drama.suite.spec import SuiteSpec
from drama.text import first_line
from drama.training.rundir import InUseError

RETRIES = 3
"""Restarts of a run after losing its worker or node."""
PENDING = 2
"""Maximum number of runs waiting for resources: enough demand for an autoscaler."""
CONNECT_SECONDS = 10.0
"""Timeout of the connection to a cluster."""
LOST = -9
"""Exit code of a run whose worker was lost permanently."""


def import_ray() -> Any:
    """Import the module ``ray``.

    Raises:
        ConfigError: Ray is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # of a local Ray
    # Silences a deprecation warning for runs without a GPU.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise ConfigError("--ray needs Ray: pip install ray") from error


def _check_reachable(address: str) -> None:
    """Check that the address accepts connections: Ray itself retries for minutes."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if not colon:
        return  # auto or local
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        raise ConfigError(f"cannot reach the Ray cluster {address}: {error}") from error


def _hint() -> str:
    """Return a hint for a cluster that refuses the connection.

    ``ray start`` requires a token if the machine has one, and a local Ray creates one; clients send
    it only with RAY_AUTH_MODE=token.
    """
    if "RAY_AUTH_MODE" in os.environ or not (Path.home() / ".ray" / "auth_token").is_file():
        return ""
    return "; if it requires a token, set RAY_AUTH_MODE=token"


class Worker:
    """Actor on a node: executes one run until it ends or is stopped."""

    def __init__(self) -> None:
        self._stop = threading.Event()

    def ready(self) -> str:
        """Return the node's name, once the actor is scheduled."""
        return socket.gethostname()

    def stop(self) -> None:
        """Make the run save and stop after the current step."""
        self._stop.set()

    def run(
        self, directory: str, tree: Mapping[str, Any], key: tuple[str, str, int], threads: int
    ) -> tuple[int, str]:
        """Start or continue a run, and wait until it ends.

        Args:
            directory: Directory of the suite.
            tree: Spec of the suite.
            key: Variant, game and seed.
            threads: CPU threads.

        Returns:
            Exit code and reason of failure.
        """
        if not is_suite(Path(directory)):
            node = socket.gethostname()
            return 1, f"{directory} does not exist on {node}: all nodes must share its storage"
        spec = SuiteSpec.from_dict(tree)
        variant, game, seed = key
        since = time.monotonic()
        while True:
            cell = read_cell(Path(directory), spec, spec.variant(variant), game, seed)
            if cell.status == "finished":
                return 0, ""
            if not cell.resumable:
                return 1, cell.reason
            try:
                prepare(cell)
                break
            except InUseError as error:
                # The process of a lost worker may still save.
                if self._stop.is_set() or time.monotonic() - since > LOCK_SECONDS:
                    return (130 if self._stop.is_set() else 1), str(error)
                time.sleep(0.5)
            except RunDirError as error:
                return 1, str(error)
        process = RunProcess(cell, threads)
        stopping = False
        while (code := process.poll()) is None:
            if self._stop.wait(0.0 if stopping else 0.2) and not stopping:
                stopping = True
                process.stop()
            elif stopping:
                time.sleep(0.2)
        return code, process.reason()


class RayRun:
    """Handle of a run on the cluster.

    Args:
        ray: The module ``ray``.
        actor: A `Worker`.
        run: Reference to the result of its ``run``.
        ready: Reference to the result of its ``ready``.
    """

    where = "Ray"

    def __init__(self, ray: Any, actor: Any, run: Any, ready: Any) -> None:
        self._ray = ray
        self._actor = actor
        self._run = run
        self._ready = ready
        self._scheduled = False
        self._result: tuple[int, str] | None = None

    @property
    def scheduled(self) -> bool:
        """Whether it is or was scheduled on the cluster."""
        if not self._scheduled:
            self._scheduled = self._result is not None or self._is_ready(self._ready)
        return self._scheduled

    def _is_ready(self, reference: Any) -> bool:
        return bool(self._ray.wait([reference], timeout=0)[0])

    def poll(self) -> int | None:
        """Return the exit code (negative for a signal), or None while it runs."""
        if self._result is None and self._is_ready(self._run):
            try:
                self._result = self._ray.get(self._run)
            except self._ray.exceptions.RayTaskError as error:
                self._result = (
                    1,
                    str(error.cause),
                )  # such as a missing drama
            except self._ray.exceptions.RayError as error:
                self._result = LOST, f"its worker was lost ({first_line(error)})"
            self._ray.kill(self._actor)  # releases its resources
        return None if self._result is None else self._result[0]

    def stop(self) -> None:
        """Ask it to save and stop after the current step."""
        if self.scheduled:
            self._actor.stop.remote()
        else:
            self.kill()

    def kill(self) -> None:
        """Kill it and its process; its last checkpoint remains valid."""
        if self._result is None:
            self._ray.kill(self._actor)
            self._result = 130, "stopped"

    def reason(self) -> str:
        """Return why it failed, on one line."""
        return "" if self._result is None else self._result[1]


class RayPool:
    """Runs actors on a Ray cluster.

    Args:
        directory: Directory of the suite, at the same path on all nodes.
        spec: Spec of the suite.
        address: Address of the cluster for ``ray.init``; ``local`` starts Ray on this machine.
        cpus: CPU cores and threads per run.
        per_gpu: Runs per GPU; 1 if None and the cluster has GPUs.
        jobs: Parallel runs; None: as many as the cluster's resources allow.

    Raises:
        ConfigError: Ray is not installed, or the cluster is unreachable or lacks the resources.
    """

    def __init__(
        self,
        directory: Path,
        spec: SuiteSpec,
        address: str,
        *,
        cpus: int = 1,
        per_gpu: int | None = None,
        jobs: int | None = None,
    ) -> None:
        check_counts({"cpus": cpus, "per-gpu": per_gpu, "jobs": jobs})
        self._ray = ray = import_ray()
        _check_reachable(address)
        here = {"num_cpus": cores(), "include_dashboard": False} if address == "local" else {}
        try:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR", **here)
        except (ConnectionError, ValueError, RuntimeError) as error:
            first = first_line(error)
            raise ConfigError(f"cannot use the Ray cluster {address}: {first}{_hint()}") from error
        try:
            self.gpus = self._gpus(spec, per_gpu)
            most = max((node["Resources"].get("CPU", 0) for node in ray.nodes()), default=0)
            if cpus > most:
                raise ConfigError(f"--cpus {cpus}: no node of the cluster has more than {most:g}")
        except ConfigError:
            ray.shutdown()
            raise
        self.directory = directory.resolve()
        self.spec = spec
        self.address = address
        self.cpus = cpus
        self.jobs = jobs
        self._runs: list[RayRun] = []
        self._worker = ray.remote(
            num_cpus=cpus,
            num_gpus=self.gpus,
            max_restarts=RETRIES,
            max_task_retries=RETRIES,
            max_concurrency=2,  # stop() must run concurrently with run()
        )(Worker)

    def _gpus(self, spec: SuiteSpec, per_gpu: int | None) -> float:
        """Return the share of a GPU per run."""
        available = self._ray.cluster_resources().get("GPU", 0)
        wanted = any(v.config.device not in ("cpu", "mps") for v in spec.variants)
        if per_gpu is not None and not (available and wanted):
            raise ConfigError("--per-gpu needs runs on a CUDA device, and the cluster has none")
        return 1 / (per_gpu or 1) if available and wanted else 0

    def describe(self) -> str:
        """Return the resources of each run in words."""
        gpu = f" and {self.gpus:.3g} GPU" if self.gpus else ""
        return f"on Ray ({self.address}), {self.cpus} CPU{gpu} each"

    def has_capacity(self) -> bool:
        """Whether another run can be submitted now."""
        self._runs = [run for run in self._runs if run.poll() is None]
        if self.jobs is not None and len(self._runs) >= self.jobs:
            return False
        return sum(not run.scheduled for run in self._runs) < PENDING

    def start(self, cell: Cell) -> RayRun:
        """Submit a run."""
        actor = self._worker.remote()
        ready = actor.ready.remote()
        key = (cell.variant.name, cell.game, cell.seed)
        result = actor.run.remote(str(self.directory), self.spec.to_dict(), key, self.cpus)
        run = RayRun(self._ray, actor, result, ready)
        self._runs.append(run)
        return run

    def close(self) -> None:
        """Disconnect from the cluster; stops a local Ray."""
        self._ray.shutdown()
