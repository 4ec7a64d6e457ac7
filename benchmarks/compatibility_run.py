"""Stages of a compatibility case, each run in a separate process.

One file: the stages share their settings, comparisons and result.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import logging
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

import drama
from benchmarks.compatibility_cases import CASES, Case
from drama import Agent, presets
from drama.cli import main as drama_main
from drama.config import Config, from_dict
from drama.envs import AdaptedEnv, adapt, default_image_size, describe
from drama.errors import DramaError

STEPS = 100
SAVED = 60
"""Step of the checkpoint from which a new process resumes."""
SETTINGS: dict[str, Any] = {
    "steps": STEPS,
    "device": "cpu",
    "env.max_episode_steps": 60,
    "replay.capacity": 200,
    "world_model.filters": (8,),
    "world_model.latent_variables": 4,
    "world_model.latent_classes": 4,
    "world_model.spatial_latents": 0,
    "world_model.head_units": 16,
    "world_model.vector_units": 16,
    "world_model.batch_size": 4,
    "world_model.batch_length": 8,
    "world_model.dynamics.width": 32,
    "world_model.dynamics.headdim": 16,
    "world_model.optim.warmup": 5,
    "behaviour.actor_units": 16,
    "behaviour.critic_units": 16,
    "behaviour.batch_size": 8,
    "behaviour.context": 4,
    "behaviour.horizon": 3,
    "behaviour.optim.warmup": 5,
    "training.warmup_steps": 24,
    "training.world_model_ratio": 0.25,
    "training.behaviour_ratio": 0.25,
    "training.precision": "float32",
    "training.log_every": 10,
    "training.checkpoint_every": SAVED,
    "training.tensorboard": False,
    "evaluation.episodes": 2,
    "evaluation.num_envs": 2,
    "evaluation.max_episode_steps": 200,
}
"""Changes to the preset ``quick``: a tiny model with all parts."""
PROBE_STEPS = 80


def config(case: Case) -> Config:
    """Return the settings of a case."""
    tree = dataclasses.asdict(presets.quick())
    for path, value in {**SETTINGS, **case.settings}.items():
        *sections, name = path.split(".")
        branch = tree
        for section in sections:
            branch = branch[section]
        branch[name] = value
    return from_dict(Config, tree)


def options(case: Case) -> list[str]:
    """Return the settings of a case as options of ``drama train quick``."""
    args = ["--env", case.id]
    for path, value in {**SETTINGS, **case.settings}.items():
        flag = path.replace("_", "-")
        if isinstance(value, bool):
            section, _, name = flag.rpartition(".")
            args.append(f"--{section}.{'' if value else 'no-'}{name}")
        else:
            args += [f"--{flag}", *map(str, value if isinstance(value, tuple) else (value,))]
    return args


# ------------------------------------------------------------------------ comparisons


def probe(env: gym.Env[Any, Any]) -> dict[str, Any]:
    """Hash the results of ``PROBE_STEPS`` fixed actions from a fixed seed."""
    rng = np.random.default_rng(7)
    observations, rewards, ends = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
    space = env.action_space
    assert isinstance(space, gym.spaces.Discrete)
    obs, _ = env.reset(seed=123)
    for _ in range(PROBE_STEPS):
        observations.update(np.ascontiguousarray(obs).tobytes())
        action = int(rng.integers(1000)) % int(space.n)
        obs, reward, terminated, truncated, _ = env.step(action)
        rewards.update(repr(float(reward)).encode())
        ends.update(bytes([bool(terminated), bool(truncated)]))
        if terminated or truncated:
            obs, _ = env.reset()
    names = {"observations": observations, "rewards": rewards, "ends": ends}
    return {k: h.hexdigest()[:16] for k, h in names.items()} | {"actions": int(space.n)}


def differing(left: Mapping[str, Any], right: Mapping[str, Any]) -> list[str]:
    """Return the keys that differ."""
    return [k for k in sorted({*left, *right}) if left.get(k) != right.get(k)]


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def run_state(run: Path) -> dict[str, Any]:
    """Return hashes of the last checkpoint's tensors and of the episode log."""
    last = max(p for p in (run / "checkpoints").iterdir() if p.is_dir())
    state: dict[str, Any] = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(last.glob("*.safetensors"))
    }
    rows = [json.loads(line) for line in (run / "episodes.jsonl").read_text().splitlines()]
    state["episodes"] = [{k: v for k, v in row.items() if k != "seconds"} for row in rows]
    return {**state, "step": last.name}


