"""Screenshot of a report for the docs: ``python -m benchmarks.report SUITE``.

Writes the report of a suite (such as ``suites/toy`` of ``drama suite run toy``) and a screenshot of
the top of its page by Chromium or Chrome: ``docs/assets/report.png``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from drama.report import write_report

ASSETS = Path(__file__).resolve().parent.parent / "docs" / "assets"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def find_browser() -> str:
    """Return the path of a browser: ``DRAMA_BROWSER`` or an installed one."""
    found = os.environ.get("DRAMA_BROWSER") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        raise SystemExit(
            "no browser found: apt-get install chromium, or set DRAMA_BROWSER to its path"
        )
    return found


def picture(page: Path, png: Path, width: int, height: int, *, dark: bool = False) -> None:
    """Take a screenshot of the top of a page.

    Args:
        page: HTML file.
        png: Output file.
        width: CSS pixels, at least 500.
        height: CSS pixels.
        dark: Use the dark colour scheme.
    """
    with tempfile.TemporaryDirectory() as profile:
        options = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            f"--user-data-dir={profile}",
            f"--window-size={width},{height}",
            f"--screenshot={png}",
        ]
        subprocess.run(
            [find_browser(), *options, page.resolve().as_uri()],
            check=True,
            capture_output=True,
            timeout=120,
        )


def main(argv: Sequence[str] | None = None) -> None:
    """Write the report and its screenshot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suite", type=Path, help="directory of a suite")
    parser.add_argument("--out", type=Path, default=ASSETS / "report.png")
    parser.add_argument("--width", type=int, default=1000)
    parser.add_argument("--height", type=int, default=1300)
    parser.add_argument("--dark", action="store_true")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as place:
        written = write_report(options.suite, Path(place) / "report")
        picture(written.page, options.out, options.width, options.height, dark=options.dark)
    print(f"{options.out}: {written.summary.finished} of {len(written.summary.runs)} runs finished")


if __name__ == "__main__":
    main()
