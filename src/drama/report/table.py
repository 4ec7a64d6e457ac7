"""A table as data, and its Markdown, CSV, LaTeX and HTML forms."""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from drama.text import one_line

MISSING = "—"
"""Text of an empty cell."""


@dataclass(frozen=True)
class Cell:
    """One cell of a table."""

    text: str = MISSING
    bold: bool = False
    value: float | None = None
    """Unrounded number of the text; None if the text is not one number."""
    more: Mapping[str, float] = field(default_factory=dict)
    """Further numbers of the text by name, such as the ends of an interval."""


@dataclass(frozen=True)
class Table:
    """A table whose first column names the row."""

    name: str
    """Stem of the file names."""
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()
    """Notes below the table."""
    split: int = 0
    """Index of the first aggregate row, below a separating line; 0 = none."""
    words: bool = False
    """Whether cells hold text rather than numbers."""

    def markdown(self) -> str:
        """Return the table as Markdown, with notes."""
        rule = [":---", *[":---" if self.words else "---:"] * (len(self.header) - 1)]
        lines = [_pipe([markdown_text(h) for h in self.header]), _pipe(rule)]
        for row in self.rows:
            texts = [markdown_text(cell.text) for cell in row]
            lines.append(
                _pipe([f"**{t}**" if c.bold else t for c, t in zip(row, texts, strict=True)])
            )
        notes = [f"- {markdown_text(note)}" for note in self.notes]
        return "\n".join([*lines, *([""] if notes else []), *notes]) + "\n"

    def csv(self) -> str:
        """Return the table as CSV.

        Numbers are unrounded, missing ones empty. Further numbers of a cell have their own
        columns: ``A``, ``A low``, ``A high``, ``A seeds``.
        """
        columns = range(len(self.header))
        more = [list(dict.fromkeys(n for row in self.rows for n in row[i].more)) for i in columns]
        head = [
            name
            for i in columns
            for name in (self.header[i], *(f"{self.header[i]} {part}" for part in more[i]))
        ]
        body = (
            [
                entry
                for i, cell in enumerate(row)
                for entry in (_plain(cell), *(cell.more.get(part, "") for part in more[i]))
            ]
            for row in self.rows
        )
        return csv_text([head, *body])

    def latex(self) -> str:
        """Return the table as LaTeX; needs the package ``booktabs``."""
        columns = "l" + ("l" if self.words else "r") * (len(self.header) - 1)
        lines = [
            "% needs \\usepackage{booktabs}",
            f"\\begin{{tabular}}{{{columns}}}",
            "\\toprule",
            " & ".join(_latex(h) for h in self.header) + r" \\",
            "\\midrule",
        ]
        for number, row in enumerate(self.rows):
            if self.split and number == self.split:
                lines.append("\\midrule")
            cells = [_latex_cell(cell) for cell in row]
            # LaTeX reads "[" or "*" after a row end as its argument.
            shield = "{}" if cells[0].startswith(("[", "*")) else ""
            lines.append(shield + " & ".join(cells) + r" \\")
        lines += ["\\bottomrule", "\\end{tabular}"]
        lines += [f"% {one_line(note)}" for note in self.notes]
        return "\n".join(lines) + "\n"

    def html(self) -> str:
        """Return the table as HTML in a horizontally scrolling container, with notes."""
        head = "".join(f'<th scope="col">{html.escape(h)}</th>' for h in self.header)
        body = []
        for number, row in enumerate(self.rows):
            kind = ' class="first"' if self.split and number == self.split else ""
            cells = [_html_cell(cell, first=not i) for i, cell in enumerate(row)]
            body.append(f"<tr{kind}>{''.join(cells)}</tr>")
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in self.notes)
        title = html.escape(self.title)
        kind = ' class="words"' if self.words else ""
        return (
            f'<div class="scroll" role="region" tabindex="0" aria-label="{title}">'
            f'<table id="{self.name}"{kind}><caption>{title}</caption>'
            f"<thead><tr>{head}</tr></thead>\n"
            f"<tbody>{chr(10).join(body)}</tbody></table></div>\n"
            + (f'<ul class="notes">{notes}</ul>\n' if notes else "")
        )


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """Return rows as CSV; no cell is a spreadsheet formula."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerows([_no_formula(cell) for cell in row] for row in rows)
    return file.getvalue()


def _no_formula(cell: object) -> object:
    """Prefix text that begins like a formula with an apostrophe."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(tuple("=+-@\t\r")) else cell


def _pipe(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def markdown_text(text: str) -> str:
    """Return text on one line, escaped for Markdown."""
    return re.sub(r"([\\|*_`<>\[\]#$~&])", r"\\\1", one_line(text))


def _plain(cell: Cell) -> str | float:
    if cell.value is not None:
        return cell.value
    return "" if cell.text == MISSING else cell.text


def _latex(text: str) -> str:
    special = {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "—": "---",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
    }
    return "".join(special.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in one_line(text))


def _latex_cell(cell: Cell) -> str:
    text = _latex(cell.text)
    if cell.value is not None:
        text = text.replace("-", "$-$")  # a minus, not a hyphen
    return rf"\textbf{{{text}}}" if cell.bold else text


def _html_cell(cell: Cell, *, first: bool) -> str:
    text = html.escape(cell.text)
    text = f"<b>{text}</b>" if cell.bold else text
    return f'<th scope="row">{text}</th>' if first else f"<td>{text}</td>"
