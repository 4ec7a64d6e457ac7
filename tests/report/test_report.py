"""``drama report`` on real runs; missing, damaged and existing files."""

# One file: the tests share one suite of real runs and the reader of its page.

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from tests.report.made_up import BASE, CATCH, PONG, SPARSE, START, UNIFORM, XS, cell, runs
from tests.training.runs import TINY

import drama
from drama import Agent
from drama.cli import main
from drama.errors import RunDirError
from drama.files import write_json, write_text
from drama.report import Report, build_summary, write_report, write_summary
from drama.report.runs import read_run
from drama.report.summarise import summarise
from drama.suite import SuiteSpec, Variant, read_suite
from drama.suite.layout import begin_suite, run_path
from drama.training.checkpoint import CheckpointDir

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
    """The report of the suite; do not modify."""
    return write_report(made, made.parent / "report")


@pytest.fixture
def suite(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "suite"))


class Page(HTMLParser):
    """Checks the nesting of elements, and keeps the tested ones."""

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


def test_report_has_the_steps_of_each_game(tmp_path: Path) -> None:
    lengths = {CATCH: 5_000, SPARSE: 120_000}
    spec = SuiteSpec("made-up", "Made up", tuple(lengths), (0, 1), (BASE,), lengths)
    cells = [cell(tmp_path, game=g, seed=s, steps=n) for g, n in lengths.items() for s in (0, 1)]
    found = [read_run(c, c.variant.label) for c in cells]
    assert [run.steps_asked for run in found] == [5_000, 5_000, 120_000, 120_000]
    assert [c.config for c in cells] == [spec.config(BASE, c.game, c.seed) for c in cells]
    report = write_summary(summarise(tmp_path, "Made up", found), tmp_path / "report")
    tree = json.loads((report.out / "report.json").read_text())
    assert tree["variants"]["Base"]["train_steps"] == lengths
    assert tree["variants"]["Base"]["left_out"] == {}
    said = "5,000 (drama/Catch-v0), 120,000 (drama/Sparse-v0) environment steps"
    assert said in page(report).text
    assert f"after {said}" in (report.out / "report.md").read_text()
    assert "Nothing: every run finished and is included." in page(report).text


def test_unfinished_suite_can_be_reported(suite: Path, capfd: Capture) -> None:
    before = {p for p in suite.rglob("*") if p.is_file()}
    assert main(["report", str(suite)]) == 0
    out = suite / "report"
    captured = capfd.readouterr()
    assert "3 of 4 runs finished" in captured.out
    assert f"written to {out / 'index.html'}" in captured.out
    figures = [line for line in captured.err.splitlines() if line.startswith("drawing ")]
    assert captured.err.splitlines() == [
        "reading 4 runs",
        "averaging",
        *figures,
        "writing tables and page",
    ]
    drawn = {f"drawing {p.stem}" for p in (out / "figures").glob("*.svg")}
    assert drawn <= set(figures)
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


def test_page_is_self_contained(written: Report) -> None:
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


def test_page_supports_phones_and_dark_mode(written: Report) -> None:
    found = page(written)
    (viewport,) = [a for a in found.all("meta") if a.get("name") == "viewport"]
    assert viewport["content"] == "width=device-width, initial-scale=1"
    assert "prefers-color-scheme: dark" in written.page.read_text()
    # Elements wider than a phone scroll.
    depth = 0
    for tag, attributes in found.elements:
        if tag == "div" and attributes.get("class") == "scroll":
            assert attributes["tabindex"] == "0"
            assert attributes["aria-label"]
            depth += 1
        if tag in ("table", "img"):
            depth -= 1
            assert depth == 0, "a table or picture outside of a container that scrolls"


def test_page_states_protocol_and_sources(made: Path, written: Report) -> None:
    text = page(written).text
    assert "3 of 4 runs finished" in text
    assert "Incomplete suite: 1 unfinished." in text
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
def test_damaged_and_unrelated_directories_are_named_and_skipped(suite: Path) -> None:
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
    assert "not started" in text
    assert "Incomplete suite: 1 failed, 1 foreign, 1 missing." in text
    assert "No results yet: DFS." in text
    assert (foreign / "notes.txt").read_text() == "mine"


