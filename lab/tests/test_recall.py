"""Measurements of world model and policy at the question of the memory game."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from lab import recall, recall_probe
from torch import Tensor

from drama.suite import load_spec
from drama.suite.override import override

GAP = 2
ENV = f"drama/Recall{GAP}-v0"


@pytest.fixture(scope="module", autouse=True)
def short_game():
    import gymnasium as gym

    gym.register(ENV, "drama.envs.toy:Recall", kwargs={"gap": GAP})
    yield
    del gym.registry[ENV]


def test_probe_reads_encoded_colours_and_no_others():
    generator = torch.Generator().manual_seed(0)
    answers = torch.randint(4, (400,), generator=generator)
    noise = torch.randn(400, 20, generator=generator)
    cells = noise.clone()
    cells[:, 3] += 5.0 * (answers == 1)
    cells[:, 7] += 5.0 * (answers == 2)
    cells[:, 9] += 5.0 * (answers == 3)
    assert recall_probe.probe(cells, answers) > 0.95
    assert recall_probe.probe(noise, answers) < 0.4


def test_share_of_variance_matches_hand_computed_values():
    # Means 1 and 5 about 3: between 4 x 4 = 16; within 4 x 1 = 4.
    features = torch.tensor([[0.0], [2.0], [4.0], [6.0]])
    assert recall_probe.share(features, torch.tensor([0, 0, 1, 1])) == pytest.approx(0.8)
    assert recall_probe.share(features, torch.tensor([0, 1, 1, 0])) == pytest.approx(0.0)


def test_episodes_are_complete_and_colours_follow_from_rewards():
    seen = recall_probe.episodes(ENV, 16, 60, seed=3)
    assert seen.action.shape == (60, GAP + 4)
    assert seen.obs.shape == (60, GAP + 4, 16, 16, 3)
    question = GAP + 2
    assert bool(seen.is_first[:, 0].all())
    assert bool(seen.is_last[:, -1].all())
    assert bool(seen.terminated[:, question].all())
    right = recall_probe.colours(seen, question)
    expected = torch.where(seen.action[:, question] == right, 1.0, -1.0)
    torch.testing.assert_close(seen.reward[:, question], expected)
    nothing_paid = seen._replace(reward=-seen.reward.abs())
    with pytest.raises(ValueError, match="more episodes"):
        recall_probe.colours(nothing_paid, question)


class Oracle(torch.nn.Module):
    """Outputs the colour at each step; predicts the reward of the right answer if it knows."""

    def __init__(self, seen_right: Tensor, know: bool) -> None:
        super().__init__()
        self.right, self.know = seen_right, know

    def posterior(self, obs: Tensor) -> Tensor:
        return torch.zeros(*obs.shape[:2], 1)

    def sample(self, log_probs: Tensor, random: object) -> Tensor:
        return log_probs

    def sequence_input(self, stoch: Tensor, action: Tensor) -> Tensor:
        colour = torch.nn.functional.one_hot(self.right, 4).float()
        answer = torch.nn.functional.one_hot(action, 4).float()
        return torch.cat([colour[:, None].expand_as(answer), answer], dim=-1)

    def dynamics(self, x: Tensor, is_first: Tensor) -> tuple[Tensor, None]:
        return x, None

    def reward(self, deter: Tensor) -> Tensor:
        match = (deter[..., :4] * deter[..., 4:]).sum(-1)
        return 2 * match - 1 if self.know else -0.5 * torch.ones_like(match)


@pytest.mark.parametrize("know", [True, False])
def test_measurements_of_a_perfect_and_an_ignorant_reward_head(know: bool):
    seen = recall_probe.episodes(ENV, 16, 80, seed=3)
    question = GAP + 2
    found = recall_probe.look(Oracle(recall_probe.colours(seen, question), know), seen, question)  # type: ignore[arg-type]
    assert found["recalls"] == 1.0
    assert 0.3 < found["action_share"] < 0.7  # half of d is the answer
    if know:
        assert found["answers"] == 1.0
        assert found["apart"] == pytest.approx(1.0)  # of 1, -1, -1, -1
    else:
        assert found["answers"] < 0.5
        assert found["apart"] == 0.0


def test_first_update_above_the_thresholds_is_reported():
    rows = [
        {"updates": 100, "recalls": 0.3, "answers": 1.0, "apart": 0.01},
        {"updates": 200, "recalls": 0.95, "answers": 0.9, "apart": 0.8},
    ]
    assert recall.first(rows, "recalls") == "200"
    assert recall.first(rows, "answers") == "not by 200 (0.90)"
    rows[1]["answers"] = 0.96
    assert recall.first(rows, "answers") == "200"


def test_every_case_is_a_valid_configuration():
    config = load_spec(str(recall.SPEC)).variant("mamba2").config
    for case in recall.CASES.values():
        override(config, {**recall.PLAIN, **case.settings})


def test_cases_are_added_to_the_recorded_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(
        recall.CASES, "reward-30", recall.CASES["reward-30"]._replace(gap=GAP, episodes=40)
    )
    monkeypatch.setitem(recall.CASES, "both", recall.CASES["both"]._replace(gap=GAP, episodes=40))
    page = tmp_path / "page.md"
    page.write_text("<!-- begin recall-probe -->\n<!-- end recall-probe -->\n")
    common = ["--seeds", "5", "--updates", "2", "--every", "1"]
    common += ["--lab", str(tmp_path), "--page", "page.md"]
    for case in ("both", "reward-30"):
        recall.main(["--cases", case, *common])
    result = json.loads((tmp_path / "assets" / "recall-probe.json").read_text())
    assert [(run["case"], len(run["rows"])) for run in result["runs"]] == [
        ("both", 2),
        ("reward-30", 2),
    ]
    text = page.read_text()
    assert text.index("reward loss 30 times") < text.index("32 heads of 16 and action 4")
    assert "not by 2 (" in text


@pytest.mark.parametrize("block", ["recall-agents", "elsewhere"])
def test_agents_are_written_to_the_selected_block(
    block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    numbers = ("recalls", "answers", "apart", "policy_sees", "right", "entropy_asked", "entropy")

    def found(name: str, directory: Path) -> list[dict[str, object]]:
        row = {"variant": directory.name, "env": ENV, "seed": 3, "steps": 1234}
        return [{"name": name, **row, **{key: i / 8 for i, key in enumerate(numbers)}}]

    monkeypatch.setattr(recall, "agents", found)
    page = tmp_path / "page.md"
    page.write_text("".join(f"<!-- begin {b} -->\n<!-- end {b} -->\n" for b in (block, "other")))
    named = [] if block == "recall-agents" else ["--block", block]
    common = ["--lab", str(tmp_path), "--page", "page.md"]
    recall.main([*named, *common, "--runs", "one=suites/a", "the other=suites/b"])
    runs = "--runs one=suites/a 'the other=suites/b'"
    command = " ".join(["python -m lab.recall", *named, runs])
    result = json.loads((tmp_path / "assets" / f"{block}.json").read_text())
    assert result["command"] == command
    text = page.read_text()
    assert text.startswith(f"<!-- begin {block} -->\n`{command}`\n")
    assert (
        f"| one, a | {ENV} | 3 | 1,234 | 0.00 | 0.12 | 0.25 | 0.38 | 0.50 | 0.62 | 0.75 |" in text
    )
    assert text.endswith("<!-- begin other -->\n<!-- end other -->\n")

    # With --keep, rows that are not measured again stay.
    lines = {2: ENV, 3: "drama/Recall8-v0"}

    def later(name: str, directory: Path) -> list[dict[str, object]]:
        (line,) = found(name, directory)
        anew = [line | {"right": 1.0}] if directory.name == "b" else []
        return [line | {"seed": seed, "env": env} for seed, env in lines.items()] + anew

    monkeypatch.setattr(recall, "agents", later)
    recall.main([*named, *common, "--keep", "--runs", "the other=suites/b"])

    def cells() -> list[tuple[str, ...]]:
        rows = [line.split(" | ") for line in page.read_text().splitlines() if "/Recall" in line]
        return [(row[0][2:], row[1], row[2], row[8]) for row in rows]

    assert cells() == [
        ("one, a", ENV, "3", "0.50"),  # 4 eighths
        ("the other, b", ENV, "2", "0.50"),
        ("the other, b", ENV, "3", "1.00"),
        ("the other, b", "drama/Recall8-v0", "3", "0.50"),
    ]
    assert "--keep --runs 'the other=suites/b'`" in page.read_text()
    result = json.loads((tmp_path / "assets" / f"{block}.json").read_text())
    assert ["machine" in line for line in result["runs"]] == [True, False, False, False]
    recall.main([*named, *common, "--runs", "the other=suites/b"])
    assert len(cells()) == 3
