"""What random play is rewarded with, by how long it holds an action."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # benchmarks/ is part of a checkout, not of the package

from benchmarks import exploration  # noqa: E402


def test_catch_is_caught_as_often_as_chance_has_it() -> None:
    # Seven steps an episode, a return of -0.75 at random: 1 in 8 is caught.
    caught = exploration.rewarded("drama/Catch-v0", 1, 7 * 800)
    assert abs(caught - 100) < 40


def test_the_page_says_what_the_file_says(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    path = ROOT / "docs" / "assets" / "results" / "exploration.json"
    assert exploration.markdown(json.loads(path.read_text(encoding="utf-8"))) in page
    shutil.copy(ROOT / "docs" / "results.md", tmp_path / "results.md")
    options = [
        "--games",
        "drama/Catch-v0",
        "--holds",
        "1",
        "2",
        "--steps",
        "200",
        "--episodes",
        "3",
    ]
    exploration.main([*options, "--docs", str(tmp_path)])
    assert "drama/Catch-v0" in (tmp_path / "results.md").read_text(encoding="utf-8")
