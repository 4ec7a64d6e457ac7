"""The examples run as they stand."""

from __future__ import annotations

import importlib.util
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import drama
from drama.registry import SEQUENCE_MODELS

EXAMPLES = Path(__file__).parents[1] / "examples"

QUICK = {
    "custom_env.py": "main(40)",
    "drama_in_one_file.py": "main(Args(steps=45, warmup_steps=40, log_every=45, eval_episodes=1))",
}
"""How to call an example that would train for minutes; the others are run as scripts."""


def test_every_example_is_short_and_has_a_docstring() -> None:
    found = sorted(EXAMPLES.glob("*.py"))
    names = {"custom_dynamics.py", "custom_env.py", "drama_in_one_file.py"}
    assert names <= {p.name for p in found}
    for path in found:
        text = path.read_text(encoding="utf-8")
        assert text.startswith('"""'), path
        assert '__name__ == "__main__"' in text, path
        if path.name != "drama_in_one_file.py":  # that one is the whole algorithm
            assert len(text.splitlines()) <= 80, path


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda p: p.stem)
def test_each_example_runs(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    # What an example registers ends with this test, and what other tests registered is not seen.
    monkeypatch.setattr(SEQUENCE_MODELS, "registered", {})
    if path.name in QUICK:
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        with torch.random.fork_rng():
            eval(QUICK[path.name], vars(module))
    else:
        runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out.strip()


def test_each_example_needs_only_the_package(tmp_path: Path) -> None:
    """As a separate script in another directory, with warnings of the package as errors."""
    env = {**os.environ, "PYTHONPATH": str(Path(drama.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "custom_dynamics.py")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=env,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert not list(tmp_path.iterdir())
