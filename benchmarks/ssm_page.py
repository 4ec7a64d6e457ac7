"""Tables of the benchmarks of the Mamba layers, in ``docs/performance.md``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import measure
from benchmarks.measure import MIB, milliseconds

TABLES = {
    "others": (
        "Other implementations with default settings, forward and backward",
        ("ours, ms", "other, ms", "other layer"),
    ),
    "tuned": (
        "Other implementations with their fastest chunk, forward and backward",
        ("ours, ms", "other, ms", "other layer"),
    ),
    "projections": (
        "Layer vs its two projections, forward and backward",
        ("layer, ms", "projections, ms"),
    ),
    "step": ("Late vs early step, no gradients", ("late, ms", "early, ms")),
    "generations": (
        "Mamba-2 vs Mamba-1, both ours, forward and backward, float32",
        ("Mamba-2, ms", "Mamba-1, ms"),
    ),
}


def lines(rows: Sequence[dict[str, Any]], name: str) -> str:
    """Return one table in Markdown; empty without rows."""
    title, columns = TABLES[name]
    mine = [row for row in rows if row["table"] == name]
    if not mine:
        return ""
    if name == "step":
        late, early = mine[0]["steps"]
        columns = (f"step {late}, ms", f"step {early}, ms")
    cells = []
    for row in mine:
        ratio = row["ratio"]
        cells.append(
            [
                row["title"],
                milliseconds(row["measured"]["median"]),
                milliseconds(row["compared"]["median"]),
                *([row["against"]] if "against" in row else []),
                f"**{ratio['median']:.2f}** ({ratio['lower']:.2f} to {ratio['upper']:.2f})",
                f"≤ {row['target']:.2f}",
                "yes" if row["met"] else "**no**",
                milliseconds(row["floor"]["seconds"]),
                f"{row['over_floor']:.1f}",
                f"{at_floor(row):.2f}",
            ]
        )
    ends = ("floor, ms", "over floor", "ratio at floor")
    header = ("", *columns, "ratio (quartiles)", "target", "met", *ends)
    return f"**{title}**\n\n{measure.table(header, cells)}"


def at_floor(row: Mapping[str, Any]) -> float:
    """Return the ratio of a layer at its floor, the lower bound on this machine."""
    return float(row["floor"]["seconds"] / row["compared"]["median"])


def memory_lines(rows: Sequence[dict[str, Any]]) -> str:
    """Return the table of peak memory; empty if none was measured."""
    cells = [
        [
            row["title"],
            f"{row['memory']['ours'] / MIB:.1f}",
            f"{row['memory']['theirs'] / MIB:.1f}",
            row["against"],
            f"**{row['memory']['ratio']:.2f}**",
            "" if row["memory"]["target"] is None else f"≤ {row['memory']['target']:.2f}",
            {None: "", True: "yes", False: "**no**"}[row["memory"]["met"]],
        ]
        for row in rows
        if "memory" in row
    ]
    if not cells:
        return ""
    header = ("", "ours, MiB", "other, MiB", "other layer", "ratio", "target", "met")
    title = "Peak memory of a forward and backward pass, without weights and input"
    return f"**{title}**\n\n{measure.table(header, cells)}"


def missed(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return a line per missed target."""
    found = []
    for row in rows:
        kind = TABLES[row["table"]][0].split(",")[0].lower()
        if row["met"] is False:
            text = f"{row['ratio']['median']:.3g}, target {row['target']:.2f}"
            text += f", floor {at_floor(row):.2f}"
            found.append(f"{row['title']} ({kind}): {text}")
        memory = row.get("memory")
        if memory is not None and memory["met"] is False:
            found.append(
                f"{row['title']} (peak memory): {memory['ratio']:.2f}, "
                f"target {memory['target']:.2f}"
            )
    return found


def markdown(result: dict[str, Any]) -> str:
    """Return the block of ``docs/performance.md``."""
    rows, rates = result["rows"], result["rates"]
    not_met = missed(rows)
    parts = [
        measure.provenance(result),
        f"Limits of the machine measured in the same run: matrix products "
        f"{rates['float32'] / 1e9:.0f} GFLOP/s in float32 and {rates['bfloat16'] / 1e9:.0f} in "
        f"bfloat16; memory {rates['memory'] / 1e9:.1f} GB/s.",
        *(lines(rows, name) for name in TABLES),
        memory_lines(rows),
        "**Missed targets**\n\n" + "\n".join(f"- {text}" for text in not_met)
        if not_met
        else "All targets are met.",
    ]
    return "\n\n".join(part for part in parts if part)
