"""Built-in games: small pixel games whose optimal and random mean returns are known exactly.

They show in minutes, on a laptop, whether an agent learns: ``drama/Catch-v0`` (control),
``drama/Recall-v0`` (memory over a given gap) and ``drama/Sparse-v0`` (exploration). Every game
draws 8 x 8 cells of 4 x 4 pixels, is random at ``reset`` only and follows the Gymnasium API.

Each class states ``optimum`` and ``random_return``, the mean episode returns of the optimal policy
(``optimal_action``) and of the uniformly random one.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from drama.errors import EnvError

Frame = npt.NDArray[np.uint8]

GRID = 8
"""Cells along each side of the picture."""
CELL = 4
"""Pixels along each side of a cell."""
SIDE = GRID * CELL
RENDER_SCALE = 8

NIGHT = (16, 18, 40)
SLATE = (84, 92, 120)
WHITE = (240, 240, 240)
CYAN = (64, 208, 240)
YELLOW = (250, 210, 60)
GREEN = (70, 220, 100)
RED = (230, 60, 70)
BLUE = (70, 110, 250)
ORANGE = (240, 140, 50)

BLOCK = ("####", "####", "####", "####")
BALL = (".##.", "####", "####", ".##.")
BAR = ("....", "....", "####", "####")
KEY = (".##.", ".##.", ".#..", ".##.")
GATE = ("####", "#..#", "#..#", "####")
STAR = ("#..#", ".##.", ".##.", "#..#")
QUESTION = (
    "..####..",
    ".##..##.",
    ".....##.",
    "....##..",
    "...##...",
    "...##...",
    "........",
    "...##...",
)


def _sprite(pattern: tuple[str, ...], colour: tuple[int, int, int], scale: int = 1) -> Frame:
    """Return ``pattern`` as an RGB picture: ``#`` in ``colour``, the rest in the background."""
    picture = np.array([[colour if mark == "#" else NIGHT for mark in row] for row in pattern])
    return picture.astype(np.uint8).repeat(scale, axis=0).repeat(scale, axis=1)


class PixelGame(gym.Env[Frame, int]):
    """Base class of the games: picture, random state, rendering.

    Observations are ``(32, 32, 3)`` uint8.

    Args:
        render_mode: ``"rgb_array"`` for ``render()`` to return the picture enlarged to
            ``(256, 256, 3)``, or None.

    Raises:
        EnvError: ``render_mode`` is something else.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 8}  # noqa: RUF012
    optimum: ClassVar[float]
    """Mean episode return of the optimal policy."""
    random_return: ClassVar[float]
    """Mean episode return of the uniformly random policy."""
    action_names: ClassVar[tuple[str, ...]]
    """What each action does, in order."""

    def __init__(self, render_mode: str | None = None) -> None:
        if render_mode not in (None, "rgb_array"):
            raise EnvError(f"render_mode must be 'rgb_array' or None, got {render_mode!r}")
        self.render_mode = render_mode
        self.observation_space = gym.spaces.Box(0, 255, (SIDE, SIDE, 3), np.uint8)
        self.action_space = gym.spaces.Discrete(len(self.action_names))  # type: ignore[assignment]
        # Copying a blank picture is cheaper than filling a new one with a colour.
        self._blank: Frame = np.tile(np.array(NIGHT, np.uint8), (SIDE, SIDE, 1))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Frame, dict[str, Any]]:
        """Start an episode; ``seed`` restarts the random sequence of starts."""
        super().reset(seed=seed)
        self._start()
        return self._draw(), {}

    def get_action_meanings(self) -> list[str]:
        """Return one name per action, as Atari environments do."""
        return list(self.action_names)

    def render(self) -> Frame | None:
        """Return the current picture enlarged to ``(256, 256, 3)``, or None without a mode."""
        if self.render_mode is None:
            return None
        return self._draw().repeat(RENDER_SCALE, axis=0).repeat(RENDER_SCALE, axis=1)

    @abstractmethod
    def optimal_action(self) -> int:
        """Return an action of the optimal policy in the current state."""

    @abstractmethod
    def _start(self) -> None:
        """Sample the start of an episode."""

    @abstractmethod
    def _draw(self) -> Frame:
        """Return a new picture of the current state."""


def _put(frame: Frame, row: int, column: int, sprite: Frame) -> None:
    """Paint ``sprite`` over ``frame`` with its top left corner in the given cell."""
    y, x = row * CELL, column * CELL
    frame[y : y + sprite.shape[0], x : x + sprite.shape[1]] = sprite


class Catch(PixelGame):
    """A ball falls from a random column; be under it after seven steps.

    The ball falls one cell per step. The paddle is one cell wide and starts in one of the four
    middle columns, at most five cells from any ball: every ball can be caught even after two
    wasted actions. The return is 1 for a catch, -1 for a miss. The random policy catches one
    ball in eight, since the ball's column is uniform and independent of the paddle: its mean
    return is 2/8 - 1.
    """

    optimum: ClassVar[float] = 1.0
    random_return: ClassVar[float] = -0.75
    action_names: ClassVar[tuple[str, ...]] = ("LEFT", "NOOP", "RIGHT")

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self._row = self._column = self._paddle = 0
        self._ball_sprite = _sprite(BALL, YELLOW)
        self._paddle_sprite = _sprite(BAR, CYAN)
        self._caught_sprite = _sprite(BLOCK, GREEN)
        self._missed_sprite = _sprite(BALL, RED)

    def step(self, action: int) -> tuple[Frame, float, bool, bool, dict[str, Any]]:
        """Move the paddle by ``action - 1`` cells, then let the ball fall one cell."""
        self._paddle = min(max(self._paddle + int(action) - 1, 0), GRID - 1)
        self._row += 1
        landed = self._row == GRID - 1
        reward = (1.0 if self._paddle == self._column else -1.0) if landed else 0.0
        return self._draw(), reward, landed, False, {}

    def optimal_action(self) -> int:
        """Return the move towards the ball's column."""
        return 1 + int(np.sign(self._column - self._paddle))

    def _start(self) -> None:
        self._row = 0
        self._column = int(self.np_random.integers(GRID))
        self._paddle = int(self.np_random.integers(2, 6))

    def _draw(self) -> Frame:
        frame: Frame = self._blank.copy()
        if self._row < GRID - 1:
            _put(frame, self._row, self._column, self._ball_sprite)
            _put(frame, GRID - 1, self._paddle, self._paddle_sprite)
        elif self._paddle == self._column:
            _put(frame, GRID - 1, self._paddle, self._caught_sprite)
        else:
            _put(frame, GRID - 1, self._column, self._missed_sprite)
            _put(frame, GRID - 1, self._paddle, self._paddle_sprite)
        return frame


