"""The page of a report: one self-contained HTML file, and the same in Markdown."""

from __future__ import annotations

import base64
import html
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from drama.report.protocol import protocol_notes
from drama.report.runs import Run
from drama.report.summary import Summary
from drama.report.table import Cell, Table, markdown_text
from drama.report.tables import progress_table
from drama.text import duration, plural

if TYPE_CHECKING:
    from drama.report.drawing import Figure

GENERATOR = "drama report"
"""Marks a page as replaceable by the next report."""

STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --soft: #5b6168; --paper: #ffffff;
  --card: #f5f6f8; --line: #d9dce1; --link: #0b57a4; --warn: #8a4b00; --shade: #0000004d; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7e9ec; --soft: #a3aab3; --paper: #16181b;
  --card: #202327; --line: #3a3f46; --link: #7db7f0; --warn: #f0b35a; --shade: #ffffff4d; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 84rem; padding: 1rem 1rem 4rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: .5rem 0; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; border-bottom: 1px solid var(--line); }
a { color: var(--link); }
nav ul { display: flex; flex-wrap: wrap; gap: .2rem 1rem; padding: 0; list-style: none; }
.lead { color: var(--soft); }
.warn { border-left: 4px solid var(--warn); background: var(--card); padding: .5rem .8rem; }
.scroll { overflow-x: auto; margin: .8rem 0; border: 1px solid var(--line); border-radius: 6px;
  /* A shadow at each edge with hidden content; gradients that scroll along cover it elsewhere. */
  background: linear-gradient(to right, var(--paper) 40%, transparent) left / 3rem 100% local,
    linear-gradient(to left, var(--paper) 40%, transparent) right / 3rem 100% local,
    linear-gradient(to right, var(--shade), transparent) left / 1.1rem 100% scroll,
    linear-gradient(to left, var(--shade), transparent) right / 1.1rem 100% scroll;
  background-repeat: no-repeat; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums;
  width: 100%; }
caption { text-align: left; padding: .5rem .6rem; font-weight: 600; }
th, td { padding: .3rem .6rem; border-top: 1px solid var(--line); white-space: nowrap; }
td { text-align: right; }
thead th { text-align: right; vertical-align: bottom; background: var(--card);
  white-space: normal; min-width: 4.5rem; }
