"""Extras and markers of ``pyproject.toml`` are used, and install hints are valid."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import drama

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def text_of(folder: str) -> str:
    files = sorted((ROOT / folder).rglob("*.py"))
    return "\n".join(file.read_text(encoding="utf-8") for file in files if file != Path(__file__))


def test_every_marker_is_used_and_described() -> None:
    tests = text_of("tests")
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    markers = [
        line.partition(":")[0] for line in PROJECT["tool"]["pytest"]["ini_options"]["markers"]
    ]
    for marker in markers:
        assert f"pytest.mark.{marker}" in tests, marker
        assert f"| `{marker}` |" in guide, marker
    assert set(re.findall(r"^\| `(\w+)` \|", guide, re.MULTILINE)) == set(markers)


def test_every_extra_is_imported_somewhere() -> None:
    source = text_of("src")
    for extra, packages in PROJECT["project"]["optional-dependencies"].items():
        if extra == "dev":
            continue
        for package in packages:
            module = re.match(r"[\w-]+", package).group().replace("-", "_")  # type: ignore[union-attr]
            assert re.search(rf"\b{module}\b", source), f"{extra}: {module}"


def test_install_hints_work_for_a_clone() -> None:
    """The package is not on PyPI, so no hint names it."""
    project = PROJECT["project"]["name"]
    for folder in ("src", "docs", "experiments", "lab"):
        for file in (ROOT / folder).rglob("*"):
            if file.suffix in (".py", ".md", ".toml"):
                hints = re.findall(r"pip install [^\n`]*", file.read_text(encoding="utf-8"))
                assert not [hint for hint in hints if project in hint], file


def test_the_newest_release_in_the_changelog_is_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## \[(.+?)\]", changelog, re.MULTILINE)
    assert headings[:2] == ["Unreleased", drama.__version__]


def test_nothing_depends_on_the_lab() -> None:
    dependency = re.compile(r"\b(?:from|import) lab\b|python -m lab\b|(?<![\w.])lab/")
    for folder in ("src", "docs", "benchmarks", "examples", "experiments"):
        for file in (ROOT / folder).rglob("*"):
            if file.suffix in (".py", ".md", ".toml"):
                assert not dependency.search(file.read_text(encoding="utf-8")), file