SPOILT: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "mean is text": (lambda result: result.update(mean="3"), "it is not an evaluation"),
    "mean is true": (lambda result: result.update(mean=True), "it is not an evaluation"),
    "mean is huge": (lambda result: result.update(mean=10**400), "it is not an evaluation"),
    "mean is wrong": (
        lambda result: result.update(mean=result["mean"] + 0.01),
        "greedy mean and episodes differ",
    ),
    "return is huge": (
        lambda result: result["episodes"][0].update({"return": 10**400}),
        "it is not an evaluation",
    ),
    "return is true": (
        lambda result: result["episodes"][0].update({"return": True}),
        "it is not an evaluation",
    ),
    "all are infinite nearly": (
        lambda result: result.update(mean=1.7e308, episodes=[{"return": 1.7e308}]),
        "it is not an evaluation",
    ),
    "environment is text": (
        lambda result: result["protocol"].update(env="Pong"),
        "it is not an evaluation",
    ),
    "no environment": (lambda result: result["protocol"].pop("env"), "it is not an evaluation"),
}


@pytest.mark.faults
@pytest.mark.parametrize("case", SPOILT)
def test_damaged_evaluation_is_reported_everywhere(case: str, suite: Path, capfd: Capture) -> None:
    change, said = SPOILT[case]
    path = run_path(suite, "dfs", CATCH, 0) / "eval.json"
    tree = json.loads(path.read_text())
    change(tree["greedy"])
    path.write_text(json.dumps(tree))
    cell = read_suite(suite).cell("dfs", CATCH, 0)
    assert (cell.status, cell.resumable) == ("failed", False)
    assert cell.reason == f"{path} is damaged: {said}"
    main(["suite", "status", str(suite)])
    assert "Traceback" not in capfd.readouterr().err
    assert build_summary(suite).finished == 2


@pytest.mark.faults
@pytest.mark.parametrize(
    ("name", "status"),
    [("eval.json", "failed"), ("manifest.json", "failed"), ("run.json", "finished")],
)
@pytest.mark.parametrize("text", ["[" * 100_000, "1" * 5000])
def test_files_that_are_not_json_are_reported(
    name: str, status: str, text: str, suite: Path
) -> None:
    run = run_path(suite, "dfs", CATCH, 0)
    path = CheckpointDir(run).last().path / name if name == "manifest.json" else run / name
    path.write_text(text)
    found = build_summary(suite).runs[0]
    assert found.status == status
    said = found.reason if status == "failed" else found.notes[0]
    assert str(path) in said or said.startswith("run.json cannot be read")


@pytest.mark.faults
@pytest.mark.parametrize(("name", "status"), [("eval.json", "failed"), ("run.json", "finished")])
def test_files_that_cannot_be_opened_are_reported(name: str, status: str, suite: Path) -> None:
    path = run_path(suite, "dfs", CATCH, 0) / name
    path.unlink()
    path.mkdir()
    found = build_summary(suite).runs[0]
    assert found.status == status
    assert f"{name} cannot be read" in (found.reason if status == "failed" else found.notes[0])


@pytest.mark.faults
@pytest.mark.parametrize("text", ["[" * 100_000, "1" * 5000])
def test_damaged_failure_record_is_ignored(text: str, suite: Path) -> None:
    read_suite(suite).cell("uniform", CATCH, 1).failure.write_text(text)
    assert build_summary(suite).runs[3].status == "interrupted"


@pytest.mark.faults
@pytest.mark.parametrize("text", ["[" * 100_000, "1" * 5000])
def test_damaged_spec_is_reported_in_one_line(text: str, suite: Path, capfd: Capture) -> None:
    (suite / "suite.json").write_text(text)
    assert "suite.json is damaged" in complaint(capfd, main(["report", str(suite)]))


@pytest.mark.faults
@pytest.mark.parametrize("place", ["title", "label", "key"])
def test_surrogate_in_a_spec_is_reported_in_one_line(
    place: str, suite: Path, capfd: Capture
) -> None:
    tree = json.loads((suite / "suite.json").read_text())
    if place == "title":
        tree["spec"]["title"] = "\ud800"
    elif place == "label":
        tree["spec"]["variants"][0]["label"] = "\ud800"
    else:
        tree["spec"]["\ud800"] = 1
    (suite / "suite.json").write_text(json.dumps(tree))
    assert "a lone surrogate: not Unicode" in complaint(capfd, main(["report", str(suite)]))


def test_suite_without_finished_runs_can_be_reported(tmp_path: Path, capfd: Capture) -> None:
    begin_suite(tmp_path / "new", SPEC)
    assert main(["report", str(tmp_path / "new")]) == 0
    assert "0 of 4 runs finished" in capfd.readouterr().out
    text = (tmp_path / "new" / "report" / "index.html").read_text()
    assert "No run has enough episodes to draw." in text
    assert "No run has been evaluated yet." in text