thead th:first-child, tbody th { text-align: left; }
tbody th { position: sticky; left: 0; background: var(--paper); font-weight: 500; }
tr.first > * { border-top: 2px solid var(--soft); }
table.words td { text-align: left; white-space: normal; min-width: 9rem; }
table.words thead th { text-align: left; }
table.words tbody th { white-space: normal; min-width: 9rem; }
.notes { color: var(--soft); font-size: .88rem; padding-left: 1.2rem; }
figure { margin: 1.2rem 0; }
figure .scroll { background: #ffffff; }
figure img { display: block; margin: 0 auto; max-width: 100%; height: auto; }
figcaption { color: var(--soft); font-size: .88rem; margin-top: .4rem; }
code { font-size: .85em; }
@media (max-width: 40rem) { figure img { max-width: none; }
  figcaption::before { content: "Swipe to see all of it. "; font-weight: 600; } }
@media print { nav { display: none; } .scroll { overflow: visible; } }
"""


def html_page(summary: Summary, tables: Sequence[Table], figures: Sequence[Figure]) -> str:
    """Return the HTML page: tables, inline SVG figures, protocol, missing runs and machines.

    Args:
        summary: Summary of the suite.
        tables: In the order of the page.
        figures: In the order of the page.
    """
    title = f"{summary.name}: report"
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        f'<meta name="generator" content="{GENERATOR}">',
        # Without an icon, browsers request one from the server.
        '<link rel="icon" href="data:,">',
        f"<title>{html.escape(title)}</title>",
        f"<style>{STYLE}</style>",
        "</head>",
        "<body>",
        "<header>",
        f"<h1>{html.escape(title)}</h1>",
        *(f'<p class="lead">{html.escape(line)}</p>' for line in _lead(summary)),
        *(f'<p class="warn">{html.escape(line)}</p>' for line in _warnings(summary)),
        "</header>",
        "<nav aria-label='Sections'><ul>",
        *(
            f'<li><a href="#{anchor}">{name}</a></li>'
            for anchor, name in (
                ("results", "Results"),
                ("figures", "Figures"),
                ("protocol", "Protocol"),
                ("missing", "What is missing"),
                ("made-with", "Machines"),
            )
        ),
        "</ul></nav>",
        "<main>",
        '<section id="results"><h2>Results</h2>',
        *(table.html() for table in tables),
        "</section>",
        '<section id="figures"><h2>Figures</h2>',
        *(_figure(figure) for figure in figures),
        *([] if figures else ["<p>No run has enough episodes to draw.</p>"]),
        "</section>",
        '<section id="protocol"><h2>Protocol</h2>',
        _list(protocol_notes(summary)) or "<p>No run has been evaluated yet.</p>",
        _words(_settings(summary)),
        "</section>",
        '<section id="missing"><h2>What is missing</h2>',
        progress_table(summary).html(),
        _words(_absent(summary)) or "<p>Nothing: every run finished and is included.</p>",
        "</section>",
        '<section id="made-with"><h2>Machines</h2>',
        _words(_machines(summary)) or "<p>No run has a record of its machine.</p>",
        _list(_odd(summary)),
        "</section>",
        "</main>",
        "</body>",
        "</html>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def markdown_page(summary: Summary, tables: Sequence[Table], figures: Sequence[Figure]) -> str:
    """Return the Markdown page, with links to the PNG figures."""
    parts = [f"# {markdown_text(summary.name)}: report", *map(markdown_text, _lead(summary))]
    parts += [f"**{markdown_text(line)}**" for line in _warnings(summary)]
    for table in tables:
        parts += [f"## {markdown_text(table.title)}", table.markdown().rstrip()]
    for figure in figures:
        parts += [
            f"## {markdown_text(figure.title)}",
            f"![{markdown_text(figure.alt)}](figures/{figure.name}.png)",
            markdown_text(figure.caption),
        ]
    notes = [f"- {markdown_text(note)}" for note in protocol_notes(summary)]
    parts += ["## Protocol", "\n".join(notes) or "No run has been evaluated yet."]
    for words in (_settings(summary), _absent(summary), _machines(summary)):
        if words.rows:
            parts += [f"## {words.title}", words.markdown().rstrip()]
    return "\n\n".join(parts) + "\n"


def _lead(summary: Summary) -> list[str]:
    total = len(summary.runs)
    seeds = sorted({run.seed for run in summary.runs})
    return [
        f"{summary.finished} of {total} runs finished: {plural(len(summary.variants), 'variant')}, "
        f"{plural(len(summary.env_ids), 'game')}, seeds {_ranges(seeds)}. "
        f"Total wall time of training: {duration(sum(run.seconds for run in summary.runs))}."
    ]


def _warnings(summary: Summary) -> list[str]:
    counts = Counter(_state(run) for run in summary.runs if run.status != "finished")
    left_out = sum(len(variant.left_out) for variant in summary.variants)
    lines = []
    if counts:
        states = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
        lines.append(f"Incomplete suite: {states}. All numbers are from finished runs only.")
    if left_out:
        lines.append(
            f"{plural(left_out, 'finished run')} excluded from every average, for the reasons "
            "listed below."
        )
    untrained: dict[str, list[str]] = {}
    for run in summary.untrained:
        untrained.setdefault(run.untrained, []).append(run.name)
    for reason, names in untrained.items():
        lines.append(f"{plural(len(names), 'finished run')} made {reason} ({', '.join(names)}).")
    return lines


def _settings(summary: Summary) -> Table:
    """Table of the settings in which each variant differs from the first."""
    rows = []
    for i, variant in enumerate(summary.variants):
        if i == 0:
            text = "baseline of the comparison"
        elif variant.name in summary.differences:
            text = "; ".join(summary.differences[variant.name]) or "no relevant difference"
        else:
            text = "unknown: no run yet of this variant or of the first"
        rows.append((Cell(variant.name), Cell(text)))
    return Table("settings", "Variants", ("Variant", "Settings"), tuple(rows), words=True)


def _absent(summary: Summary) -> Table:
    """Table of the runs excluded from every average, with reasons."""
    rows = []
    for run in summary.runs:
        if run.status != "finished":
            steps = f"{run.steps:,}" if run.steps else "none"
            if run.steps and run.steps_asked:
                steps += f" of {run.steps_asked:,}"
            rows.append(_absence(summary, run, _state(run), steps, run.reason))
    for variant in summary.variants:
        for left in variant.left_out:
            steps = f"{left.run.steps:,}"
            rows.append(_absence(summary, left.run, "excluded", steps, left.reason))
    header = ("Run", "Status", "Steps", "Reason", "Directory")
    return Table("absent", "Runs excluded from every average", header, tuple(rows), words=True)


def _absence(summary: Summary, run: Run, status: str, steps: str, reason: str) -> tuple[Cell, ...]:
    folder = str(run.path)
    if run.path.is_relative_to(summary.directory):
        folder = run.path.relative_to(summary.directory).as_posix()
    # The directory has its own column.
    reason = reason.replace(f"{run.path}/", "").replace(str(run.path), "the directory")
    return tuple(Cell(text) for text in (run.name, status, steps, reason or "not started", folder))


def _state(run: Run) -> str:
    """Return the status for readers: a running run looks like an interrupted one."""
    return "unfinished" if run.status == "interrupted" else run.status


def _machines(summary: Summary) -> Table:
    """Table of runs and wall time by machine and versions."""
    keys = ("device_name", "device", "precision", "backend", "threads")
    versions = ("drama", "torch", "python", "system")
    count: Counter[tuple[str, ...]] = Counter()
    seconds: Counter[tuple[str, ...]] = Counter()
    for run in summary.runs:
        if not run.starts:
            continue
        last = run.starts[-1]
        key = tuple(str(last.get(name, "unknown")) for name in (*keys, *versions))
        count[key] += 1
        seconds[key] += round(run.seconds)
    header = ("Machine", "Device", "Precision", "Backend", "Threads", "drama", "PyTorch", "Python")
    rows = [
        tuple(Cell(text) for text in (*key, str(count[key]), duration(seconds[key])))
        for key in sorted(count)
    ]
    return Table(
        "machines", "Machines", (*header, "System", "Runs", "Wall time"), tuple(rows), words=True
    )


def _odd(summary: Summary) -> list[str]:
    """Notes on single included runs."""
    lines = []
    for run in summary.runs:
        lines += [f"{run.name}: {note}." for note in run.notes]
        kinds = {
            tuple(str(s.get(k)) for k in ("device_name", "torch", "drama")) for s in run.starts
        }
        if len(kinds) > 1:
            lines.append(f"{run.name}: continued on another machine or with other versions.")
    return lines


def _figure(figure: Figure) -> str:
    data = base64.b64encode(figure.svg.encode()).decode()
    title = html.escape(figure.title)
    return (
        f'<figure id="figure-{figure.name}"><h3>{title}</h3>'
        f'<div class="scroll" role="region" tabindex="0" aria-label="{title}">'
        f'<img src="data:image/svg+xml;base64,{data}" alt="{html.escape(figure.alt)}" '
        f'width="{figure.width}" height="{figure.height}"></div>\n'
        f"<figcaption>{html.escape(figure.caption)}</figcaption></figure>"
    )


def _words(table: Table) -> str:
    """Return the table as HTML, or nothing if it has no row."""
    return table.html() if table.rows else ""


def _list(lines: Iterable[str]) -> str:
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>" if items else ""


def _ranges(numbers: Sequence[int]) -> str:
    """Return ``0, 1, 2, 4`` as ``0 to 2, 4``."""
    groups: list[list[int]] = []
    for value in numbers:
        if groups and value == groups[-1][-1] + 1:
            groups[-1].append(value)
        else:
            groups.append([value])
    return ", ".join(str(g[0]) if len(g) == 1 else f"{g[0]} to {g[-1]}" for g in groups) or "none"
