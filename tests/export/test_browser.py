"""Exported pages in headless Chromium, driven by keys: frames, hand-over, clip, requests, errors.

Needs Debian's ``chromium`` and ``chromium-driver`` and, the first time, the npm registry.
"""

from __future__ import annotations

import functools
import http.server
import json
import os
import shutil
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest
from tests.export.agents import dream, made, saved
from tests.report.test_browser import BROWSER

from drama import Agent
from drama.errors import ConfigError
from drama.export import export_web
from drama.export.onnxruntime_web import runtime_files
from drama.export.random import END, PageRandom
from drama.export.starts import Start

DRIVER = os.environ.get("DRAMA_CHROMEDRIVER") or shutil.which("chromedriver")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        BROWSER is None or DRIVER is None,
        reason="no browser: apt-get install chromium chromium-driver",
    ),
]

KEYS = {0: "1", 1: "2", 2: "3"}
FRAMES = 100
SEED = 7


class Page(NamedTuple):
    agent: Agent
    folder: Path
    url: str
    asked: list[str]

    def start(self, index: int) -> Start:
        """A start, read from the page's files."""
        manifest = json.loads((self.folder / "dream.json").read_text())
        shape, dtype = manifest["observation"]["shape"], manifest["observation"]["dtype"]
        frames = np.fromfile(self.folder / "starts.bin", dtype).reshape(-1, *shape)
        counts = [start["observations"] for start in manifest["starts"]]
        begin, chosen = sum(counts[:index]), manifest["starts"][index]
        obs = frames[begin : begin + counts[index]]
        return Start(obs, np.array(chosen["actions"], np.int64), chosen["label"])


