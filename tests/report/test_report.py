"""``drama report``: real runs in, files out; what is missing, spoilt or in the way."""

from __future__ import annotations

import json
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from tests.report.made_up import BASE, CATCH, PONG, UNIFORM, XS, runs
from tests.training.runs import TINY

import drama
from drama import Agent
from drama.cli import main
from drama.files import write_json
from drama.report import Report, build_summary, write_report, write_summary
from drama.report.summary import summarise
from drama.suite import SuiteSpec, Variant
from drama.suite.layout import begin_suite, run_path

Capture = pytest.CaptureFixture[str]

SETTINGS = {k: v for k, v in TINY.items() if k != "steps"} | {"device": "cpu"}
SPEC = SuiteSpec(
    name="tiny",
    title="Tiny <suite>",
    games=(CATCH,),
    seeds=(0, 1),
    variants=(
        Variant("dfs", "DFS", "quick", SETTINGS),
        Variant("uniform", "Uniform", "quick", {**SETTINGS, "replay.sampler": "uniform"}),
    ),
    steps=60,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite of four real runs, the last of them interrupted."""
    root = tmp_path_factory.mktemp("report") / "suite"
    begin_suite(root, SPEC)
    for variant in SPEC.variants:
        for seed in SPEC.seeds:
            last = (variant.name, seed) == ("uniform", 1)
            path = run_path(root, variant.name, CATCH, seed)
            agent = Agent(config=SPEC.config(variant, CATCH, seed))
            agent.learn(40 if last else 60, run_dir=path)
            if not last:
                write_json(path / "eval.json", {"greedy": agent.evaluate().to_dict()})
    return root


@pytest.fixture(scope="module")
def written(made: Path) -> Report:
    """Its report, for reading only."""
    return write_report(made, made.parent / "report")


@pytest.fixture
def suite(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "suite"))


class Page(HTMLParser):
    """Checks that elements nest, and keeps those that matter."""

    VOID = frozenset({"meta", "link", "img", "br", "hr", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def page(report: Report) -> Page:
    return Page(report.page.read_text(encoding="utf-8"))


def scores(suite: Path, variant: str, seed: int) -> float:
    tree = json.loads((run_path(suite, variant, CATCH, seed) / "eval.json").read_text())
    return float(tree["greedy"]["mean"])


def test_a_suite_in_progress(suite: Path, capfd: Capture) -> None:
    before = {p for p in suite.rglob("*") if p.is_file()}
    assert main(["report", str(suite)]) == 0
    out = suite / "report"
    captured = capfd.readouterr()
    assert "3 of 4 runs finished" in captured.out
    assert f"written to {out / 'index.html'}" in captured.out
    assert {p for p in before if not p.exists()} == set()

    tree = json.loads((out / "report.json").read_text())
    found = tree["variants"]["DFS"]["scores"][CATCH]
    assert found == {"0": scores(suite, "dfs", 0), "1": scores(suite, "dfs", 1)}
    assert list(tree["variants"]["Uniform"]["scores"][CATCH]) == ["0"]
    assert tree["unfinished"] == {
        "Uniform / drama/Catch-v0 / seed 1": {
            "status": "interrupted",
            "steps": 40,
            "reason": "at step 40 of 60",
        }
    }
    for name in ("scores", "aggregates-1", "improvement"):
        for suffix in ("csv", "md", "tex"):
            assert (out / f"{name}.{suffix}").stat().st_size > 50
    for name in ("curves", "ablation-replay-sampling", "aggregates-1", "improvement"):
        assert (out / "figures" / f"{name}.png").stat().st_size > 5000
        assert (out / "figures" / f"{name}.svg").stat().st_size > 5000
    text = (out / "report.md").read_text()
    assert "![Learning curves: DFS." in text
    for link in re.findall(r"\]\((figures/[^)]+)\)", text):
        assert (out / link).is_file()


def test_the_page_needs_nothing_else(written: Report) -> None:
    found = page(written)
    text = written.page.read_text(encoding="utf-8")
    assert not found.all("script")
    assert not found.all("iframe")
    for tag, attributes in found.elements:
        for name in ("src", "href", "srcset", "action", "data"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, value)
        assert not [name for name in attributes if name.startswith("on")]
    assert "@import" not in text
    assert "url(" not in text
    ids = [a["id"] for _, a in found.elements if "id" in a]
    assert len(ids) == len(set(ids))
    for attributes in found.all("a"):
        assert str(attributes["href"])[1:] in ids
    assert "Tiny <suite>: report" in found.text  # escaped in the source, read back whole
    images = found.all("img")
    assert len(images) == len(written.figures) == 5
    for attributes in images:
        assert len(str(attributes["alt"])) > 20
        assert attributes["width"]
        assert attributes["height"]
    assert found.text.count("Learning curves: DFS: return of training episodes") == 1


def test_the_page_is_fit_for_a_phone_and_the_dark(written: Report) -> None:
    found = page(written)
    (viewport,) = [a for a in found.all("meta") if a.get("name") == "viewport"]
    assert viewport["content"] == "width=device-width, initial-scale=1"
    assert "prefers-color-scheme: dark" in written.page.read_text()
    # Whatever is wider than a phone scrolls by itself.
    depth = 0
    for tag, attributes in found.elements:
        if tag == "div" and attributes.get("class") == "scroll":
            assert attributes["tabindex"] == "0"
            assert attributes["aria-label"]
            depth += 1
        if tag in ("table", "img"):
            depth -= 1
            assert depth == 0, "a table or picture outside of a container that scrolls"


def test_the_page_says_what_stands_behind_the_numbers(made: Path, written: Report) -> None:
    text = page(written).text
    assert "3 of 4 runs finished" in text
    assert "This is not the whole suite: 1 unfinished." in text
    assert "DFS: greedy evaluation, 4 episodes after 60 environment steps" in text
    assert "replay.sampler uniform (not dfs)" in text
    assert "40 of 60" in text
    assert "at step 40 of 60" in text
    assert "uniform/drama-Catch-v0/seed-1" in text
    start = json.loads((run_path(made, "dfs", CATCH, 0) / "run.json").read_text())["starts"][0]
    for key in ("device_name", "torch", "python", "system"):
        assert start[key] in text
    assert drama.__version__ in text


@pytest.mark.faults
def test_spoilt_and_foreign_directories_are_named_and_skipped(suite: Path) -> None:
    spoilt = run_path(suite, "dfs", CATCH, 0)
    (spoilt / "eval.json").write_text("{")
    foreign = run_path(suite, "dfs", CATCH, 1)
    shutil.rmtree(foreign)
    foreign.mkdir()
    (foreign / "notes.txt").write_text("mine")
    shutil.rmtree(run_path(suite, "uniform", CATCH, 1))
    report = write_report(suite)
    status = {run.name: run.status for run in report.summary.runs}
    assert list(status.values()) == ["failed", "foreign", "finished", "missing"]
    text = page(report).text
    assert "eval.json is damaged" in text
    assert "has no config.json" in text
    assert "not begun" in text
    assert "This is not the whole suite: 1 failed, 1 foreign, 1 missing." in text
    assert "Nothing to show yet of: DFS." in text
    assert (foreign / "notes.txt").read_text() == "mine"


def test_a_suite_that_has_only_begun(tmp_path: Path, capfd: Capture) -> None:
    begin_suite(tmp_path / "new", SPEC)
    assert main(["report", str(tmp_path / "new")]) == 0
    assert "0 of 4 runs finished" in capfd.readouterr().out
    text = (tmp_path / "new" / "report" / "index.html").read_text()
    assert "No run has enough episodes to draw." in text
    assert "Nothing has been evaluated yet." in text


def test_the_same_runs_give_the_same_bytes(made: Path, written: Report, tmp_path: Path) -> None:
    write_report(made, tmp_path)
    files = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*.*"))
    assert len(files) > 20
    for file in files:
        assert (tmp_path / file).read_bytes() == (written.out / file).read_bytes(), file


def test_a_report_replaces_an_earlier_one_and_nothing_else(suite: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_report(suite, out)
    (out / "mine.txt").write_text("kept")
    shutil.rmtree(suite / "uniform")
    report = write_report(suite, out)
    assert (out / "mine.txt").read_text() == "kept"
    assert not (out / "improvement.csv").exists()
    assert sorted(p.stem for p in (out / "figures").glob("*.svg")) == sorted(report.figures)


def complaint(capfd: Capture, code: int) -> str:
    captured = capfd.readouterr()
    assert code == 2
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("drama: error: ")
    return lines[0]


def test_a_page_of_somebody_else_is_not_overwritten(suite: Path, capfd: Capture) -> None:
    (suite / "report").mkdir()
    (suite / "report" / "index.html").write_text("<h1>My homepage</h1>")
    said = complaint(capfd, main(["report", str(suite)]))
    assert "is not a report of this program; choose another --out" in said
    assert (suite / "report" / "index.html").read_text() == "<h1>My homepage</h1>"


def test_mistakes_cost_one_line(suite: Path, tmp_path: Path, capfd: Capture) -> None:
    assert "has no suite.json" in complaint(capfd, main(["report", str(tmp_path / "nowhere")]))
    run = run_path(suite, "dfs", CATCH, 0)
    assert "has no suite.json" in complaint(capfd, main(["report", str(run)]))
    (tmp_path / "file").write_text("")
    said = complaint(capfd, main(["report", str(suite), "--out", str(tmp_path / "file")]))
    assert "cannot write a report to" in said
    assert "invalid choice" in complaint(capfd, main(["report", str(suite), "--mode", "best"]))
    assert "required: DIR" in complaint(capfd, main(["report"]))


def test_without_matplotlib_one_line_says_what_to_install(
    suite: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [m for m in sys.modules if m.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "drama.report.figures", raising=False)
    said = complaint(capfd, main(["report", str(suite)]))
    assert said.endswith("drama report draws with Matplotlib: pip install 'drama-rl[plots]'")
    assert not (suite / "report").exists()
    # What needs no figures works without.
    assert build_summary(suite).finished == 3


def test_a_sampled_evaluation_is_never_mixed_with_greedy_ones(suite: Path, capfd: Capture) -> None:
    path = run_path(suite, "dfs", CATCH, 0) / "eval.json"
    tree = json.loads(path.read_text())
    sampled = {**tree["greedy"], "mode": "sampled", "mean": 0.125}
    path.write_text(json.dumps({**tree, "sampled": sampled}))
    assert main(["report", str(suite), "--mode", "sampled"]) == 0
    said = capfd.readouterr().out
    assert said.count("left out: ") == 2
    found = json.loads((suite / "report" / "report.json").read_text())
    assert found["variants"]["DFS"]["scores"] == {CATCH: {"0": 0.125}}
    assert found["variants"]["Uniform"]["scores"] == {}


def test_protocol_of_short_atari_runs_is_told_on_the_page(tmp_path: Path) -> None:
    given: dict[str, Any] = {"variant": XS, "game": PONG, "score": 1.0, "steps": 20_000}
    found = summarise(tmp_path, "Atari", runs(tmp_path, given))
    text = page(write_summary(found, tmp_path / "out")).text
    assert "Drama XS (20,000 steps)" in text
    assert "20,000 environment steps instead of 100,000" in text
    assert "Drama-XS (published)" in text


def test_no_published_numbers_beside_other_games(tmp_path: Path) -> None:
    found = summarise(tmp_path, "Toy", runs(tmp_path, {"variant": BASE}, {"variant": UNIFORM}))
    text = page(write_summary(found, tmp_path / "out")).text
    for method in ("DIAMOND", "DreamerV3", "STORM", "Human"):
        assert method not in text
