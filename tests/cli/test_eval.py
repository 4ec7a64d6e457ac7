"""``drama eval``: results, protocols, and what it writes."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from tests.cli.commands import Capture
from tests.training.runs import contents, tiny

from drama import Agent
from drama.cli import main


def test_eval_writes_both_modes_and_json_alone_to_standard_output(
    run: Path, capfd: Capture
) -> None:
    assert main(["eval", str(run), "--episodes", "3", "--json"]) == 0
    tree = json.loads(capfd.readouterr().out)
    assert list(tree) == ["greedy", "sampled"]
    assert tree == json.loads((run / "eval.json").read_text())
    assert [tree[mode]["mode"] for mode in tree] == ["greedy", "sampled"]
    assert {len(tree[mode]["episodes"]) for mode in tree} == {3}
    args = ["eval", str(run), "--episodes", "3", "--mode", "greedy", "--seed", "4"]
    assert main(args) == 0
    assert "greedy: mean return" in capfd.readouterr().out
    tree = json.loads((run / "eval.json").read_text())
    assert tree["greedy"]["protocol"]["seed"] == 4


@pytest.mark.faults
def test_eval_prints_its_result_if_it_cannot_be_written(
    run: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, tree: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr("drama.cli.evaluate.write_json", refuse)
    assert main(["eval", str(run), "--episodes", "2", "--json"]) == 2
    captured = capfd.readouterr()
    assert len(json.loads(captured.out)["greedy"]["episodes"]) == 2
    assert "eval.json: Read-only file system" in captured.err.splitlines()[-1]


def test_eval_supports_lookahead(run: Path, capfd: Capture) -> None:
    args = ["eval", str(run), "--episodes", "2", "--mode", "greedy"]
    for futures in (0, 3):
        assert main([*args, "--lookahead", str(futures)]) == 0
        tree = json.loads((run / "eval.json").read_text())
        assert tree["greedy"]["protocol"]["lookahead"] == futures
    # Results of other action selection are replaced.
    assert main(["eval", str(run), "--episodes", "2", "--mode", "sampled"]) == 0
    tree = json.loads((run / "eval.json").read_text())
    assert list(tree) == ["sampled"]
    assert tree["sampled"]["protocol"]["lookahead"] == 0
    assert main(args) == 0  # the value of the run
    assert list(json.loads((run / "eval.json").read_text())) == ["greedy", "sampled"]
    capfd.readouterr()
    assert main([*args, "--lookahead", "-1"]) == 2
    assert "lookahead must lie in [0, 1024], got -1" in capfd.readouterr().err


def test_eval_reports_latents_and_actions_and_does_not_mix_them(run: Path, capfd: Capture) -> None:
    args = ["eval", str(run), "--episodes", "2", "--mode"]
    assert main([*args, "greedy"]) == 0
    assert "latents sampled, actions argmax)" in capfd.readouterr().out
    protocol = json.loads((run / "eval.json").read_text())["greedy"]["protocol"]
    assert (protocol["latents"], protocol["actions"]) == ("sampled", "argmax")
    assert main([*args, "sampled", "--latents", "mode"]) == 0
    captured = capfd.readouterr()
    assert "latents mode, actions sampled)" in captured.out
    assert "the greedy evaluation in " in captured.err
    assert "has another protocol and is removed" in " ".join(captured.err.split())
    assert list(json.loads((run / "eval.json").read_text())) == ["sampled"]


def test_eval_reads_older_greedy_evaluations_as_mode_latents(run: Path) -> None:
    """Before latents were recorded, greedy used their mode and sampled sampled them."""
    args = ["eval", str(run), "--episodes", "2"]
    assert main([*args, "--latents", "mode", "--mode", "greedy"]) == 0
    tree = json.loads((run / "eval.json").read_text())
    for key in ("latents", "actions", "scored", "wrappers", "step_limit", "truncated_by_limit"):
        del tree["greedy"]["protocol"][key]
    (run / "eval.json").write_text(json.dumps(tree))
    assert main([*args, "--latents", "mode", "--mode", "sampled"]) == 0
    assert list(json.loads((run / "eval.json").read_text())) == ["greedy", "sampled"]
    (run / "eval.json").write_text(json.dumps(tree))
    assert main([*args, "--mode", "sampled"]) == 0
    assert list(json.loads((run / "eval.json").read_text())) == ["sampled"]


def test_eval_truncates_at_the_given_limit_and_reports_it(run: Path, capfd: Capture) -> None:
    args = ["eval", str(run), "--episodes", "2", "--mode", "greedy"]
    assert main([*args, "--max-episode-steps", "3"]) == 0
    said = " ".join(capfd.readouterr().out.split())
    assert "2 truncated after 3 steps (evaluation.max_episode_steps)" in said
    protocol = json.loads((run / "eval.json").read_text())["greedy"]["protocol"]
    assert (protocol["step_limit"], protocol["truncated_by_limit"]) == (3, 2)
    assert main([*args, "--episodes", "1"]) == 0
    said = capfd.readouterr().out
    assert "over 1 episode (latents" in said  # one episode has no deviation
    assert main([*args, "--max-episode-steps", "0"]) == 2
    assert "--max-episode-steps must be at least 1, got 0" in capfd.readouterr().err


def test_eval_explains_a_missing_normalised_score(tmp_path: Path, capfd: Capture) -> None:
    config = tiny({"world_model.filters": (4, 4, 4), "env.max_episode_steps": 40})
    Agent("ALE/Pong-v5", config).save(tmp_path / "short")
    assert main(["eval", str(tmp_path / "short"), "--episodes", "1", "--mode", "greedy"]) == 0
    said = " ".join(capfd.readouterr().out.split())
    why = "max episode steps 40 instead of 27000"
    assert f"no human-normalised score: {why}" in said
    result = json.loads((tmp_path / "short" / "eval.json").read_text())["greedy"]
    assert (result["normalised"], result["normalised_reason"]) == (None, why)


def test_eval_changes_only_its_file(run: Path) -> None:
    before = contents(run)
    assert main(["eval", str(run), "--episodes", "2"]) == 0
    after = contents(run)
    assert after.pop("eval.json")
    assert after == before


def test_eval_keeps_the_other_mode_of_the_same_agent(run: Path, capfd: Capture) -> None:
    args = ["eval", str(run), "--episodes", "2", "--mode"]
    assert main([*args, "sampled"]) == 0
    sampled = json.loads((run / "eval.json").read_text())["sampled"]
    assert main([*args, "greedy"]) == 0
    tree = json.loads((run / "eval.json").read_text())
    assert list(tree) == ["greedy", "sampled"]
    assert tree["sampled"] == sampled
    # Not that of an earlier step, and no unreadable file.
    tree["sampled"]["protocol"]["train_steps"] = 20
    for text in (json.dumps(tree), "{", "[]", '{"sampled": 3}'):
        (run / "eval.json").write_text(text)
        assert main([*args, "greedy"]) == 0
        assert list(json.loads((run / "eval.json").read_text())) == ["greedy"]


def test_eval_of_an_older_checkpoint_keeps_that_of_the_last(run: Path, capfd: Capture) -> None:
    assert main(["eval", str(run), "--episodes", "2"]) == 0
    before = contents(run)
    capfd.readouterr()
    assert main(["eval", str(run / "checkpoints" / "000000020"), "--episodes", "2"]) == 0
    captured = capfd.readouterr()
    assert "greedy: mean return" in captured.out
    assert "written to" not in captured.out
    assert "000000020 is not the last checkpoint: eval.json is not written" in captured.err
    assert contents(run) == before
    (run / "eval.json").unlink()
    assert main(["eval", str(run / "checkpoints" / "000000040"), "--episodes", "2"]) == 0
    assert contents(run) == before


def test_training_replaces_an_earlier_evaluation(run: Path) -> None:
    assert main(["eval", str(run), "--episodes", "2"]) == 0
    tree = json.loads((run / "eval.json").read_text())
    for result in tree.values():
        result["protocol"]["train_steps"] = 50
    (run / "eval.json").write_text(json.dumps(tree))
    assert main(["train", "--resume", str(run), "--steps", "50"]) == 0
    assert list(json.loads((run / "eval.json").read_text())) == ["greedy"]
