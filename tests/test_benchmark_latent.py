"""Whether a latent comes to hold what moves: that the numbers are told as they were measured."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

pytest.importorskip("minatar", reason="MinAtar is not installed")

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # benchmarks/ is part of a checkout, not of the package

from benchmarks import latent  # noqa: E402


def test_the_page_says_what_the_file_says() -> None:
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    path = ROOT / "docs" / "assets" / "results" / "latent.json"
    assert latent.markdown(json.loads(path.read_text(encoding="utf-8"))) in page


def test_untrained_models_are_worse_than_the_mean_frame(tmp_path: Path) -> None:
    shutil.copy(ROOT / "docs" / "results.md", tmp_path / "results.md")
    options = ["--steps", "600", "--updates", "2", "--every", "1", "--docs", str(tmp_path)]
    latent.main(options)
    found = json.loads((tmp_path / "assets" / "results" / "latent.json").read_text())
    assert [name for name, _ in found["cases"]] == list(latent.CASES)
    for _, case in found["cases"]:
        # 17 cells of 700 are on; a mean frame errs where cars pass.
        assert 5 < case["mean_frame"] < 17
        assert all(error > 100 for error in case["reconstruction"])
    (plain, _), (larger, _), *_ = ((c["reconstruction"], n) for n, c in found["cases"])
    assert plain != larger
