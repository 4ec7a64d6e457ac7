"""Commands, Python code and links of the README are valid."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest

from drama.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
SHELL = "".join(text for language, text in BLOCKS if not language)
COMMANDS = re.findall(r"^(?:\.venv/bin/)?drama (.*?)(?:\s+#.*)?$", SHELL, re.MULTILINE)
Capture = pytest.CaptureFixture[str]


def test_readme_is_short() -> None:
    assert len(README.splitlines()) <= 100


def test_links_and_images_exist() -> None:
    links = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", README)
    assert len(links) > 10
    for link in links:
        assert link.startswith("https://") or (ROOT / link).exists(), link


TRAIN = [c for c in COMMANDS if c.startswith("train ") and "--resume" not in c]


@pytest.mark.parametrize("command", TRAIN)
def test_training_commands_are_valid_configurations(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    (tmp_path / "mymodule.py").write_text(
        "import drama\ndef make_env():\n    return drama.make_env('drama/Catch-v0')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main([*command.split(), "--print-config"]) == 0
    assert "env" in capsys.readouterr().out


def test_every_command_exists(capsys: Capture) -> None:
    names = {command.split()[0] for command in COMMANDS}
    assert names == {"train", "eval", "report", "suite", "presets"}
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in names)


def test_python_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = [text for language, text in BLOCKS if language == "python"]
    short = code.replace("5_000", "40").replace("episodes=100", "episodes=2")
    assert short != code
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of progress bars
        exec(short, {})
    assert (tmp_path / "runs" / "mine" / "config.json").is_file()
