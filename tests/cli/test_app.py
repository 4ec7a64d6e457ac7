"""The command itself: version, help, what it imports, and its output stream."""

from __future__ import annotations

import dataclasses
import io
import subprocess
import sys

import pytest
from tests.cli.commands import Capture

import drama
from drama.cli import main
from drama.cli.common import escape_unencodable_output
from drama.cli.options import SETTINGS, SHORT
from drama.config import Config
from drama.settings import flat


def test_version_help_and_usage(capfd: Capture) -> None:
    assert main(["--version"]) == 0
    assert capfd.readouterr().out == f"drama {drama.__version__}\n"
    assert main(["--help"]) == 0
    assert "drama train" in capfd.readouterr().out
    assert main([]) == 2
    for command in ("eval", "doctor", "presets"):
        with pytest.raises(SystemExit) as stop:
            main([command, "--help"])
        assert stop.value.code == 0
        assert f"drama {command}" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        ([], 2),
        (["trian"], 2),
        (["train", "--help"], 0),
        (["train", "xs", "--help-all"], 0),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_commands_without_torch_do_not_import_it(args: list[str], code: int) -> None:
    script = (
        "import sys\n"
        "from drama.cli import main\n"
        "try:\n"
        "    code = main(sys.argv[1:])\n"
        "except SystemExit as stop:\n"
        "    code = stop.code or 0\n"
        "sys.exit(99 if 'torch' in sys.modules else code)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, *args], capture_output=True, check=False)
    assert done.returncode == code, done.stderr.decode()


def test_package_lists_its_names_without_torch() -> None:
    script = (
        "import sys, drama, gymnasium\n"
        "assert set(drama.__all__) <= set(dir(drama))\n"
        "gymnasium.make('drama/Catch-v0')\n"
        "drama.presets.quick(), drama.Config\n"
        "assert 'torch' not in sys.modules\n"
        "from drama import *\n"
        "assert Agent is drama.Agent and callable(drama.ssm.ssd)\n"
        "assert not hasattr(drama, 'Agnet')\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True)


def test_help_shows_twenty_settings_and_help_all_every_one(capfd: Capture) -> None:
    assert main(["train", "--help"]) == 0
    text = capfd.readouterr().out
    used = [*SHORT, *SETTINGS]
    assert len(used) == 20
    for name in (*used, "run-dir", "resume", "preset", "config", "print-config"):
        assert f"--{name} " in text
    assert text.count("--") < 35
    assert main(["train", "xs", "--help"]) == 0
    assert "environment steps of the run (100000)" in capfd.readouterr().out
    with pytest.raises(SystemExit):
        main(["train", "--help-all"])
    every = capfd.readouterr().out
    for name in flat(dataclasses.asdict(Config())):
        assert f"--{name.rstrip('_').replace('_', '-')}" in every
    assert "Environment steps with random actions before the first update" in " ".join(
        every.split()
    )
    # The built-in backbones are named, without the import that registers them.
    (line,) = [line for line in text.splitlines() if "--dynamics" in line]
    words = text[text.index(line) :]
    assert all(name in words for name in ("mamba2", "mamba1", "transformer", "gru"))


def test_surrogateescape_output_is_unchanged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Printed paths stay exact; characters that the stream would refuse are escaped."""
    for errors, written in (("surrogateescape", b"d\xff\n"), ("strict", b"d\\udcff\n")):
        raw = io.BytesIO()
        stream = io.TextIOWrapper(raw, encoding="utf-8", errors=errors)
        monkeypatch.setattr(sys, "stdout", stream)
        escape_unencodable_output()
        print("d\udcff")
        stream.flush()
        assert raw.getvalue() == written
