"""Import paths and calls as text."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from drama import importing
from drama.importing import attribute, call_text, is_importable, is_literal, parse_call, path_of


class Outer:
    """Contains a nested class."""

    class Inner:
        """Has a dotted name."""


@pytest.mark.parametrize("target", [Outer, Outer.Inner, parse_call])
def test_import_path_round_trips(target: Any) -> None:
    assert is_importable(target)
    assert attribute(path_of(target)) is target


def test_local_objects_are_not_importable() -> None:
    def local() -> None:
        pass

    class Renamed:
        pass

    Renamed.__qualname__ = "Outer"
    script = type("Script", (), {"__module__": "__main__"})
    partial = functools.partial(parse_call, "a:b")
    for target in (local, lambda: None, Renamed, script, partial, 5, Outer()):
        assert not is_importable(target)


@pytest.mark.parametrize(
    "arguments",
    [{}, {"size": 4}, {"shape": (84, 84), "mode": None, "name": "a(b, c=1)", "low": -1.5}],
)
def test_call_text_round_trips(arguments: dict[str, Any]) -> None:
    assert parse_call(call_text("a.b:C.D", arguments)) == ("a.b:C.D", arguments)


def test_call_with_unserialisable_arguments_has_no_text() -> None:
    assert call_text("a:B", None) == "a:B(...)"
    assert call_text("a:B", {"f": len, "n": 1}) == "a:B(f=..., n=1)"
    assert not any(map(is_literal, (len, float("nan"), float("inf"), object(), [len])))


def test_working_directory_is_searched_for_commands_only(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "only_here.py").write_text("value = 5")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("/")  # restores the path afterwards
    monkeypatch.setattr("sys.path", [p for p in importing.sys.path if p])
    monkeypatch.setattr(importing, "_search_here", False)
    with pytest.raises(ModuleNotFoundError):
        attribute("only_here:value")
    importing.search_here()
    assert attribute("only_here:value") == 5
