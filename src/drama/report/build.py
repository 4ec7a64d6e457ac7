"""Write the files of a report from the directory of a suite."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drama.errors import CheckpointError, ConfigError, DramaError, RunDirError
from drama.evaluation.bootstrap import CONFIDENCE, RESAMPLES
from drama.files import named, open_regular, read_json, write_json, write_text
from drama.report import tables as tab
from drama.report.costs import cost_table
from drama.report.page import GENERATOR, html_page, markdown_page
from drama.report.protocol import protocol_notes
from drama.report.runs import read_run
from drama.report.single import is_run, read_single
from drama.report.summarise import summarise
from drama.report.summary import Mode, Summary
from drama.suite import read_suite
from drama.text import one_line

if TYPE_CHECKING:
    from drama.report.dreams import Rollouts

PAGE = "index.html"
RECORD = "report.json"
"""Lists the files of a report, which the next report may replace."""
FILE = re.compile(r"(figures/)?[A-Za-z0-9_-]+\.[a-z]+")
"""Path of a file within a report."""


@dataclass(frozen=True)
class Report:
    """A written report."""

    out: Path
    page: Path
    """HTML page."""
    summary: Summary
    figures: tuple[str, ...]
    """Names of the figures."""


def build_summary(
    suite_dir: str | Path,
    *,
    mode: Mode = "greedy",
    seed: int = 0,
    progress: Callable[[str], object] = lambda text: None,
) -> Summary:
    """Read a suite and aggregate its comparable runs; draws and writes nothing.

    Args:
        suite_dir: Directory of the suite, or of a single run.
        mode: Evaluation to report: ``greedy`` or ``sampled``.
        seed: Seed of the bootstrap.
        progress: Called with a description of the next step.

    Raises:
        DramaError: ``suite_dir`` is not the directory of a suite or a run.
    """
    if is_run(Path(suite_dir)):
        run = read_single(Path(suite_dir))
        return summarise(run.path, run.path.resolve().name, [run], mode=mode, seed=seed)
    state = read_suite(suite_dir)
    progress(f"reading {len(state.cells)} runs")
    labels = {variant.name: variant.label or variant.name for variant in state.spec.variants}
    if len(set(labels.values())) < len(labels):  # labels may repeat, names may not
        labels = {name: name for name in labels}
    runs = [read_run(cell, labels[cell.variant.name]) for cell in state.cells]
    title = state.spec.title or state.spec.name
    progress("averaging")
    return summarise(state.directory, title, runs, mode=mode, seed=seed)


def write_report(
    suite_dir: str | Path,
    out: str | Path | None = None,
    *,
    mode: Mode = "greedy",
    seed: int = 0,
    progress: Callable[[str], object] = lambda text: None,
) -> Report:
    """Write the report of a suite or a run: results of finished runs, names of the others.

    ``index.html`` is self-contained. Further files: ``report.md`` and ``report.json``, the tables
    as CSV, Markdown and LaTeX, ``runs.csv`` with every run, and ``figures/`` as SVG and PNG. The
    same runs give the same bytes. The report of a single run adds rollouts of its world model.

    Args:
        suite_dir: Directory of the suite, or of a single run.
        out: Target directory; ``report`` in that directory if None. It must be new, empty
            or hold an earlier report, whose files are replaced; other files are left alone.
        mode: Evaluation to report: ``greedy`` or ``sampled``.
        seed: Seed of the bootstrap.
        progress: Called with a description of the next step.

    Raises:
        DramaError: ``suite_dir`` is neither a suite nor a run; Matplotlib is missing; ``out``
            holds something else, lies in a run directory, or cannot be written to.
    """
    summary = build_summary(suite_dir, mode=mode, seed=seed, progress=progress)
    return write_summary(summary, out, progress=progress)


def _rollouts(
    summary: Summary, progress: Callable[[str], object]
) -> tuple[Summary, Rollouts | None]:
    """Measure the rollouts of a single run; None for a suite, or with a note on the run.

    A run whose environment cannot be made here still has its other figures.
    """
    run = summary.runs[0] if summary.runs else None
    if run is None or run.path != summary.directory:
        return summary, None
    from drama.report.dreams import measure_rollouts

    progress("measuring rollouts")
    try:
        return summary, measure_rollouts(run.path)
    except DramaError as error:
        note = f"no rollouts of the world model: {one_line(error)}"
        run = replace(run, notes=(*run.notes, note))
        return replace(summary, runs=(run,)), None


def write_summary(
    summary: Summary,
    out: str | Path | None = None,
    *,
    progress: Callable[[str], object] = lambda text: None,
) -> Report:
    """Write the report of a summary.

    Args:
        summary: Result of :func:`build_summary`.
        out: As in :func:`write_report`.
        progress: As in :func:`write_report`.

    Raises:
        DramaError: Matplotlib is missing; ``out`` holds something else, lies in a run directory,
            or cannot be written to.
    """
    try:
        from drama.report.dreams import draw_rollouts
        from drama.report.figures import draw_all
    except ImportError as error:
        raise ConfigError(
            f"drama report needs {_missing(error)}: pip install matplotlib scipy"
        ) from error
    if out is not None and not str(out).strip():
        raise RunDirError("--out is empty; name a directory")
    target = summary.directory / "report" if out is None else Path(out)
    with _as_run_dir_error(target):
        earlier = _earlier(target, summary)
    tables = [tab.score_table(summary)]
    tables += [tab.aggregate_table(block, i) for i, block in enumerate(summary.blocks, 1)]
    if summary.pairs:
        tables.append(tab.improvement_table(summary))
    if (costs := cost_table(summary)) is not None:
        tables.append(costs)
    figures = draw_all(summary, progress)
    summary, rollouts = _rollouts(summary, progress)
    if rollouts is not None:
        figures += draw_rollouts(rollouts)
    progress("writing tables and page")
    files: dict[str, str | bytes] = {}
    for table in tables:
        files[f"{table.name}.csv"] = table.csv()
        files[f"{table.name}.md"] = table.markdown()
        files[f"{table.name}.tex"] = table.latex()
    for figure in figures:
        files[f"figures/{figure.name}.svg"] = figure.svg
        files[f"figures/{figure.name}.png"] = figure.png
    files["runs.csv"] = tab.runs_csv(summary)
    files["report.md"] = markdown_page(summary, tables, figures)
    files[PAGE] = html_page(summary, tables, figures)
    with _as_run_dir_error(target):
        _write(target, files, earlier, _tree(summary, rollouts))
    page = target / PAGE
    return Report(target, page, summary, tuple(figure.name for figure in figures))


def _missing(error: ImportError) -> str:
    module = (error.name or "matplotlib").split(".")[0]
    return {"matplotlib": "Matplotlib", "PIL": "Pillow"}.get(module, module)


@contextmanager
def _as_run_dir_error(out: Path) -> Iterator[None]:
    """Turn an OSError into a one-line RunDirError.

    Raises:
        RunDirError: The file system refused an operation.
    """
    try:
        yield
    except RunDirError:  # a subclass of OSError
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise RunDirError(f"cannot write a report to {out}: {reason}") from error


def _earlier(out: Path, summary: Summary) -> frozenset[str]:
    """Return the files of the earlier report in ``out``; writes nothing.

    Raises:
        RunDirError: ``out`` lies in a run directory, holds something else than a report, or a
            file of the report is a symbolic link.
        OSError: ``out`` is not a directory, or cannot be read.
    """
    real = Path(os.path.realpath(out))
    directory = Path(os.path.realpath(summary.directory))
    runs = {Path(os.path.realpath(run.path)) for run in summary.runs}
    for folder in (real, *real.parents):
        if folder == directory and real == directory / "report":
            continue  # the default of a single run
        inside = (folder / "config.json").is_file() and (folder / "checkpoints").is_dir()
        if inside or folder in runs:
            raise RunDirError(f"{out} lies in a run directory; choose another --out")
    # A killed call may leave only its temporary file.
    if not out.exists() or not {path.name for path in out.iterdir()} - {f".{RECORD}.tmp"}:
        return frozenset()
    other = RunDirError(f"{out} is not empty and is not a report of drama; choose another --out")
    try:
        tree = read_json(out / RECORD)
    except CheckpointError as error:
        raise other from error
    names = tree.get("files") if isinstance(tree, Mapping) else None
    if not isinstance(names, list) or tree.get("generator") != GENERATOR:
        raise other
    # A foreign list must not delete files outside the report.
    if not all(isinstance(name, str) and FILE.fullmatch(name) for name in names):
        raise other
    page = out / PAGE
    if page.exists() and f'content="{GENERATOR}"' not in page.read_bytes()[:4096].decode(
        errors="replace"
    ):
        raise RunDirError(f"{page} is not a report of drama; choose another --out")
    for name in ("figures", RECORD, *names):
        if (out / name).is_symlink():
            raise RunDirError(f"{out / name} is a symbolic link; remove it or choose another --out")
    return frozenset(names)


def _write(
    out: Path, files: Mapping[str, str | bytes], earlier: frozenset[str], tree: Mapping[str, Any]
) -> None:
    """Replace the files of the earlier report.

    Raises:
        RunDirError: A file exists that the earlier report did not write.
        OSError: A file cannot be written.
    """
    names = sorted({*files, RECORD})
    for name in names:
        if name not in earlier and os.path.lexists(out / name):
            raise RunDirError(f"{out / name} is not of the earlier report; choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    # Written first, so that the next call may replace the files of a killed one.
    record = {"generator": GENERATOR, **tree}
    write_json(out / RECORD, {**record, "files": sorted(earlier.union(names))})
    for stale in earlier.difference(names):  # of games or variants no longer in the suite
        (out / stale).unlink(missing_ok=True)
    for name, content in files.items():
        path = out / name
        path.parent.mkdir(exist_ok=True)
        if isinstance(content, bytes):
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            with named(path), open(open_regular(path, flags), "wb") as file:
                file.write(content)
        else:
            # Text from a run may contain lone surrogates.
            write_text(path, content.encode(errors="replace").decode())
    write_json(out / RECORD, {**record, "files": names})


def _tree(summary: Summary, rollouts: Rollouts | None) -> dict[str, Any]:
    """Return the content of ``report.json``."""
    return {
        "suite": summary.name,
        "mode": summary.mode,
        "runs": {"finished": summary.finished, "all": len(summary.runs)},
        "variants": {
            variant.name: {
                "protocol": dict(variant.protocol),
                "train_steps": variant.steps,
                "scores": {
                    env_id: {
                        str(run.seed): score
                        for run, score in zip(runs, variant.scores(env_id), strict=True)
                    }
                    for env_id, runs in variant.runs.items()
                },
                "left_out": {left.run.name: left.reason for left in variant.left_out},
            }
            for variant in summary.variants
        },
        "aggregates": [
            {
                "games": list(block.env_ids),
                "reference": block.reference,
                "methods": {
                    row.method: {
                        "kind": row.kind,
                        **{n: getattr(row.numbers, n).to_dict() for n in tab.statistics(block)},
                    }
                    for row in block.rows
                },
            }
            for block in summary.blocks
        ],
        "probability_of_improvement": [
            {
                "method": pair.method,
                "over": pair.other,
                **pair.improvement.probability.to_dict(),
                "games": list(pair.improvement.games),
            }
            for pair in summary.pairs
        ],
        "bootstrap": {"resamples": RESAMPLES, "confidence": CONFIDENCE},
        "protocol": protocol_notes(summary),
        **({} if rollouts is None else {"rollouts": rollouts.to_dict()}),
        "untrained": {run.name: run.untrained for run in summary.untrained},
        "unfinished": {
            run.name: {"status": run.status, "steps": run.steps, "reason": run.reason}
            for run in summary.runs
            if run.status != "finished"
        },
    }