def scores(result: Mapping[str, Any]) -> list[Any]:
    """Return the episodes of an evaluation."""
    return [[e["return"], e["length"]] for e in result["episodes"]]


def reading(env: gym.Env[Any, Any]) -> dict[str, Any]:
    """Return how the agent reads an adapted environment."""
    layer: Any = env
    while not isinstance(layer, AdaptedEnv):
        layer = layer.env
    raw, space = layer.env.observation_space, env.observation_space
    shape = list(space.shape or ())
    return {
        "raw": f"{tuple(raw.shape or ())} {raw.dtype}",
        "kind": "picture" if len(shape) == 3 else "vector",
        "shape": shape,
        "actions": int(getattr(env.action_space, "n", 0)),
    }


# ----------------------------------------------------------------------------- stages


class Stage:
    """Results of one stage, written to disk immediately."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[str, Any] = {}

    def record(self, **facts: Any) -> None:
        """Add facts."""
        self.found.update(facts)
        self.path.write_text(json.dumps(self.found), encoding="utf-8")

    @contextlib.contextmanager
    def attempt(self, name: str) -> Iterator[None]:
        """Record ``name`` as refused or crashed if the block raises."""
        self.record(**{name: "hang"})  # remains if the process is killed
        try:
            yield
        except DramaError as error:
            self.record(**{name: "refused", f"{name}_error": str(error)})
        except Exception as error:
            import traceback

            traceback.print_exc()
            self.record(**{name: "crash", f"{name}_error": f"{type(error).__name__}: {error}"})

    def went(self, name: str) -> bool:
        """Whether an attempt succeeded."""
        return self.found.get(name) not in ("hang", "refused", "crash")


class Refused(DramaError):
    """The command line ended with an error."""


def command(*args: str) -> str:
    """Run ``drama`` with these arguments; return its standard output.

    Raises:
        Refused: It ended with exit code 1 or 2; the message is its line.
    """
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = drama_main(list(args))
    sys.stderr.write(err.getvalue())
    if code:
        lines = [line for line in err.getvalue().splitlines() if "drama: error: " in line]
        raise Refused(lines[-1].partition("error: ")[2] if lines else f"exit code {code}")
    return out.getvalue()


def truth(case: Case, settings: Config, *, life_loss: bool) -> dict[str, Any]:
    """Probe the environment of the case, independent of a run."""
    if case.given in ("id", "config"):
        agent = Agent(config=settings)
        return probe(agent.env if life_loss else agent.new_env(0))
    made = case.source()
    env = made if case.given == "object" else made()
    size = default_image_size(env)
    limit = settings.env.max_episode_steps
    return probe(adapt(env, image_size=size, max_episode_steps=limit))


def train(case: Case, work: Path, stage: Stage) -> None:
    """Train, evaluate and record the environment."""
    run, place = work / "run", work / "here"
    if case.given == "id":
        with stage.attempt("train"):
            command("train", "quick", "--run-dir", str(run), *options(case))
            stage.record(train="yes")
        if not stage.went("train"):
            return
        results = json.loads((run / "eval.json").read_text())
        stage.record(evaluate={mode: scores(result) for mode, result in results.items()})
        agent = Agent(config=Config.from_json((run / "config.json").read_text()))
        stage.record(read=reading(agent.env), describe=describe(agent.env))
    else:
        with stage.attempt("train"):
            settings = config(case)
            source = case.source()
            agent = Agent(case.id if case.given == "config" else source, settings)
            stage.record(read=reading(agent.env), describe=describe(agent.env))
            agent.learn(STEPS, run_dir=run)
            stage.record(train="yes")
        if not stage.went("train"):
            return
        before = contents(place)
        with stage.attempt("evaluate"):
            result = agent.evaluate()
            stage.record(
                evaluate={result.mode: scores(result.to_dict())},
                normalised=result.normalised is not None,
            )
        after = contents(place)
        lost = [k for k, old in before.items() if not after.get(k, b"").startswith(old)]
        stage.record(files=len(before), overwritten=len(lost))
    with stage.attempt("probe"):
        given = [truth(case, agent.config, life_loss=True) for _ in range(2)]
        lives = case.given in ("id", "config")  # our own copies may play whole games
        playing = truth(case, agent.config, life_loss=False) if lives else given[0]
        stage.record(given=given[0], playing=playing, repeats=given[0] == given[1], probe="yes")
    if stage.went("probe"):
        with stage.attempt("copy"):
            stage.record(copy=differing(playing, probe(agent.new_env(0))))
        if case.given not in ("id", "config"):
            with stage.attempt("state"):
                stage.record(state=differing(given[0], probe(agent.env)))


def loaded(case: Case, path: Path, stage: Stage, known: Mapping[str, Any]) -> Agent | None:
    """Load without arguments, and with ``env=`` if that is refused."""
    with stage.attempt("load"):
        agent = Agent.load(path)
        stage.record(load=against(agent, known))
        return Agent.load(path)
    if stage.found["load"] != "refused" or case.given in ("id", "config"):
        return None
    with stage.attempt("load_env"):
        agent = Agent.load(path, env=case.source())
        stage.record(load_env=against(agent, known))
        return Agent.load(path, env=case.source())
    return None


def against(agent: Agent, known: Mapping[str, Any]) -> list[str]:
    """Return the differences of a loaded agent's environments from those of the run."""
    found = [f"describe: {key}" for key in differing(known["describe"], describe(agent.env))]
    if known.get("repeats"):
        found += [f"learning: {key}" for key in differing(known["given"], probe(agent.env))]
        with contextlib.suppress(DramaError):  # no second one can be made: evaluation reports it
            playing = probe(agent.new_env(0))
            found += [f"playing: {key}" for key in differing(known["playing"], playing)]
    return found


