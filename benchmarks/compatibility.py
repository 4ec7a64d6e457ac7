"""Compatibility with environments and wrappers: ``python -m benchmarks.compatibility``.

Every case of `benchmarks.compatibility_cases` is trained for 100 steps with a tiny model, loaded
and evaluated again, and resumed from step 60, each in a separate process. Results are written to
``docs/assets/compatibility.json``; ``docs/compatibility.md`` is made from that file only. Cases
with results of the same code and packages are skipped (``--fresh`` runs all). Some cases need
packages that ``drama`` does not:

    pip install minigrid minatar moviepy pygame stable-baselines3 "gymnasium[box2d]"

Cases whose packages are missing are listed as not installed.

Processes are forked from one that has only imported the packages (spawned where the system cannot
fork), so that registrations of one run do not affect the next. ``--work DIR`` keeps standard output
and error of each stage.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import multiprocessing
import shutil
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks import measure
from benchmarks.compatibility_cases import CASES, Case
from benchmarks.compatibility_run import SAVED, STAGES, STEPS, one_line, serve, versions

PACKAGES = (
    "gymnasium",
    "ale-py",
    "minigrid",
    "minatar",
    "box2d",
    "stable-baselines3",
    "numpy",
    "torch",
)
JSON = Path("assets") / "compatibility.json"
PAGE = "compatibility.md"
SECONDS = 20
"""Processor time limit of a stage, in seconds."""
PATIENCE = 10
"""Wall-time limit of a stage, in multiples of its processor time limit."""


def code_version() -> str:
    """Return a hash of the code of package and script and of the packages' versions."""
    digest = hashlib.sha256(json.dumps(versions(PACKAGES)).encode())
    own = sorted(Path(__file__).parent.glob("compatibility*.py"))
    for path in (*sorted((measure.ROOT / "src" / "drama").rglob("*.py")), *own):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


# ------------------------------------------------------------------------ running cases


def context() -> Any:
    """Return the multiprocessing context."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["benchmarks.compatibility_run"])
    return server


def run_case(case: Case, work: Path, seconds: int) -> dict[str, Any]:
    """Run the stages of a case and return their results."""
    missing = [name for name in case.needs if importlib.util.find_spec(name) is None]
    if missing:
        return {"missing": missing}
    began = time.perf_counter()
    work.mkdir(parents=True)
    found: dict[str, Any] = {}
    for stage in STAGES:
        process = context().Process(target=serve, args=(stage, case.name, str(work), seconds))
        process.start()
        process.join(PATIENCE * seconds)
        if process.is_alive():
            process.kill()
            process.join()
        path = work / f"{stage}.json"
        result = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if not result.pop("done", False) and "hang" not in result.values():
            result["died"] = f"exit code {process.exitcode}"
        hidden = (str(work), str(measure.ROOT))
        found[stage] = {
            k: one_line(v, hidden) if k.endswith("_error") else v for k, v in result.items()
        }
        if found["train"].get("train") != "yes":
            break
    return {**found, "seconds": round(time.perf_counter() - began, 1)}


# ----------------------------------------------------------------------- interpretation

TROUBLE = ("crash", "hang", "other", "differs", "died", "overwritten", "normalised")
"""Words of cells that are unexpected in every case."""


def status(case: Case, found: Mapping[str, Any]) -> dict[str, str]:
    """Return the cells of a case by column."""
    columns = dict.fromkeys(("read", "trains", "copy", "load", "resume", "evaluate"), "–")
    if "missing" in found:
        return {**columns, "read": "not installed"}
    trained, back, again = (found.get(stage, {}) for stage in STAGES)
    if read := trained.get("read"):
        sides = "×".join(map(str, read["shape"]))
        columns["read"] = f"{read['kind']} {sides}"
    columns["trains"] = trained.get("train", "died")
    if columns["trains"] != "yes":
        return columns
    repeats = trained.get("repeats", False)
    columns["copy"] = _word(trained.get("copy", trained.get("probe")), "same", "differs", repeats)
    if columns["copy"] == "same" and trained.get("state"):
        columns["copy"] = "same, stateful"
    columns["load"] = _word(back.get("load", "died"), "same", "other", True)
    if columns["load"] == "refused" and "load_env" in back:
        with_env = _word(back["load_env"], "same", "other", True)
        columns["load"] = "`env=`" if with_env == "same" else f"`env=` {with_env}"
    columns["resume"] = _word(again.get("resume", "died"), "same", "differs", repeats)
    before, after = trained.get("evaluate"), back.get("evaluate")
    if not isinstance(before, dict):
        columns["evaluate"] = str(before)
    elif not isinstance(after, dict):
        columns["evaluate"] = str(after)
    else:
        shared = before.keys() & after.keys()
        same = bool(shared) and all(before[mode] == after[mode] for mode in shared)
        columns["evaluate"] = _word([] if same else ["scores"], "same", "differs", repeats)
    if trained.get("overwritten"):
        columns["evaluate"] += ", overwritten files"
    if case.lives and trained.get("normalised"):
        columns["evaluate"] += ", normalised lives"
    return columns


def _word(value: Any, same: str, other: str, repeats: bool) -> str:
    """Return the cell of a list of differences, or an outcome as it is."""
    if not isinstance(value, list):
        return "–" if value is None else str(value)
    return same if not value else other if repeats else "unseeded"


def wrong(case: Case, found: Mapping[str, Any]) -> list[str]:
    """Return the columns of a case with unexpected results, and their cells."""
    if "missing" in found:
        return []
    cells = status(case, found)
    bad = [f"{k}: {v}" for k, v in cells.items() if any(word in v for word in TROUBLE)]
    bad += [f"{k}: died" for k in STAGES if "died" in found.get(k, {})]
    if case.reads == "refused" and cells["trains"] == "yes":
        bad.append("trains: yes")
    if case.reads in ("picture", "vector"):
        if cells["trains"] == "refused":
            bad.append("trains: refused")
        elif cells["trains"] == "yes" and not cells["read"].startswith(case.reads):
            bad.append(f"read: {cells['read']}")
    return bad


# ------------------------------------------------------------------------------ the page

INTRO = f"""# Compatibility