class Recall(PixelGame):
    """Remember a colour over a gap.

    Two frames show one of four cue colours. ``gap`` empty frames follow, with a progress bar on
    top, so that only the colour has to be remembered. At the last frame, a question mark, action
    ``k`` is rewarded with 1 if the cue was colour ``k``, else with -1. Earlier actions have no
    effect. An episode has ``gap + 3`` actions. The random policy is right one time in four: its
    mean return is 2/4 - 1.

    The final frame shows the colour again, over a green (right) or red (wrong) bar. It comes too
    late for the policy, but it rewards frame prediction for remembering the colour. The reward
    alone does not at first: it depends on colour and answer jointly, not on either one alone.

    Args:
        gap: Empty frames between the last cue frame and the question, at least 0.
        render_mode: As in :class:`PixelGame`.

    Raises:
        EnvError: ``gap`` is not an integer of at least 0.
    """

    optimum: ClassVar[float] = 1.0
    random_return: ClassVar[float] = -0.5
    action_names: ClassVar[tuple[str, ...]] = ("RED", "GREEN", "BLUE", "YELLOW")
    cue_frames: ClassVar[int] = 2
    _COLOURS: ClassVar[tuple[tuple[int, int, int], ...]] = (RED, GREEN, BLUE, YELLOW)

    def __init__(self, gap: int = 16, render_mode: str | None = None) -> None:
        if not isinstance(gap, int) or isinstance(gap, bool) or gap < 0:
            raise EnvError(f"gap must be an integer of at least 0, got {gap!r}")
        super().__init__(render_mode)
        self.gap = gap
        self._question = self.cue_frames + gap  # time step of the question
        self._time = self._cue = 0
        self._answer: int | None = None
        self._cue_sprites = [_sprite(BLOCK, colour, scale=4) for colour in self._COLOURS]
        self._ask_sprite = _sprite(QUESTION, WHITE, scale=2)

    def step(self, action: int) -> tuple[Frame, float, bool, bool, dict[str, Any]]:
        """Advance one step; at the question, ``action`` is the answer and ends the episode."""
        done = self._time == self._question
        reward = 0.0
        if done:
            self._answer = int(action)
            reward = 1.0 if self._answer == self._cue else -1.0
        self._time += 1
        return self._draw(), reward, done, False, {}

    def optimal_action(self) -> int:
        """Return the answer."""
        return self._cue

    def _start(self) -> None:
        self._time = 0
        self._answer = None
        self._cue = int(self.np_random.integers(len(self._COLOURS)))

    def _draw(self) -> Frame:
        frame: Frame = self._blank.copy()
        elapsed = SIDE * min(self._time, self._question) // self._question
        frame[: CELL // 2, :elapsed] = SLATE
        if self._answer is not None:
            frame[-CELL:] = GREEN if self._answer == self._cue else RED
            _put(frame, 2, 2, self._cue_sprites[self._cue])
        elif self._time < self.cue_frames:
            _put(frame, 2, 2, self._cue_sprites[self._cue])
        elif self._time == self._question:
            _put(frame, 2, 2, self._ask_sprite)
        return frame


class Sparse(PixelGame):
    """Fetch the key, pass the door, reach the goal: one reward, at the end.

    A wall splits the grid into a left room of four columns and a right room of three; its door
    opens to the agent with the key. Start, key (left), row of the door and goal (right) are
    sampled in each episode. Reaching the goal gives 1 and terminates. The registered environment
    truncates after 96 steps; the longest path takes 31. The agent turns from cyan to yellow when
    it holds the key.

    ``random_return`` is the exact success probability of 96 random actions, by dynamic
    programming over all layouts (``tests/envs/test_toy.py`` computes it).
    """

    optimum: ClassVar[float] = 1.0
    random_return: ClassVar[float] = 0.0406
    action_names: ClassVar[tuple[str, ...]] = ("UP", "RIGHT", "DOWN", "LEFT")
    time_limit: ClassVar[int] = 96
    wall: ClassVar[int] = 4
    """Column of the wall."""
    _MOVES: ClassVar[tuple[tuple[int, int], ...]] = ((-1, 0), (0, 1), (1, 0), (0, -1))

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self._agent = self._key = self._goal = (0, 0)
        self._door = 0
        self._has_key = False
        self._walled = self._blank.copy()
        self._walled[:, self.wall * CELL : (self.wall + 1) * CELL] = SLATE
        self._door_sprite = _sprite(GATE, ORANGE)
        self._key_sprite = _sprite(KEY, YELLOW)
        self._goal_sprite = _sprite(STAR, GREEN)
        self._agent_sprites = (_sprite(BALL, CYAN), _sprite(BALL, YELLOW))

    def step(self, action: int) -> tuple[Frame, float, bool, bool, dict[str, Any]]:
        """Move one cell; walls, edges and a locked door leave the agent where it is."""
        step = self._MOVES[int(action)]
        row, column = self._agent[0] + step[0], self._agent[1] + step[1]
        inside = 0 <= row < GRID and 0 <= column < GRID
        passable = column != self.wall or (self._has_key and row == self._door)
        if inside and passable:
            self._agent = (row, column)
        self._has_key = self._has_key or self._agent == self._key
        arrived = self._agent == self._goal
        return self._draw(), float(arrived), arrived, False, {}

    def optimal_action(self) -> int:
        """Return a move along a shortest path to the key, through the door, to the goal."""
        row, column = self._agent
        if not self._has_key:
            target = self._key
        elif column < self.wall and row != self._door:
            target = (self._door, column)
        elif column <= self.wall:
            target = (self._door, self.wall + 1)
        else:
            target = self._goal
        if column != target[1]:
            return 1 if column < target[1] else 3
        return 2 if row < target[0] else 0

    def _start(self) -> None:
        rng = self.np_random
        # Two different cells of the left room: the agent never starts on the key.
        start, key = rng.choice(GRID * self.wall, size=2, replace=False)
        self._agent = (int(start) // self.wall, int(start) % self.wall)
        self._key = (int(key) // self.wall, int(key) % self.wall)
        self._door = int(rng.integers(GRID))
        self._goal = (int(rng.integers(GRID)), int(rng.integers(self.wall + 1, GRID)))
        self._has_key = False

    def _draw(self) -> Frame:
        frame: Frame = self._walled.copy()
        _put(frame, self._door, self.wall, self._door_sprite)
        _put(frame, *self._goal, self._goal_sprite)
        if not self._has_key:
            _put(frame, *self._key, self._key_sprite)
        _put(frame, *self._agent, self._agent_sprites[self._has_key])
        return frame


def register_games() -> None:
    """Register the games in Gymnasium's ``drama`` namespace; a second call does nothing."""
    if "drama/Catch-v0" not in gym.registry:
        gym.register("drama/Catch-v0", f"{__name__}:Catch")
        gym.register("drama/Recall-v0", f"{__name__}:Recall")
        for gap in (8, 32, 128):
            gym.register(f"drama/Recall{gap}-v0", f"{__name__}:Recall", kwargs={"gap": gap})
        gym.register("drama/Sparse-v0", f"{__name__}:Sparse", max_episode_steps=Sparse.time_limit)