def test_the_same_runs_give_the_same_bytes(made: Path, written: Report, tmp_path: Path) -> None:
    write_report(made, tmp_path)
    files = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*.*"))
    assert len(files) > 20
    for file in files:
        assert (tmp_path / file).read_bytes() == (written.out / file).read_bytes(), file


def test_report_replaces_only_an_earlier_report(suite: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_report(suite, out)
    (out / "mine.txt").write_text("kept")
    shutil.rmtree(suite / "uniform")
    report = write_report(suite, out)
    assert (out / "mine.txt").read_text() == "kept"
    assert not (out / "improvement.csv").exists()
    listed = json.loads((out / "report.json").read_text())["files"]
    found = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    assert found == {*listed, "mine.txt"}
    assert sorted(p.stem for p in (out / "figures").glob("*.svg")) == sorted(report.figures)


def complaint(capfd: Capture, code: int) -> str:
    captured = capfd.readouterr()
    assert code == 2
    steps = ("reading ", "averaging", "drawing ", "writing ")  # the former behaviour
    lines = [line for line in captured.err.splitlines() if not line.startswith(steps)]
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("drama: error: ")
    return lines[0]


def test_page_of_another_program_is_not_overwritten(suite: Path, capfd: Capture) -> None:
    (suite / "report").mkdir()
    (suite / "report" / "index.html").write_text("<h1>My homepage</h1>")
    said = complaint(capfd, main(["report", str(suite)]))
    assert "is not a report of drama; choose another --out" in said
    assert (suite / "report" / "index.html").read_text() == "<h1>My homepage</h1>"


def contents(directory: Path) -> dict[str, str]:
    return {
        path.relative_to(directory).as_posix(): path.read_text() if path.is_file() else "directory"
        for path in sorted(directory.rglob("*"))
    }


@pytest.mark.parametrize("name", ["report.md", "report.json", "runs.csv", "scores.csv"])
@pytest.mark.parametrize("default", [False, True])
def test_files_of_the_user_are_not_overwritten(
    name: str, default: bool, suite: Path, tmp_path: Path, capfd: Capture
) -> None:
    out = suite / "report" if default else tmp_path / "mine"
    out.mkdir()
    (out / name).write_text('{"mine": 1}')
    said = complaint(capfd, main(["report", str(suite), *([] if default else ["--out", str(out)])]))
    assert "is not empty and is not a report of drama; choose another --out" in said
    assert contents(out) == {name: '{"mine": 1}'}, "not even a new directory"


def test_files_of_the_user_in_a_report_folder_stay(suite: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_report(suite, out)
    own = ("aggregates-mine.csv", "improvement.xlsx", "figures/mine.svg", "figures/mine.png")
    for name in own:
        (out / name).write_text("mine")
    write_report(suite, out)
    assert {(out / name).read_text() for name in own} == {"mine"}


def test_file_of_the_user_with_a_report_name_is_named(suite: Path, tmp_path: Path) -> None:
    out, hidden = tmp_path / "out", tmp_path / "hidden"
    (suite / "uniform").rename(hidden)
    write_report(suite, out)
    (out / "improvement.csv").write_text("mine")
    hidden.rename(suite / "uniform")
    before = {path: path.read_bytes() for path in out.rglob("*.*")}
    with pytest.raises(RunDirError, match=r"improvement\.csv is not of the earlier report"):
        write_report(suite, out)
    assert {path: path.read_bytes() for path in out.rglob("*.*")} == before


@pytest.mark.faults
@pytest.mark.parametrize(
    "record",
    [
        '{"generator": "drama report", "files": ["../mine.txt"]}',
        '{"generator": "drama report", "files": [["mine.txt"]]}',
        '{"generator": "drama report", "files": 3}',
        '{"generator": "drama report"}',
        '{"files": ["mine.txt"]}',
        "[]",
        "{",
        "[" * 100_000,
    ],
)
def test_manifest_of_another_program_deletes_nothing(
    record: str, suite: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for path in (tmp_path / "mine.txt", out / "mine.txt"):
        path.write_text("mine")
    (out / "report.json").write_text(record)
    with pytest.raises(RunDirError, match="is not a report of drama"):
        write_report(suite, out)
    assert (tmp_path / "mine.txt").read_text() == "mine"
    assert contents(out) == {"mine.txt": "mine", "report.json": record}


@pytest.mark.faults
@pytest.mark.parametrize(
    "name", ["figures", "figures/curves.png", "figures/curves.svg", "index.html", "report.json"]
)
def test_a_symbolic_link_in_an_earlier_report_is_refused(
    name: str, suite: Path, tmp_path: Path, capfd: Capture
) -> None:
    out = write_report(suite).out
    elsewhere = tmp_path / "elsewhere"
    (out / name).rename(elsewhere)
    (out / name).symlink_to(elsewhere)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    before = {path: path.read_bytes() for path in files}
    assert main(["report", str(suite)]) == 2
    assert f"{out / name} is a symbolic link" in complaint(capfd, 2)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_no_report_is_written_into_a_run(
    suite: Path, made: Path, tmp_path: Path, capfd: Capture
) -> None:
    shutil.rmtree(run_path(suite, "uniform", CATCH, 1))
    before = set(suite.rglob("*"))
    for out in (
        run_path(suite, "dfs", CATCH, 0),
        run_path(suite, "dfs", CATCH, 0) / "checkpoints",
        run_path(suite, "dfs", CATCH, 0) / "checkpoints" / "new" / "report",
        run_path(suite, "uniform", CATCH, 1),  # not started: a report there would block it
        run_path(made, "dfs", CATCH, 0) / "report",  # of another suite
    ):
        said = complaint(capfd, main(["report", str(suite), "--out", str(out)]))
        assert "lies in a run directory; choose another --out" in said
    assert set(suite.rglob("*")) == before
    assert not (run_path(made, "dfs", CATCH, 0) / "report").exists()


def test_empty_name_is_refused(
    suite: Path, tmp_path: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for out in ("", " "):
        assert "--out is empty" in complaint(capfd, main(["report", str(suite), "--out", out]))
    assert contents(tmp_path / "here") == {}


@pytest.mark.faults
def test_write_error_is_reported_in_one_line(suite: Path, capfd: Capture) -> None:
    report = write_report(suite)
    for name in ("runs.csv", "report.md", "figures/curves.png"):
        (report.out / name).unlink()
        (report.out / name).mkdir()
        said = complaint(capfd, main(["report", str(suite)]))
        assert f"cannot write a report to {report.out}: " in said
        (report.out / name).rmdir()
    assert main(["report", str(suite)]) == 0  # the incomplete report is replaced


@pytest.mark.faults
def test_interrupted_report_is_replaced(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    written: list[str] = []

    def kill(path: Path, text: str) -> None:
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(path.name)
        write_text(path, text)

    with monkeypatch.context() as patch:
        patch.setattr("drama.report.build.write_text", kill)
        with pytest.raises(KeyboardInterrupt):
            write_report(suite, out)
    assert (out / written[-1]).is_file()
    report = write_report(suite, out)
    assert report.page.is_file()


@pytest.mark.faults
def test_labels_are_not_formulas(tmp_path: Path) -> None:
    variants = [Variant("a", r"$\frac{$", "quick"), Variant("b", "$x$ & <b>", "quick")]
    given: list[dict[str, Any]] = [
        {"variant": variant, "seed": seed, "score": 0.25 * seed}
        for variant in variants
        for seed in (0, 1)
    ]
    found = summarise(tmp_path, "$_{", runs(tmp_path, *given))
    report = write_summary(found, tmp_path / "out")
    assert {"aggregates-1", "improvement", "profile-1"} <= set(report.figures)
    assert r"$\frac{$" in page(report).text


@pytest.mark.faults
def test_very_large_scores_are_plotted(tmp_path: Path) -> None:
    given: list[dict[str, Any]] = [
        {"seed": seed, "score": 1e100, "returns": [1e100] * 6} for seed in (0, 1)
    ]
    found = summarise(tmp_path, "Large", runs(tmp_path, *given))
    assert found.finished == 2
    assert "aggregates-1" in write_summary(found, tmp_path / "out").figures


@pytest.mark.faults
def test_run_record_with_unexpected_types_is_written(tmp_path: Path) -> None:
    made = cell(tmp_path)
    starts = [{"device_name": [1], "torch": {}}, {"device_name": [1], "torch": {}}]
    (made.path / "run.json").write_text(json.dumps({"starts": starts}))
    report = write_summary(summarise(tmp_path, "Odd", [read_run(made)]), tmp_path / "out")
    assert report.page.is_file()


@pytest.mark.faults
def test_surrogate_in_a_run_is_written(tmp_path: Path) -> None:
    made = cell(tmp_path)
    (made.path / "run.json").write_text(json.dumps({"starts": [{**START, "device": "\ud800"}]}))
    report = write_summary(summarise(tmp_path, "Odd", [read_run(made)]), tmp_path / "out")
    assert report.page.is_file()


def test_user_errors_are_reported_in_one_line(suite: Path, tmp_path: Path, capfd: Capture) -> None:
    assert "does not exist" in complaint(capfd, main(["report", str(tmp_path / "nowhere")]))
    neither = run_path(suite, "dfs", CATCH, 0).parent
    assert "has no suite.json" in complaint(capfd, main(["report", str(neither)]))
    (tmp_path / "file").write_text("")
    said = complaint(capfd, main(["report", str(suite), "--out", str(tmp_path / "file")]))
    assert "cannot write a report to" in said
    assert "invalid choice" in complaint(capfd, main(["report", str(suite), "--mode", "best"]))
    assert "required: DIR" in complaint(capfd, main(["report"]))


def test_missing_matplotlib_is_reported_in_one_line(
    suite: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [m for m in sys.modules if m.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "drama.report.figures", raising=False)
    said = complaint(capfd, main(["report", str(suite)]))
    assert said.endswith("drama report needs Matplotlib: pip install matplotlib scipy")
    assert not (suite / "report").exists()
    # Commands without figures work without it.
    assert build_summary(suite).finished == 3


def test_sampled_and_greedy_evaluations_are_not_mixed(suite: Path, capfd: Capture) -> None:
    path = run_path(suite, "dfs", CATCH, 0) / "eval.json"
    tree = json.loads(path.read_text())
    episodes = [{**episode, "return": 0.125} for episode in tree["greedy"]["episodes"]]
    sampled = {**tree["greedy"], "mode": "sampled", "mean": 0.125, "episodes": episodes}
    path.write_text(json.dumps({**tree, "sampled": sampled}))
    assert main(["report", str(suite), "--mode", "sampled"]) == 0
    said = capfd.readouterr().out
    assert said.count("excluded: ") == 2
    found = json.loads((suite / "report" / "report.json").read_text())
    assert found["variants"]["DFS"]["scores"] == {CATCH: {"0": 0.125}}
    assert found["variants"]["Uniform"]["scores"] == {}


def test_protocol_of_short_atari_runs_is_stated_on_the_page(tmp_path: Path) -> None:
    given: dict[str, Any] = {"variant": XS, "game": PONG, "score": 1.0, "steps": 20_000}
    found = summarise(tmp_path, "Atari", runs(tmp_path, given))
    text = page(write_summary(found, tmp_path / "out")).text
    assert "Drama XS (20,000 steps)" in text
    assert "20,000 environment steps instead of 100,000" in text
    assert "Drama-XS (published)" in text


def test_other_games_have_no_published_numbers(tmp_path: Path) -> None:
    found = summarise(tmp_path, "Toy", runs(tmp_path, {"variant": BASE}, {"variant": UNIFORM}))
    text = page(write_summary(found, tmp_path / "out")).text
    for method in ("DIAMOND", "DreamerV3", "STORM", "Human"):
        assert method not in text


def test_runs_without_updates_are_named(tmp_path: Path, capfd: Capture) -> None:
    idle = {**SETTINGS, "training.warmup_steps": 60}
    spec = SuiteSpec("idle", "Idle", (CATCH,), (0,), (Variant("idle", "Idle", "quick", idle),), 60)
    root = tmp_path / "suite"
    begin_suite(root, spec)
    path = run_path(root, "idle", CATCH, 0)
    agent = Agent(config=spec.config(spec.variants[0], CATCH, 0))
    agent.learn(60, run_dir=path)
    write_json(path / "eval.json", {"greedy": agent.evaluate().to_dict()})
    capfd.readouterr()
    assert main(["report", str(root)]) == 0
    name = f"Idle / {CATCH} / seed 0"
    assert f"not trained: {name}: no update: the warm-up" in capfd.readouterr().out
    for file in ("index.html", "report.md"):
        page = (root / "report" / file).read_text()
        assert "1 finished run made no update" in page
        assert "training.warmup_steps" in page or "training.warmup\\_steps" in page
    tree = json.loads((root / "report" / "report.json").read_text())
    assert list(tree["untrained"]) == [name]
