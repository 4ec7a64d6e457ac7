"""Runs a lab script on a run, with a copy of the log."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

from lab import LAB, LOG
from lab.runs import markdown


def measured(
    script: ModuleType, what: str, run: Path, tmp_path: Path, *options: str
) -> list[dict[str, Any]]:
    """Measure twice: the second call replaces the rows of the first; the run does not change."""
    shutil.copy(LAB / LOG, tmp_path / LOG)
    before = {p: p.read_bytes() for p in sorted(run.rglob("*")) if p.is_file()}
    for _ in range(2):
        script.main([what, f"here={run}", "--lab", str(tmp_path), *options])
    assert before == {p: p.read_bytes() for p in sorted(run.rglob("*")) if p.is_file()}
    name = f"{script.__name__.rpartition('.')[2]}-{what}"
    found = json.loads((tmp_path / "assets" / f"{name}.json").read_text())
    assert markdown(script.PARTS[what], found) in (tmp_path / LOG).read_text(encoding="utf-8")
    results: list[dict[str, Any]] = found["results"]
    assert {r["label"] for r in results} == {"here"}
    return results
