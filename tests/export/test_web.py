"""Exported pages: files, starts, the runtime's archive, and failures that leave nothing."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import tarfile
import urllib.error
from base64 import b64encode
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from tests.cli.commands import complaint
from tests.export.agents import made, saved
from tests.training.runs import tiny

from drama import Agent
from drama.cli import main
from drama.envs import as_rgb
from drama.errors import ConfigError, RunDirError
from drama.export import export_web, onnxruntime_web
from drama.export.controls import action_names, idle_action
from drama.export.onnxruntime_web import FILES, VERSION, runtime_files
from drama.export.starts import CONTEXT, find_starts
from drama.export.web import palette

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run with a replay."""
    path = tmp_path_factory.mktemp("trained") / "run"
    Agent("drama/Catch-v0", tiny({"env.id": "drama/Catch-v0"})).learn(40, run_dir=path)
    return path


@pytest.fixture(scope="session")
def fake_runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that passes for the runtime."""
    folder = tmp_path_factory.mktemp("ort")
    (folder / FILES[0]).write_text(f"/*! ONNX Runtime Web v{VERSION} */")
    (folder / FILES[1]).write_bytes(b"\0asm")
    return folder


def test_page_is_complete_and_described(run: Path, fake_runtime: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    target = tmp_path / "page"
    args = ["export", str(run), "--web", str(target), "--runtime", str(fake_runtime)]
    assert main([*args, "--starts", "5"]) == 0
    assert list(tmp_path.iterdir()) == [target]
    manifest = json.loads((target / "dream.json").read_text())
    assert manifest["env"] == "drama/Catch-v0"
    assert manifest["actions"] == {"names": ["LEFT", "NOOP", "RIGHT"], "idle": 1}
    assert len(manifest["starts"]) == 5
    size = sum(start["observations"] for start in manifest["starts"])
    assert (target / "starts.bin").stat().st_size == size * 32 * 32 * 3
    for start in manifest["starts"]:
        assert len(start["actions"]) == start["observations"] - 1
    step = onnxruntime.InferenceSession(str(target / "step.onnx"))
    names = {entry["name"] for entry in manifest["state"]}
    assert names < {entry.name for entry in step.get_inputs()}
    assert {f"next_{name}" for name in names} < {entry.name for entry in step.get_outputs()}
    # Every file that the page names is there, and nothing is named elsewhere.
    page = (target / "index.html").read_text()
    for name in ("style.css", "app.js", "opened-as-file.js", "icon.svg"):
        assert f'"{name}"' in page
    for path in target.glob("*"):
        if path.suffix in (".html", ".js", ".css"):
            text = path.read_text()
            assert "https:" not in text, path
            assert "//cdn" not in text, path
    assert sorted(p.name for p in (target / "ort").iterdir()) == sorted(FILES)
    with pytest.raises(RunDirError, match="exists: remove it, or choose another name"):
        export_web(Agent.load(run), target)


def test_starts_come_from_the_replay(run: Path) -> None:
    agent = Agent.load(run)
    found = find_starts(agent, run, 8)
    assert len(found) == 8
    assert [len(start.obs) for start in found] == sorted(len(start.obs) for start in found)
    assert {len(start.obs) for start in found} == {1, CONTEXT}
    assert len({start.obs[-1].tobytes() for start in found}) == 8
    for start in found:
        ball = (start.obs == np.array((250, 210, 60))).all(-1).any(axis=(1, 2))
        assert start.obs.dtype == np.uint8
        assert ball.all(), "every frame of Catch shows the ball"


def test_starts_are_played_without_a_replay(tmp_path: Path) -> None:
    agent = made("CartPole-v1")
    path = tmp_path / "agent"
    agent.save(path, replay=False)
    found = find_starts(Agent.load(path), path, 6)
    assert len(found) == 6
    assert found[0].obs.shape == (1, 4)
    assert found[-1].obs.shape == (CONTEXT, 4)
    assert len(found[-1].action) == CONTEXT - 1


def test_full_disk_leaves_nothing(
    run: Path,
    fake_runtime: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: Capture,
) -> None:
    pytest.importorskip("onnxscript")
    monkeypatch.setattr("drama.export.graph.Graph.onnx", lambda self, metadata: b"model")
    whole, left = Path.write_bytes, [3]

    def write(path: Path, data: bytes) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return whole(path, data)

    target = tmp_path / "page"
    monkeypatch.setattr(Path, "write_bytes", write)
    code = main(["export", str(run), "--web", str(target), "--runtime", str(fake_runtime)])
    assert "No space left on device" in complaint(capfd, code)
    assert list(tmp_path.iterdir()) == []
    left[0] = 0
    code = main(["export", str(run), "--onnx", str(tmp_path / "a.onnx")])
    assert "No space left on device" in complaint(capfd, code)
    assert list(tmp_path.iterdir()) == []


def test_mistakes_are_one_line(run: Path, tmp_path: Path, capfd: Capture) -> None:
    onnx = str(tmp_path / "a.onnx")
    line = complaint(capfd, main(["export", str(tmp_path / "nothing"), "--onnx", onnx]))
    assert "nothing" in line
    line = complaint(capfd, main(["export", str(run)]))
    assert "nothing to export: give --web DIR, --onnx FILE or --torch FILE" in line
    line = complaint(capfd, main(["export", str(run), "--web", onnx, "--starts", "0"]))
    assert "--starts must be at least 1, got 0" in line
    line = complaint(capfd, main(["export", str(run), "--onnx", str(tmp_path / "no" / "a.onnx")]))
    assert "is not a directory: create it first" in line
    line = complaint(capfd, main(["export", str(run), "--web", onnx, "--runtime", "none.tgz"]))
    assert "--runtime none.tgz cannot be read" in line
    (tmp_path / "a.onnx").write_text("mine")
    line = complaint(capfd, main(["export", str(run), "--onnx", onnx]))
    assert "exists: remove it" in line
    assert (tmp_path / "a.onnx").read_text() == "mine"


def test_run_of_another_version_is_one_line(run: Path, tmp_path: Path, capfd: Capture) -> None:
    import shutil

    copy = tmp_path / "newer"
    shutil.copytree(run, copy)
    for path in copy.rglob("manifest.json"):
        path.write_text(path.read_text().replace('"format": ', '"format": 9'))
    line = complaint(capfd, main(["export", str(copy), "--onnx", str(tmp_path / "a.onnx")]))
    assert "format" in line or "version" in line
    assert not (tmp_path / "a.onnx").exists()


# -- the runtime ----------------------------------------------------------------------------------


def archive() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name in FILES:
            data = f"/*! ONNX Runtime Web v{VERSION} */ {name}".encode()
            info = tarfile.TarInfo(f"package/dist/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """A registry that answers with the archive, and the addresses asked for."""
    asked: list[str] = []
    data = archive()

    def urlopen(url: str, timeout: float) -> io.BytesIO:
        asked.append(url)
        return io.BytesIO(data)

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    digest = b64encode(hashlib.sha512(data).digest()).decode()
    monkeypatch.setattr(onnxruntime_web, "SHA512", digest)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", "https://mirror.example/npm/")
    return asked


def test_runtime_is_fetched_once(registry: list[str]) -> None:
    first = runtime_files()
    assert registry == [
        f"https://mirror.example/npm/onnxruntime-web/-/onnxruntime-web-{VERSION}.tgz"
    ]
    assert runtime_files() == first
    assert len(registry) == 1
    assert set(first) == set(FILES)


def test_another_archive_is_refused(
    registry: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "right.tgz").write_bytes(archive())
    monkeypatch.setattr(onnxruntime_web, "SHA512", "another")
    with pytest.raises(ConfigError, match="its hash differs"):
        runtime_files()
    with pytest.raises(ConfigError, match="its hash differs"):
        runtime_files(tmp_path / "right.tgz")
    assert not onnxruntime_web.cache_folder().exists()


def test_without_network_the_error_says_what_helps(
    registry: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(url: str, timeout: float) -> Any:
        raise urllib.error.URLError("Temporary failure in name resolution")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    with pytest.raises(ConfigError, match=r"give --runtime onnxruntime-web-.*\.tgz, from `npm"):
        runtime_files()


def test_folder_of_another_version_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        runtime_files(tmp_path)
    (tmp_path / FILES[0]).write_text("/*! ONNX Runtime Web v1.2.3 */")
    (tmp_path / FILES[1]).write_bytes(b"\0asm")
    with pytest.raises(ConfigError, match=f"does not hold onnxruntime-web {VERSION}"):
        runtime_files(tmp_path)


# -- what the page knows of the environment -------------------------------------------------------


@pytest.mark.parametrize(
    ("env", "names", "idle"),
    [
        ("drama/Sparse-v0", ["UP", "RIGHT", "DOWN", "LEFT"], None),
        ("CartPole-v1", ["LEFT", "RIGHT"], None),
        ("MountainCar-v0", ["LEFT", "NOOP", "RIGHT"], 1),
        ("ALE/Pong-v5", ["NOOP", "FIRE", "RIGHT", "LEFT", "RIGHTFIRE", "LEFTFIRE"], 0),
    ],
)
def test_actions_are_named(env: str, names: list[str], idle: int | None) -> None:
    made_env = gym.make(env)
    assert action_names(made_env, len(names)) == names
    assert action_names(made_env, 2 + len(names))[0] == "ACTION 0"
    assert idle_action(names) == idle


def test_actions_of_minatar_are_named() -> None:
    pytest.importorskip("minatar")
    from drama import make_env

    assert action_names(make_env("MinAtar/Breakout-v1"), 3) == ["NOOP", "LEFT", "RIGHT"]


def test_palette_is_that_of_python() -> None:
    assert palette(3) is None
    colours = palette(4)
    assert colours is not None
    frame = np.array([[[255, 0, 0, 0], [0, 128, 0, 64]]], np.uint8)
    mixed = (frame[..., None] / 255 * np.array(colours)).max(axis=-2)
    np.testing.assert_allclose(mixed, as_rgb(frame), atol=1)


def test_saved_agents_export_as_runs_do(tmp_path: Path, fake_runtime: Path) -> None:
    pytest.importorskip("onnxscript")
    agent = made("CartPole-v1")
    path = saved(agent, tmp_path / "agent")
    export_web(agent, tmp_path / "page", run=path, runtime=fake_runtime, starts=2)
    manifest = json.loads((tmp_path / "page" / "dream.json").read_text())
    assert manifest["observation"] == {"shape": [4], "dtype": "float32", "palette": None}
