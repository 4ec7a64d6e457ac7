"""Reward of random play by action repeat."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from lab import LAB, LOG, random_exploration


def test_random_play_of_catch_has_the_expected_reward() -> None:
    # Seven steps an episode, a return of -0.75 at random: 1 in 8 is caught.
    caught = random_exploration.rewarded("drama/Catch-v0", 1, 7 * 800)
    assert abs(caught - 100) < 40


def test_log_matches_the_recorded_numbers(tmp_path: Path) -> None:
    page = (LAB / LOG).read_text(encoding="utf-8")
    path = LAB / "assets" / "random_exploration.json"
    assert random_exploration.markdown(json.loads(path.read_text(encoding="utf-8"))) in page
    shutil.copy(LAB / LOG, tmp_path / LOG)
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
    random_exploration.main([*options, "--lab", str(tmp_path)])
    assert "drama/Catch-v0" in (tmp_path / LOG).read_text(encoding="utf-8")
