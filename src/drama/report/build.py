"""From a suite's directory to the files of its report."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drama.errors import ConfigError, RunDirError
from drama.evaluation.aggregate import CONFIDENCE, RESAMPLES
from drama.files import write_json, write_text
from drama.report import tables as tab
from drama.report.page import GENERATOR, html_page, markdown_page
from drama.report.runs import read_run
from drama.report.summary import Mode, Summary, protocol_notes, summarise
from drama.suite import read_suite


@dataclass(frozen=True)
class Report:
    """What was written."""

    out: Path
    page: Path
    """The HTML page."""
    summary: Summary
    figures: tuple[str, ...]
    """Names of the figures."""


def build_summary(suite_dir: str | Path, *, mode: Mode = "greedy", seed: int = 0) -> Summary:
    """Read a suite and average what may be averaged; draws and writes nothing.

    Args:
        suite_dir: Directory of the suite.
        mode: Which evaluation counts.
        seed: Of the bootstrap.

    Raises:
        DramaError: It is no suite's directory.
    """
    state = read_suite(suite_dir)
    labels = {variant.name: variant.label or variant.name for variant in state.spec.variants}
    if len(set(labels.values())) < len(labels):  # labels are for readers, names are distinct
        labels = {name: name for name in labels}
    runs = [read_run(cell, labels[cell.variant.name]) for cell in state.cells]
    title = state.spec.title or state.spec.name
    return summarise(state.directory, title, runs, mode=mode, seed=seed)


def write_report(
    suite_dir: str | Path,
    out: str | Path | None = None,
    *,
    mode: Mode = "greedy",
    seed: int = 0,
) -> Report:
    """Write the report of a suite: what has finished, and what has not by name.

    ``index.html`` needs no other file. Beside it: ``report.md`` and ``report.json``, the tables as
    CSV, Markdown and LaTeX, ``runs.csv`` with every run, and ``figures/`` as SVG and PNG. The same
    runs give the same bytes.

    Args:
        suite_dir: Directory of the suite.
        out: Where to write; ``report`` in the suite's directory if None. An earlier report there
            is replaced.
        mode: Which evaluation counts: ``greedy`` or ``sampled``.
        seed: Of the bootstrap.

    Raises:
        DramaError: It is no suite's directory; Matplotlib is missing; ``out`` holds something
            else.
    """
    return write_summary(build_summary(suite_dir, mode=mode, seed=seed), out)


def write_summary(summary: Summary, out: str | Path | None = None) -> Report:
    """Write the report of what has been read and averaged already.

    Args:
        summary: From :func:`build_summary`.
        out: As in :func:`write_report`.

    Raises:
        DramaError: Matplotlib is missing; ``out`` holds something else.
    """
    try:
        from drama.report.figures import draw_all
    except ImportError as error:
        raise ConfigError(
            f"drama report draws with {_missing(error)}: pip install 'drama-rl[plots]'"
        ) from error
    target = summary.directory / "report" if out is None else Path(out)
    _prepare(target)
    tables = [tab.score_table(summary)]
    tables += [tab.aggregate_table(block, i) for i, block in enumerate(summary.blocks, 1)]
    if summary.pairs:
        tables.append(tab.improvement_table(summary))
    figures = draw_all(summary)
    for table in tables:
        write_text(target / f"{table.name}.csv", table.csv())
        write_text(target / f"{table.name}.md", table.markdown())
        write_text(target / f"{table.name}.tex", table.latex())
    for figure in figures:
        write_text(target / "figures" / f"{figure.name}.svg", figure.svg)
        (target / "figures" / f"{figure.name}.png").write_bytes(figure.png)
    write_text(target / "runs.csv", tab.runs_csv(summary))
    write_text(target / "report.md", markdown_page(summary, tables, figures))
    write_json(target / "report.json", _tree(summary))
    page = target / "index.html"
    write_text(page, html_page(summary, tables, figures))
    return Report(target, page, summary, tuple(figure.name for figure in figures))


def _missing(error: ImportError) -> str:
    module = (error.name or "matplotlib").split(".")[0]
    return {"matplotlib": "Matplotlib", "PIL": "Pillow"}.get(module, module)


def _prepare(out: Path) -> None:
    """Make the directory, without the files of an earlier report.

    Raises:
        RunDirError: It is a file, cannot be made, or has a page of another origin.
    """
    page = out / "index.html"
    try:
        (out / "figures").mkdir(parents=True, exist_ok=True)
        if page.exists():
            head = page.read_bytes()[:4096].decode(errors="replace")
            if f'content="{GENERATOR}"' not in head:
                raise RunDirError(f"{page} is not a report of this program; choose another --out")
            # Of games or variants that are no longer there.
            for pattern in ("aggregates-*", "improvement.*", "figures/*.svg", "figures/*.png"):
                for stale in out.glob(pattern):
                    stale.unlink()
    except RunDirError:
        raise
    except OSError as error:
        reason = error.strerror or os.strerror(error.errno or 0)
        raise RunDirError(f"cannot write a report to {out}: {reason}") from error


def _tree(summary: Summary) -> dict[str, Any]:
    """The numbers of the report for a program to read."""
    return {
        "suite": summary.name,
        "mode": summary.mode,
        "runs": {"finished": summary.finished, "all": len(summary.runs)},
        "variants": {
            variant.name: {
                "protocol": dict(variant.protocol),
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
        "unfinished": {
            run.name: {"status": run.status, "steps": run.steps, "reason": run.reason}
            for run in summary.runs
            if run.status != "finished"
        },
    }
