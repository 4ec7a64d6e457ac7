from __future__ import annotations

import math
import statistics
from collections import Counter

import pytest

from drama.errors import ConfigError
from drama.evaluation import scores


def test_the_benchmark_has_its_26_games_in_alphabetical_order():
    games = scores.games()
    assert len(games) == len(set(games)) == 26
    assert games[:4] == ("Alien", "Amidar", "Assault", "Asterix")
    assert games[-1] == "UpNDown"
    assert list(games) == sorted(games)


def test_references_equal_the_published_ones():
    assert scores.random_score("Pong") == -21.0
    assert scores.human_score("Pong") == 15.0
    assert scores.random_score("PrivateEye") == 25.0
    assert scores.human_score("PrivateEye") == 69571.0


@pytest.mark.parametrize(
    ("game", "score", "expected"),
    [
        ("Pong", -21.0, 0.0),
        ("Pong", 15.0, 1.0),
        ("Pong", 6.0, 0.75),  # (6 + 21) / (15 + 21) = 27 / 36
        ("Breakout", 16.0, 0.5),  # (16 - 2) / (30 - 2) = 14 / 28
        ("Freeway", 34.0, 34 / 30),  # better than the human: not clipped
        ("Boxing", -3.0, -0.25),  # worse than random: not clipped; (-3 - 0) / (12 - 0)
        ("Alien", 1953.0, 0.25),  # (1953 - 228) / (7128 - 228) = 1725 / 6900
    ],
)
def test_normalised_score_matches_hand_computed_values(game: str, score: float, expected: float):
    assert scores.normalised_score(game, score) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("game", scores.games())
def test_game_is_found_under_all_its_names(game: str):
    rom = "".join("_" + c.lower() if c.isupper() else c for c in game).lstrip("_")
    for name in (game, f"ALE/{game}-v5", f"{game}NoFrameskip-v4", f"{game}-ram-v4", rom):
        assert scores.game_of(name) == game


@pytest.mark.parametrize(
    ("name", "game"),
    [
        ("Private Eye", "PrivateEye"),
        ("Kung Fu Master", "KungFuMaster"),
        ("KUNG-FU MASTER", "KungFuMaster"),
        ("Ms. Pacman", "MsPacman"),
        ("Q*bert", "Qbert"),
        ("H.E.R.O.", "Hero"),
        ("James Bond", "Jamesbond"),
        ("Up'n Down", "UpNDown"),
        ("DemonAttackDeterministic-v4", "DemonAttack"),
        ("Pong-ramNoFrameskip-v4", "Pong"),
        (" ALE/Pong-v5 ", "Pong"),
        ("ale_py:ALE/Pong-v5", "Pong"),
    ],
)
def test_game_of_reads_titles_and_old_ids(name: str, game: str):
    assert scores.game_of(name) == game


@pytest.mark.parametrize(
    "name",
    [
        "drama/Catch-v0",
        "mine:Pong-v0",
        "mine:ALE/Pong-v5",
        "drama/Pong-v0",  # another namespace's Pong is not Atari's
        "ALE/Tetris-v5",
        "CartPole-v1",
        "NoFrameskip-v4",
        "ALE/-v5",
        "-v5",
        "",
    ],
)
def test_game_of_is_none_for_anything_else(name: str):
    assert scores.game_of(name) is None


def test_every_registered_atari_id_of_the_benchmark_is_read():
    gymnasium = pytest.importorskip("gymnasium")
    ale_py = pytest.importorskip("ale_py")
    gymnasium.register_envs(ale_py)
    ids = [i for i in gymnasium.registry if i.startswith("ALE/") and i.endswith("-v5")]
    found = Counter(scores.game_of(i) for i in ids)
    del found[None]
    assert found == Counter(scores.games())


def test_published_scores_of_one_game_and_method():
    assert scores.published("Drama-XS", "Alien") == [
        scores.PublishedScore("Drama-XS", "Alien", None, 820.0, "Drama paper, Table 1")
    ]
    assert scores.published("drama-xs", "ALE/Alien-v5") == scores.published("Drama-XS", "Alien")
    boxing = scores.published("Delta-IRIS", "Boxing")
    assert [(row.seed, row.score) for row in boxing] == [
        (0, 73.0),
        (1, 69.0),
        (2, 50.0),
        (3, 44.0),
        (4, 44.0),
    ]


def test_published_filters_split_the_table():
    everything = scores.published()
    assert len(everything) == 1586
    assert sum(len(scores.published(method=m)) for m in scores.methods()) == 1586
    assert sum(len(scores.published(game=g)) for g in scores.games()) == 1586
    assert len(scores.published(game="Pong")) == 61
    assert scores.methods()[:2] == ("Random", "Human")
    assert len(scores.methods()) == 21


def test_returned_list_is_a_copy():
    scores.published("Human").clear()
    assert len(scores.published("Human")) == 26


def test_table_is_complete_and_consistent():
    rows = scores.published()
    assert all(math.isfinite(row.score) and row.source for row in rows)
    assert max(Counter((row.method, row.game, row.seed) for row in rows).values()) == 1
    per_method = Counter((row.method, row.game) for row in rows)
    for method in scores.methods():
        counts = {per_method[method, game] for game in scores.games()}
        assert counts in ({1}, {5}), method
    for game in scores.games():
        assert scores.human_score(game) > scores.random_score(game)


def test_aggregates_of_the_published_drama_scores():
    # The per-game scores average to 98.8 % and have a median of 27.0 %, although the summary row
    # printed below them says 105 % and 27 %.
    normalised = [
        scores.normalised_score(row.game, row.score) for row in scores.published("Drama-XS")
    ]
    assert statistics.mean(normalised) == pytest.approx(0.988, abs=5e-4)
    assert statistics.median(normalised) == pytest.approx(0.270, abs=5e-4)


@pytest.mark.parametrize(
    "call",
    [
        lambda: scores.random_score("Pogn"),
        lambda: scores.human_score("Pogn"),
        lambda: scores.normalised_score("Pogn", 1.0),
        lambda: scores.published(game="Pogn"),
    ],
)
def test_unknown_game_suggests_the_nearest(call):
    with pytest.raises(ConfigError, match=r"^unknown Atari100k game 'Pogn'; did you mean Pong.$"):
        call()


def test_unknown_method_suggests_the_nearest():
    with pytest.raises(ConfigError, match=r"^unknown method 'Dreamer'; did you mean DreamerV3.$"):
        scores.published("Dreamer")


@pytest.mark.parametrize("name", ["", "???", "zzz/zzz"])
def test_unknown_name_without_a_near_one_is_one_line(name: str):
    with pytest.raises(ConfigError, match="unknown Atari100k game") as caught:
        scores.random_score(name)
    assert "\n" not in str(caught.value)