Environments and wrappers of other packages, tested with `drama`.
`python -m benchmarks.compatibility` makes this page from [its results](assets/compatibility.json);
the docstring of `benchmarks/compatibility.py` lists the required packages.

A case is trained for {STEPS} steps with a tiny model. One new process loads and evaluates the run;
another resumes it from step {SAVED}. Episodes are limited to 60 steps unless the case sets another
limit. Arrows lead from the environment to the outermost wrapper.

- **given**: argument of the agent: an `id` on the command line, a `config` (an id with settings, in
  Python), an `object`, an importable `factory`, a `lambda`.
- **read**: picture (height×width×channels) or vector (length).
- **trains**: `yes`, or `refused` with the message below the table, before the first step or at the
  faulty step.
- **copy**: the environment made for evaluation compared with the given one, for one seed and fixed
  actions. `stateful`: a seeded reset after training does not restore the initial state (running
  statistics, lives), and the copy starts without that state.
- **load**: the environment of the loaded run compared with the given one: description,
  observations, rewards and episode ends. `env=`: refused unless `Agent.load` receives the
  environment.
- **resume**: final weights, optimisers, replay and episodes compared with those of the
  uninterrupted run, bit for bit.
- **evaluate**: returns and lengths in the new process compared with those after training.

`unseeded`: two environments with the same seed differ. `crash`: an unexpected exception. `hang`:
stopped after {SECONDS} seconds of processor time. **Bold**: an unexpected result."""
COLUMNS = ("case", "environment", "given", "read", "trains", "copy", "load", "resume", "evaluate")
MESSAGES = (
    ("train", "train"),
    ("train", "probe"),
    ("train", "copy"),
    ("train", "evaluate"),
    ("load", "load"),
    ("load", "load_env"),
    ("load", "evaluate"),
    ("resume", "resume"),
)


def markdown(result: Mapping[str, Any]) -> str:
    """Return the page."""
    found = result["cases"]
    cases = [case for case in CASES if case.name in found]
    bad = {case.name: wrong(case, found[case.name]) for case in cases}
    packages = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    missing = sum("missing" in found[case.name] for case in cases)
    older = len({found[case.name]["code"] for case in cases}) > 1
    counts = (
        f"{len(cases)} cases with {packages}. Unexpected results: "
        f"{sum(map(bool, bad.values()))}; not installed: {missing}."
    )
    if older:
        counts += " The cases were run with different versions of the code."
    parts = [INTRO, counts]
    for group in dict.fromkeys(case.group for case in cases):
        members = [case for case in cases if case.group == group]
        rows = [_row(case, found[case.name], bad[case.name]) for case in members]
        rule = "| " + " | ".join(["---"] * len(COLUMNS)) + " |"
        table = ["| " + " | ".join(row) + " |" for row in (COLUMNS, *rows)]
        parts.append(f"## {group}\n\n" + "\n".join((table[0], rule, *table[1:])))
        if quoted := _messages(members, found):
            parts.append("\n".join(quoted))
    return "\n\n".join(parts) + "\n"


def _row(case: Case, found: Mapping[str, Any], bad: Sequence[str]) -> tuple[str, ...]:
    marked = {text.partition(":")[0] for text in bad}
    cells = status(case, found)
    shown = [f"**{v}**" if k in marked else v for k, v in cells.items()]
    return (case.name, f"`{case.recipe}`", case.given, *shown)


def _messages(cases: Sequence[Case], found: Mapping[str, Any]) -> list[str]:
    """Return the messages of a group, each with its cases and failed attempts."""
    places: dict[str, list[str]] = {}
    for case in cases:
        for stage, attempt in MESSAGES:
            text = found[case.name].get(stage, {}).get(f"{attempt}_error")
            place = f"{case.name} ({attempt.removesuffix('_env')})"
            if text and place not in places.setdefault(text, []):
                places[text].append(place)
    return [f"- `{text.replace('`', chr(39))}`: {', '.join(p)}" for text, p in places.items()]


def publish(docs: Path, result: Mapping[str, Any]) -> None:
    """Write the results, then the page from them."""
    path = docs / JSON
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    text = markdown(json.loads(path.read_text(encoding="utf-8")))
    (docs / PAGE).write_text(text, encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the cases without current results and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="run only these cases, even with current results"
    )
    parser.add_argument("--jobs", type=int, default=1, help="parallel cases")
    parser.add_argument(
        "--fresh", action="store_true", help="run all cases, even with current results"
    )
    parser.add_argument(
        "--seconds", type=int, default=SECONDS, help="processor time limit of a stage"
    )
    parser.add_argument("--docs", type=Path, default=measure.DOCS, help="output directory")
    parser.add_argument("--work", type=Path, help="directory that keeps runs and outputs")
    args = parser.parse_args(argv)
    names = {case.name: case for case in CASES}
    for name in args.only or ():
        if name not in names:
            parser.error(f"unknown case {name!r}; choose from {', '.join(names)}")

    code = code_version()
    known: dict[str, Any] = {}
    if (args.docs / JSON).is_file():
        known = json.loads((args.docs / JSON).read_text(encoding="utf-8"))["cases"]
    due = [case for case in CASES if args.fresh or known.get(case.name, {}).get("code") != code]
    if args.only:
        due = [names[name] for name in dict.fromkeys(args.only)]
    lock = threading.Lock()
    done = 0
    place = Path(tempfile.mkdtemp(prefix="compatibility-")) if args.work is None else args.work

    def attempt(case: Case) -> None:
        nonlocal done
        work = place.resolve() / case.name
        shutil.rmtree(work, ignore_errors=True)
        found = {**run_case(case, work, args.seconds), "code": code}
        if args.work is None:
            shutil.rmtree(work, ignore_errors=True)
        with lock:
            done += 1
            known[case.name] = found
            cases = {name: known[name] for name in names if name in known}
            publish(args.docs, {"versions": versions(PACKAGES), "cases": cases})
            cells = ", ".join(f"{k} {v}" for k, v in status(case, found).items())
            spent = f"{found.get('seconds', 0.0):.1f} s"
            print(f"[{done}/{len(due)}] {case.name}: {cells} ({spent})", flush=True)

    try:
        with ThreadPoolExecutor(args.jobs) as pool:
            list(pool.map(attempt, due))
    finally:
        if args.work is None:
            shutil.rmtree(place, ignore_errors=True)
    for case in CASES:
        if case.name in known and (bad := wrong(case, known[case.name])):
            print(f"unexpected: {case.name}: {'; '.join(bad)}")


if __name__ == "__main__":
    main()
