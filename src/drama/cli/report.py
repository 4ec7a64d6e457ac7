"""``drama report``: what a suite or a run has come to."""

from __future__ import annotations

from drama.cli.common import Parser, out, status


def report(args: list[str]) -> int:
    """``drama report``: tables, figures and one page from whatever has finished."""
    parser = Parser(
        prog="drama report",
        allow_abbrev=False,
        description="Write tables (Markdown, CSV, LaTeX), figures (SVG, PNG) and one HTML page "
        "that needs no other file, from the finished runs of a suite; the others are named. For a "
        "single run, with imagined frames and rollout error of its world model.",
    )
    parser.add_argument("suite", metavar="DIR", help="directory of the suite, or of a run")
    parser.add_argument("--out", metavar="DIR", help="where to write (default: DIR/report)")
    parser.add_argument(
        "--mode",
        choices=("greedy", "sampled"),
        default="greedy",
        help="which evaluation counts (default: greedy)",
    )
    options = parser.parse_args(args)
    from drama.report import write_report

    with status() as say:
        written = write_report(options.suite, options.out, mode=options.mode, progress=say)
    summary = written.summary
    out.print(f"{summary.finished} of {len(summary.runs)} runs finished")
    for variant in summary.variants:
        for left in variant.left_out:
            out.print(f"left out: {left.run.name}: {left.reason}")
    out.print(f"written to {written.page}")
    return 0