def load(case: Case, work: Path, stage: Stage) -> None:
    """Load the run and evaluate it again."""
    run, known = work / "run", json.loads((work / "train.json").read_text())
    agent = loaded(case, run, stage, known)
    if known.get("evaluate") in (None, "hang", "crash"):
        return
    with stage.attempt("evaluate"):
        if case.given == "id":
            results = json.loads(command("eval", str(run), "--json").splitlines()[-1])
            found = {mode: scores(result) for mode, result in results.items()}
        elif agent is not None:
            result = agent.evaluate()
            found = {result.mode: scores(result.to_dict())}
        else:
            stage.record(evaluate=None)
            return
        stage.record(evaluate=found)


def resume(case: Case, work: Path, stage: Stage) -> None:
    """Resume from the earlier checkpoint and compare the results with those of the run."""
    run, again = work / "run", work / "again"
    shutil.copytree(run, again)
    path = again / "checkpoints" / f"{SAVED:09d}"
    with stage.attempt("resume"):
        if case.given == "id":
            command("train", "--resume", str(path), "--evaluation.episodes", "0")
        else:
            needs_env = json.loads((work / "load.json").read_text())["load"] == "refused"
            keep = case.given == "config" or not needs_env
            agent = Agent.load(path, env=None if keep else case.source())
            agent.learn(STEPS - SAVED)
        stage.record(resume=differing(run_state(run), run_state(again)))


STAGES: dict[str, Callable[[Case, Path, Stage], None]] = {
    "train": train,
    "load": load,
    "resume": resume,
}


def serve(stage: str, name: str, place: str, seconds: int) -> None:
    """Run one stage of a case in this process, which serves no other.

    The system ends it after ``seconds`` of processor time, which excludes waiting on a busy machine
    (not on Windows, where only the caller's wall-time limit holds).
    """
    with contextlib.suppress(ImportError):
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    work = Path(place)
    (work / "here").mkdir(parents=True, exist_ok=True)
    os.chdir(work / "here")
    os.environ["SDL_VIDEODRIVER"] = "dummy"  # pygame renders without a screen
    for number, end in ((1, "out"), (2, "err")):
        file = os.open(work / f"{stage}.{end}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(file, number)
        os.close(file)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    case = next(case for case in CASES if case.name == name)
    noted = Stage(work / f"{stage}.json")
    noted.record()
    STAGES[stage](case, work, noted)
    noted.record(done=True)


def one_line(text: str, hidden: Sequence[str] = ()) -> str:
    """Return a message without parts that depend on machine or process."""
    for path in hidden:
        text = text.replace(path, "DIR")
    text = re.sub(r" at 0x[0-9a-f]+", "", " ".join(text.split()))
    return text if len(text) <= 400 else f"{text[:399]}…"


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Return the versions of the packages that are installed."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"drama": drama.__version__}
    for package in packages:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
