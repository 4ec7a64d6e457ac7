"""The page of a report in a real browser: figures, requests and width.

The page is inspected in a frame of phone width and in one of desktop width. Needs Chromium or
Chrome: the Debian package ``chromium``, or a browser whose path is in ``DRAMA_BROWSER``.
"""

from __future__ import annotations

import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from tests.report.made_up import PONG, UNIFORM, XS, runs

from drama.report import write_summary
from drama.report.summarise import summarise

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = os.environ.get("DRAMA_BROWSER") or next(filter(None, map(shutil.which, NAMES)), None)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        BROWSER is None,
        reason="no browser: apt-get install chromium, or its path in DRAMA_BROWSER",
    ),
]

FRAME = """<!DOCTYPE html><link rel="icon" href="data:,"><pre id="found"></pre><script>
function look(width) {
  return new Promise((done) => {
    const frame = document.createElement("iframe");
    frame.style.cssText = `width:${width}px;height:700px;border:0`;
    frame.src = "index.html";
    frame.onload = () => {
      const page = frame.contentDocument;
      const style = (e) => frame.contentWindow.getComputedStyle(e);
      done({
        width: page.documentElement.clientWidth,
        wide: page.documentElement.scrollWidth,
        images: [...page.images].map((i) => ({
          name: i.closest("figure").id, width: i.naturalWidth, shown: i.clientWidth,
          complete: i.complete, alt: i.alt.length })),
        captions: [...page.querySelectorAll("figcaption")].map((c) => c.clientHeight),
        hint: frame.contentWindow.getComputedStyle(
          page.querySelector("figcaption"), "::before").content,
        tables: page.querySelectorAll("table").length,
        ink: style(page.body).color, paper: style(page.body).backgroundColor,
      });
      frame.remove();
    };
    document.body.append(frame);
  });
}
(async () => {
  const found = [await look(360), await look(1200)];
  document.getElementById("found").textContent = JSON.stringify(found);
})();
</script>"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, list[str], Path]]:
    """A report served on this machine, and the requests to the server."""
    root = tmp_path_factory.mktemp("browser")
    given: list[dict[str, Any]] = [
        {"variant": variant, "game": PONG, "seed": seed, "score": 2.0 + seed, "steps": 20_000}
        for variant in (XS, UNIFORM)
        for seed in (0, 1)
    ]
    given.append({"variant": XS, "game": "ALE/Krull-v5", "status": "missing", "steps": 20_000})
    written = write_summary(summarise(root, "Seen", runs(root, *given)), root / "out")
    (written.out / "frame.html").write_text(FRAME)
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(written.out))

        def log_message(self, *args: Any) -> None:
            asked.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked, written.out
        server.shutdown()
        thread.join()


def browse(url: str, profile: Path, *options: str) -> tuple[str, list[str]]:
    """Return the document when all is loaded, and the lines of the console."""
    assert BROWSER is not None
    command = [
        BROWSER,
        "--headless=new",
        "--no-sandbox",  # tests may run as root
        "--disable-gpu",
        "--hide-scrollbars",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        f"--user-data-dir={profile}",
        "--enable-logging=stderr",
        "--virtual-time-budget=20000",
        *options,
        "--dump-dom",
        url,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def look(url: str, profile: Path, *options: str) -> tuple[list[dict[str, Any]], list[str]]:
    document, console = browse(f"{url}/frame.html", profile, *options)
    match = re.search(r'<pre id="found">(.*?)</pre>', document, re.DOTALL)
    assert match is not None, document[:500]
    return json.loads(match[1]), console


def test_browser_shows_every_figure_without_errors(
    site: tuple[str, list[str], Path], tmp_path: Path
) -> None:
    url, asked, out = site
    asked.clear()
    found, console = look(url, tmp_path / "light", "--blink-settings=preferredColorScheme=1")
    assert console == []
    # The page itself twice, and no further request.
    assert sorted(set(asked)) == ["/frame.html", "/index.html"]
    drawn = sorted(f"figure-{path.stem}" for path in (out / "figures").glob("*.svg"))
    assert len(drawn) == 5
    for view in found:
        assert sorted(image["name"] for image in view["images"]) == drawn
        assert all(image["complete"] and image["width"] > 300 for image in view["images"])
        assert all(image["alt"] > 20 for image in view["images"])
        assert all(height > 10 for height in view["captions"])
        assert view["tables"] >= 5
    phone, desk = found
    # Only elements that scroll are wider than the screen.
    assert phone["width"] == phone["wide"] == 360
    assert desk["width"] == desk["wide"] == 1200
    assert all(image["shown"] >= 490 for image in phone["images"]), "too small to read"
    # So they are wider than a phone, which only the phone layout mentions.
    assert (phone["hint"], desk["hint"]) == ('"Swipe to see all of it. "', "none")


def test_page_follows_the_preferred_colour_scheme(
    site: tuple[str, list[str], Path], tmp_path: Path
) -> None:
    url, _, _ = site
    colours = {}
    for name, number in (("dark", 0), ("light", 1)):
        option = f"--blink-settings=preferredColorScheme={number}"
        (phone, _), console = look(url, tmp_path / name, option)
        assert console == []
        colours[name] = [
            sum(map(int, re.findall(r"\d+", phone[key])[:3])) for key in ("ink", "paper")
        ]
    assert colours["light"][0] < 200 < 600 < colours["light"][1]
    assert colours["dark"][1] < 200 < 600 < colours["dark"][0]


def test_browser_check_detects_errors_and_requests(
    site: tuple[str, list[str], Path], tmp_path: Path
) -> None:
    # The check detects an error in a page, and a request.
    url, asked, out = site
    (out / "broken.html").write_text(
        "<!DOCTYPE html><link rel=icon href='data:,'><img src=absent.png><script>no.such()</script>"
    )
    _, console = browse(f"{url}/broken.html", tmp_path / "broken")
    assert any("no is not defined" in line for line in console)
    assert "/absent.png" in asked


def test_screenshot_for_the_readme_is_written(
    site: tuple[str, list[str], Path], tmp_path: Path
) -> None:
    sys.path.insert(0, str(Path(__file__).parents[2]))  # benchmarks/ is part of a checkout
    from benchmarks.report import picture

    _, _, out = site
    for dark in (False, True):
        picture(out / "index.html", tmp_path / "page.png", 640, 800, dark=dark)
        pixels = cv2.imread(str(tmp_path / "page.png"))
        assert pixels is not None
        assert pixels.shape == (800, 640, 3)
        corner = int(pixels[-1, 0].max())
        assert corner < 60 if dark else corner == 255
        assert len(np.unique(pixels)) > 50  # the image is not empty
