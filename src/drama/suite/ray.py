"""Carrying out a suite on a Ray cluster whose nodes share the storage of the suite.

Every run is an actor that keeps one process of ``drama train`` going. What it does depends on the
files alone, so Ray may start it again elsewhere at any time: it goes on from the last checkpoint.
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
"""Times that Ray starts a run again whose worker or node was lost."""
PENDING = 2
"""Runs that may wait for resources at a time: enough for an autoscaler to see the demand."""
CONNECT_SECONDS = 10.0
"""How long the address of a cluster may take to answer."""
LOST = -9
"""What stands for the exit code of a run whose worker was lost for good."""


def import_ray() -> Any:
    """Return the module ``ray``.

    Raises:
        ConfigError: It is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # of a Ray that we start
    # Else it warns of a change to come, at a run without a GPU.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise ConfigError("--ray needs Ray: pip install ray") from error


def _reach(address: str) -> None:
    """Check that somebody listens there: Ray itself would try for minutes before it says so."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if not colon:
        return  # a word: auto, local
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        raise ConfigError(f"cannot reach the Ray cluster {address}: {error}") from error


def _hint() -> str:
    """Say what a cluster that refuses may want.

    ``ray start`` asks for a token wherever there is one, and the first Ray of a machine's own makes
    one; but Ray sends it to an address only where it is told to.
    """
    if "RAY_AUTH_MODE" in os.environ or not (Path.home() / ".ray" / "auth_token").is_file():
        return ""
    return "; if it asks for a token, set RAY_AUTH_MODE=token"


class Worker:
    """What runs on a node: brings one run forward until it ends or is told to stop."""

    def __init__(self) -> None:
        self._stop = threading.Event()

    def ready(self) -> str:
        """Return the node's name, once there is a place."""
        return socket.gethostname()

    def stop(self) -> None:
        """Let the run save and end after the step in hand."""
        self._stop.set()

    def run(
        self, directory: str, tree: Mapping[str, Any], key: tuple[str, str, int], threads: int
    ) -> tuple[int, str]:
        """Begin or continue a run, and wait until it ends.

        Args:
            directory: Of the suite.
            tree: Its spec.
            key: Variant, game and seed.
            threads: CPU threads.

        Returns:
            Exit code, and why it failed.
        """
        if not is_suite(Path(directory)):
            node = socket.gethostname()
            return 1, f"{directory} is not there on {node}: all nodes must share its storage"
        spec = SuiteSpec.from_dict(tree)
        variant, game, seed = key
        since = time.monotonic()
        while True:
            cell = read_cell(Path(directory), spec, spec.variant(variant), game, seed)
            if cell.status == "finished":
                return 0, ""
            if not cell.sound:
                return 1, cell.reason
            try:
                prepare(cell)
                break
            except InUseError as error:
                # The process of a lost worker may still be saving.
                if self._stop.is_set() or time.monotonic() - since > LOCK_SECONDS:
                    return (130 if self._stop.is_set() else 1), str(error)
                time.sleep(0.5)
            except RunDirError as error:
                return 1, str(error)
        process = RunProcess(cell, threads)
        asked = False
        while (code := process.poll()) is None:
            if self._stop.wait(0.0 if asked else 0.2) and not asked:
                asked = True
                process.stop()
            elif asked:
                time.sleep(0.2)
        return code, process.reason()


class RayRun:
    """The handle of a run on the cluster.

    Args:
        ray: The module.
        actor: A `Worker`.
        run: What its ``run`` will return.
        ready: What its ``ready`` will return.
    """

    where = "Ray"

    def __init__(self, ray: Any, actor: Any, run: Any, ready: Any) -> None:
        self._ray = ray
        self._actor = actor
        self._run = run
        self._ready = ready
        self._begun = False
        self._over: tuple[int, str] | None = None

    @property
    def begun(self) -> bool:
        """Whether it has a place on the cluster, or had one."""
        if not self._begun:
            self._begun = self._over is not None or self._is_there(self._ready)
        return self._begun

    def _is_there(self, reference: Any) -> bool:
        return bool(self._ray.wait([reference], timeout=0)[0])

    def poll(self) -> int | None:
        """Return the exit code (negative for a signal), or None while it runs."""
        if self._over is None and self._is_there(self._run):
            try:
                self._over = self._ray.get(self._run)
            except self._ray.exceptions.RayTaskError as error:
                self._over = 1, str(error.cause)  # our own code, or `drama` is not there
            except self._ray.exceptions.RayError as error:
                self._over = LOST, f"its worker was lost ({first_line(error)})"
            self._ray.kill(self._actor)  # gives its resources back at once
        return None if self._over is None else self._over[0]

    def stop(self) -> None:
        """Ask it to save and end after the step in hand."""
        if self.begun:
            self._actor.stop.remote()
        else:
            self.kill()

    def kill(self) -> None:
        """End it at once; Ray ends its process with it, and its last checkpoint stands."""
        if self._over is None:
            self._ray.kill(self._actor)
            self._over = 130, "stopped"

    def reason(self) -> str:
        """Return why it failed, in one line."""
        return "" if self._over is None else self._over[1]


class RayPool:
    """Runs as actors on a Ray cluster.

    Args:
        directory: Of the suite, on storage that all nodes share under the same path.
        spec: What it holds.
        address: Of a cluster, as ``ray.init`` takes it; ``local`` starts Ray on this machine.
        cpus: CPU cores of each run, and its threads.
        per_gpu: Runs on each GPU; 1 if None and the cluster has GPUs.
        jobs: Runs at a time; None leaves it to the cluster's resources.

    Raises:
        ConfigError: Ray is not installed, there is no such cluster, or what is asked for is not
            on it.
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
        _reach(address)
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
            max_concurrency=2,  # it has to listen while it runs
        )(Worker)

    def _gpus(self, spec: SuiteSpec, per_gpu: int | None) -> float:
        """Share of a GPU that each run is given."""
        there = self._ray.cluster_resources().get("GPU", 0)
        wanted = any(v.config.device not in ("cpu", "mps") for v in spec.variants)
        if per_gpu is not None and not (there and wanted):
            raise ConfigError("--per-gpu needs runs on a CUDA device, and there are none there")
        return 1 / (per_gpu or 1) if there and wanted else 0

    def describe(self) -> str:
        """Say in words what each run is given."""
        gpu = f" and {self.gpus:.3g} GPU" if self.gpus else ""
        return f"on Ray ({self.address}), {self.cpus} CPU{gpu} each"

    def room(self) -> bool:
        """Whether another run can be submitted now."""
        self._runs = [run for run in self._runs if run.poll() is None]
        if self.jobs is not None and len(self._runs) >= self.jobs:
            return False
        return sum(not run.begun for run in self._runs) < PENDING

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
        """Leave the cluster; a Ray of our own ends."""
        self._ray.shutdown()
