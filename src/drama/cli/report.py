"""``drama report``: tables, figures and a page of the results of a suite or a run."""

from __future__ import annotations

from drama.cli.common import Parser, out, status


def report(args: list[str]) -> int:
    """``drama report``: write tables, figures and a page of a suite's results."""
    parser = Parser(
        prog="drama report",
        allow_abbrev=False,
        description="Write tables (Markdown, CSV, LaTeX), figures (SVG, PNG) and a self-contained "
        "HTML page of the finished runs of a suite. Unfinished runs are listed. Of a single run, "
        "imagined frames and rollout error of its world model too.",
    )
    parser.add_argument("suite", metavar="DIR", help="directory of the suite, or of a run")
    parser.add_argument("--out", metavar="DIR", help="output directory (default: DIR/report)")
    parser.add_argument(
        "--mode",
        choices=("greedy", "sampled"),
        default="greedy",
        help="evaluation to report (default: greedy)",
    )
    options = parser.parse_args(args)
    from drama.report import write_report

    with status() as show:
        written = write_report(options.suite, options.out, mode=options.mode, progress=show)
    summary = written.summary
    out.print(f"{summary.finished} of {len(summary.runs)} runs finished")
    for variant in summary.variants:
        for left in variant.left_out:
            out.print(f"excluded: {left.run.name}: {left.reason}")
    for run in summary.untrained:
        out.print(f"not trained: {run.name}: {run.untrained}")
    out.print(f"written to {written.page}")
    return 0
