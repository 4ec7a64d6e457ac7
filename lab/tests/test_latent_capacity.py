"""Latent capacity: the log matches the measurements."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("minatar", reason="MinAtar is not installed")


from lab import LAB, LOG, latent_capacity


def test_log_matches_the_recorded_numbers() -> None:
    page = (LAB / LOG).read_text(encoding="utf-8")
    path = LAB / "assets" / "latent_capacity.json"
    assert latent_capacity.markdown(json.loads(path.read_text(encoding="utf-8"))) in page


def test_untrained_model_is_worse_than_the_mean_frame(tmp_path: Path) -> None:
    shutil.copy(LAB / LOG, tmp_path / LOG)
    options = ["--steps", "600", "--updates", "2", "--every", "1", "--lab", str(tmp_path)]
    latent_capacity.main(options)
    found = json.loads((tmp_path / "assets" / "latent_capacity.json").read_text())
    assert [name for name, _ in found["cases"]] == list(latent_capacity.CASES)
    for _, case in found["cases"]:
        # 17 cells of 700 are on; a mean frame errs where cars pass.
        assert 5 < case["mean_frame"] < 17
        assert all(error > 100 for error in case["reconstruction"])
    (plain, _), (larger, _), *_ = ((c["reconstruction"], n) for n, c in found["cases"])
    assert plain != larger