def serve(folder: Path, asked: list[str]) -> http.server.ThreadingHTTPServer:
    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            asked.append(self.path)

    handler = functools.partial(Handler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def exported(env: str, tmp: Path) -> Iterator[Page]:
    for module in ("onnxscript", "selenium"):
        pytest.importorskip(module)
    try:
        runtime_files()
    except ConfigError as error:
        pytest.skip(str(error))
    agent = made(env)
    run = saved(agent, tmp / "run")
    export_web(agent, tmp / "page", run=run, starts=4)
    asked: list[str] = []
    server = serve(tmp / "page", asked)
    yield Page(agent, tmp / "page", f"http://127.0.0.1:{server.server_port}", asked)
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def catch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    yield from exported("drama/Catch-v0", tmp_path_factory.mktemp("catch"))


@pytest.fixture(scope="module")
def cart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    yield from exported("CartPole-v1", tmp_path_factory.mktemp("cart"))


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Any]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for argument in (
        "--headless=new",
        "--no-sandbox",  # tests may run as root
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        "--window-size=1280,1000",
        f"--user-data-dir={tmp_path / 'profile'}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(executable_path=str(DRIVER))
    browser = webdriver.Chrome(options=options, service=service)
    browser.set_script_timeout(120)
    yield browser
    browser.quit()


def wait(check: Callable[[], Any], what: str, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < until, what
        time.sleep(0.02)


def opened(driver: Any, page: Page, query: str) -> None:
    driver.get(f"{page.url}/?{query}")
    status = "return document.getElementById('status').textContent"
    ready = "return document.body.classList.contains('ready') || \
        document.getElementById('screen').classList.contains('failed')"
    wait(lambda: driver.execute_script(ready), "the page loads")
    assert driver.execute_script("return typeof drama") == "object", driver.execute_script(status)


def press(driver: Any, key: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(driver, duration=0).send_keys(key).perform()


def assert_clean(driver: Any, page: Page) -> None:
    """No error in the console, and no request to another host."""
    assert [entry["message"] for entry in driver.get_log("browser")] == []
    hosts = set()
    for entry in driver.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            url = urlsplit(message["params"]["request"]["url"])
            if url.scheme in ("http", "https", "ws", "wss"):
                hosts.add(f"{url.scheme}://{url.netloc}")
    assert hosts == {page.url}
    assert "/ort/ort-wasm-simd-threaded.wasm" in page.asked


def test_dream_played_by_keys_is_that_of_pytorch(
    catch: Page, driver: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    start = catch.start(3)
    assert len(start.obs) > 1, "a start with a context"
    actions = [(3 * t + t // 5) % 3 for t in range(FRAMES)]
    expected = dream(catch.agent, start, SEED, actions)
    opened(driver, catch, f"paused&by=human&seed={SEED}&start=3")
    driver.execute_script("document.getElementById('at-end').value = 'continue'")
    for count, action in enumerate(actions, 1):
        press(driver, KEYS[action])
        wait(lambda n=count: driver.execute_script("return drama.steps") == n, "a frame for a key")
    found = driver.execute_script(
        "return drama.moments.map((m) => ({...m, obs: [...m.obs], policy: [...m.policy], "
        "latent: [...m.latent]}))"
    )
    assert len(found) == FRAMES + 1
    assert [moment.get("action") for moment in found[1:]] == actions
    assert {moment["by"] for moment in found} == {"human"}
    for own, reference in zip(found, expected, strict=True):
        assert own["latent"] == reference.latent
        frame = np.array(own["obs"]).reshape(reference.obs.shape)
        assert np.abs(frame - reference.obs.astype(int)).max() <= 1
        np.testing.assert_allclose(own["policy"], reference.policy, atol=1e-4)
        assert own["reward"] == pytest.approx(reference.reward, abs=1e-3, rel=1e-3)
        assert own["end"] == pytest.approx(reference.end, abs=1e-4)
        assert own["value"] == pytest.approx(reference.value, abs=1e-3, rel=1e-3)
    assert len({tuple(moment.latent) for moment in expected}) > 10, "the dream moves"

    latencies = driver.execute_script("return drama.latencies")
    assert len(latencies) == FRAMES
    computing = [moment["milliseconds"] for moment in found]
    with capfd.disabled():
        print(
            f"\nkey to frame: median {statistics.median(latencies):.1f} ms, of which computing "
            f"{statistics.median(computing):.1f} ms"
        )

    press(driver, "a")
    press(driver, "p")
    wait(lambda: driver.execute_script("return drama.steps") > FRAMES + 20, "the agent plays")
    after = driver.execute_script(
        f"return drama.moments.slice({FRAMES + 1}).map((m) => [m.by, m.action])"
    )
    assert {by for by, _ in after} == {"agent"}
    policy = driver.execute_script(
        f"return drama.moments.slice({FRAMES}, -1).map((m) => [...m.policy])"
    )
    assert [action for _, action in after] == [int(np.argmax(p)) for p in policy[: len(after)]]
    # And back, in the middle of the dream.
    press(driver, KEYS[0])
    wait(lambda: driver.execute_script("return drama.moments.at(-1).by") == "human", "the player")
    assert_not_blank(driver, tmp_path / "page.png")
    assert_clean(driver, catch)


def assert_not_blank(driver: Any, path: Path) -> None:
    driver.save_screenshot(str(path))
    pixels = cv2.imread(str(path))
    assert pixels is not None
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 100
    inside = driver.execute_script(
        "const c = document.getElementById('frame'); return [...new Set(new Uint32Array("
        "c.getContext('2d').getImageData(0, 0, c.width, c.height).data.buffer))].length"
    )
    assert inside > 2


def test_seed_restart_temperature_and_end(catch: Page, driver: Any) -> None:
    opened(driver, catch, "paused&by=human&seed=3")
    run = """
      const done = arguments[arguments.length - 1], [seed, temperature, count] = arguments;
      (async () => {
        document.getElementById("at-end").value = "continue";
        document.getElementById("seed").value = seed;
        document.getElementById("temperature").value = temperature;
        await drama.restart();
        for (let i = 0; i < count; i++) await drama.step(i % 3);
        done(drama.moments.slice(-count).map((m) => [...m.latent].join()));
      })();
    """
    first = driver.execute_async_script(run, 3, 1, 20)
    assert driver.execute_async_script(run, 3, 1, 20) == first
    assert driver.execute_async_script(run, 4, 1, 20) != first
    assert driver.execute_async_script(run, 3, 0.1, 20) != first
    # The end is sampled from its own stream, one number a step.
    ends = PageRandom(3, END).uniform(60)
    found = driver.execute_async_script(
        """
        const done = arguments[arguments.length - 1];
        (async () => {
          document.getElementById("temperature").value = 1;
          document.getElementById("at-end").value = "pause";
          await drama.restart();
          const probabilities = [];
          while (!drama.ended && probabilities.length < 60) {
            await drama.step(0);
            probabilities.push(drama.now.end);
          }
          done([probabilities, drama.ended, document.getElementById("status").textContent]);
        })();
        """
    )
    probabilities, ended, status = found
    over = [p > u for p, u in zip(probabilities, ends, strict=False)]
    assert over[:-1] == [False] * (len(over) - 1)
    assert over[-1] == ended
    if ended:
        assert status.startswith("The model predicts the end, after")
    assert_clean(driver, catch)


def test_phone_dark_mode_and_keyboard_alone(catch: Page, driver: Any, tmp_path: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    phone = {"width": 360, "height": 760, "deviceScaleFactor": 2, "mobile": True}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
    opened(driver, catch, "paused")
    wide = driver.execute_script("return document.documentElement.scrollWidth")
    assert wide == 360
    paper = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert sum(json.loads(paper.replace("rgb(", "[").replace(")", "]"))) < 150
    assert_not_blank(driver, tmp_path / "phone.png")
    small = driver.execute_script(
        "return [...document.querySelectorAll('.pad button, .bar button')].filter((b) => "
        "b.clientHeight < 36).map((b) => b.id)"
    )
    assert small == [], "large enough to touch"
    nameless = driver.execute_script(
        "return [...document.querySelectorAll('button, input, select, canvas[role]')]"
        ".filter((e) => !(e.ariaLabel || e.textContent.trim() || e.labels?.length))"
        ".map((e) => e.outerHTML)"
    )
    assert nameless == []
    # Tab reaches every control, and Enter works them.
    reached = []
    for _ in range(40):
        press(driver, Keys.TAB)
        reached.append(driver.execute_script("return document.activeElement.id"))
    for name in ("pause", "once", "restart", "record", "agent", "speed", "temperature", "seed"):
        assert name in reached, name
    driver.execute_script("document.getElementById('once').focus()")
    press(driver, Keys.ENTER)
    wait(lambda: driver.execute_script("return drama.steps") == 1, "one step")
    assert driver.execute_script("return drama.playing") is False
    assert_clean(driver, catch)


def test_touch_and_clip(catch: Page, driver: Any) -> None:
    from selenium.webdriver.common.by import By

    opened(driver, catch, "paused&by=human")
    driver.find_element(By.CSS_SELECTOR, "#pad button:nth-child(3)").click()
    wait(lambda: driver.execute_script("return drama.steps") == 1, "a step for a button")
    assert driver.execute_script("return drama.now.action") == 2
    press(driver, "v")
    press(driver, "p")
    wait(lambda: driver.execute_script("return drama.moments.length") > 10, "some frames")
    press(driver, "v")
    size = "const a = document.querySelector('#clip a'); return a && [a.download, a.textContent]"
    wait(lambda: driver.execute_script(size), "the clip")
    name, text = driver.execute_script(size)
    assert name == "dream.webm"
    assert int(text.split("(")[1].split()[0]) > 1, text
    assert_clean(driver, catch)


def test_vector_observations_are_plotted(cart: Page, driver: Any, tmp_path: Path) -> None:
    start = cart.start(0)
    actions = [t % 2 for t in range(30)]
    expected = dream(cart.agent, start, 1, actions)
    opened(driver, cart, "paused&by=human&seed=1")
    driver.execute_script("document.getElementById('at-end').value = 'continue'")
    for count, action in enumerate(actions, 1):
        press(driver, KEYS[action])
        wait(lambda n=count: driver.execute_script("return drama.steps") == n, "a frame for a key")
    found = driver.execute_script("return drama.moments.map((m) => [...m.obs])")
    for own, reference in zip(found, expected, strict=True):
        np.testing.assert_allclose(own, reference.obs, rtol=1e-3, atol=1e-4)
    assert_not_blank(driver, tmp_path / "cart.png")
    assert_clean(driver, cart)


def test_checks_detect_errors_and_requests(catch: Page, driver: Any) -> None:
    opened(driver, catch, "paused")
    driver.execute_script(
        "setTimeout(() => { throw new Error('made up') });"
        "fetch('http://example.com/').catch(() => 0)"
    )
    time.sleep(0.5)
    with pytest.raises(AssertionError):
        assert_clean(driver, catch)
