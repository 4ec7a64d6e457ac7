"""Each statement of ``SECURITY.md`` names the tests behind it, and they exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from tests.suite.suites import run_suite, tiny_spec

import drama
from drama import presets
from drama.report import write_report

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "SECURITY.md").read_text(encoding="utf-8")
STATEMENTS = re.findall(r"^- (.+(?:\n  .+)*)", PAGE, re.MULTILINE)


def test_security_page_is_short() -> None:
    assert len(STATEMENTS) >= 20
    assert len(PAGE.splitlines()) < 100


@pytest.mark.parametrize("statement", STATEMENTS)
def test_each_statement_names_an_existing_test(statement: str) -> None:
    found = re.search(r"\[([^\[\]]+)\]\.$", statement)
    assert found, f"no test is named at the end of: {statement}"
    for name in re.findall(r"`([^`]+)`", found[1]):
        file, _, test = name.partition("::")
        tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
        functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert test in functions, name


def test_no_module_uses_the_network_but_to_fetch_the_runtime_of_a_page() -> None:
    network = {"socket", "socketserver", "http", "urllib", "asyncio", "ssl", "ftplib", "requests"}
    package = Path(drama.__file__).parent
    allowed = {package / "suite" / "ray.py", package / "export" / "onnxruntime_web.py"}
    for path in set(package.rglob("*.py")) - allowed:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [node.module or ""]
            assert not {module.partition(".")[0] for module in modules} & network, path


def test_services_are_off_by_default() -> None:
    assert not any(presets.preset(name).training.wandb for name in presets.PRESETS)


def test_report_loads_nothing_from_outside(tmp_path: Path) -> None:
    run_suite(tmp_path / "suite", tiny_spec(["CartPole-v1"]))
    write_report(tmp_path / "suite")
    html = (tmp_path / "suite" / "report" / "index.html").read_text(encoding="utf-8")
    loads = re.findall(r"""\b(?:src|srcset|data|action|poster)\s*=\s*["']?([^"'\s>]+)""", html)
    loads += re.findall(r"url\(([^)]*)\)|@import", html)
    assert [target for target in loads if not target.startswith("data:")] == []
    assert "<link" not in html or 'rel="icon"' in html
