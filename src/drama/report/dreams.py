"""Open-loop rollouts of a run's world model: imagined frames beside true ones, and their error.

The model reads the first frames of a window with the posterior, then predicts the others from the
actions alone. Windows come from fresh evaluation episodes and from the newest replay segment, so
that overfitting shows as a gap between the two.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from drama.agent import Agent
from drama.envs.spaces import as_rgb
from drama.observations import Leaf
from drama.replay import ReplayBuffer
from drama.replay.storage import ReplayStore
from drama.report.drawing import Figure, finished, legend, looks, new_canvas
from drama.training.checkpoint import Checkpoint, find_checkpoint
from drama.types import ObsArray, ObsTensor, gather_obs, map_obs

CONTEXT = 4
"""Frames read before the rollout, fewer in short episodes."""
HORIZON = 16
"""Steps of the rollout, fewer in short episodes."""
WINDOWS = 64
"""Windows averaged over, at most."""
EPISODES = 8
"""Evaluation episodes that are played, fewer if they are long."""
STEPS = 1000
"""Steps of these after which no more are played."""
FRESH, REPLAY = "fresh episodes", "replay"
"""Where windows come from."""

Array = npt.NDArray[np.float64]


class Windows(NamedTuple):
    """``W`` windows of ``T`` transitions, each within one episode."""

    obs: ObsTensor
    """Each leaf ``(W, T, ...)``"""
    action: Tensor
    """``(W, T)`` int64; the last one of a window is unused."""


class Errors(NamedTuple):
    """Mean squared errors by horizon, averaged over windows."""

    rollout: Array
    """``(H,)``"""
    copy: Array
    """``(H,)``, of copying the last frame read."""

    def relative(self) -> Array:
        """Return rollout MSE relative to copying the last frame ``(H,)``; NaN if nothing moves."""
        return np.divide(
            self.rollout, self.copy, out=np.full_like(self.copy, np.nan), where=self.copy > 0
        )


@dataclass(frozen=True)
class Rollouts:
    """Rollouts of one run."""

    context: int
    """Frames read before the rollout."""
    errors: Mapping[str, Errors]
    """By source of the windows: :data:`FRESH`, and :data:`REPLAY` if the run has one."""
    strip: ObsArray | None
    """``(2, T, H, W, 3)`` uint8, true frames over predicted ones; None without images."""

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers for a program."""
        return {
            "context": self.context,
            **{
                name: {key: [float(x) for x in row] for key, row in e._asdict().items()}
                for name, e in self.errors.items()
            },
        }


def measure_rollouts(run_dir: str | Path) -> Rollouts:
    """Measure open-loop rollouts of a run's last checkpoint.

    Args:
        run_dir: Run directory; it is read only.

    Raises:
        DramaError: There is no checkpoint, it is damaged, or its environment cannot be made.
    """
    checkpoint, directory = find_checkpoint(Path(run_dir))
    agent = Agent.load(run_dir)
    try:
        episodes = play(agent)
        length = min(CONTEXT + HORIZON, max(len(action) for _, action in episodes))
        context = max(1, min(CONTEXT, length // 3))
        windows = {FRESH: cut(episodes, length)}
        if directory is not None and checkpoint.segments:
            replay = _newest_segment(agent, checkpoint, directory)
            found = replay_windows(replay, length)
            if found is not None:
                windows[REPLAY] = found
        errors, strip = {}, None
        for name, given in windows.items():
            leaf = agent.world_model.observations.shown
            predicted, true = shown(rollout(agent, given, context), leaf), shown(given.obs, leaf)
            errors[name] = compare(predicted, true, leaf, context)
            if name == FRESH and leaf.kind == "image":
                strip = _strip(predicted, true, context)
    finally:
        agent.env.close()
    return Rollouts(context, errors, strip)


def play(agent: Agent) -> list[tuple[ObsTensor, Tensor]]:
    """Play :data:`EPISODES` evaluation episodes with sampled actions, cut after :data:`STEPS`.

    Returns:
        For each episode its observations, each leaf ``(T, ...)``, the final one included, and its
        actions ``(T,)``, the last unused.
    """
    env = agent.new_env()
    episodes: list[tuple[ObsTensor, Tensor]] = []
    left = STEPS
    while left and len(episodes) < EPISODES:
        obs, _ = env.reset()
        frames, state, over = [obs], None, False
        actions: list[int] = []
        while left and not over:
            action, state = agent.predict(obs, state, deterministic=False)
            obs, _, terminated, truncated, _ = env.step(action)
            frames.append(obs)
            actions.append(int(action))
            over, left = terminated or truncated, left - 1
        seen = gather_obs(lambda leaf: torch.from_numpy(np.stack(leaf)), frames)
        episodes.append((seen, torch.tensor([*actions, 0])))
    env.close()
    return episodes


def cut(episodes: Sequence[tuple[ObsTensor, Tensor]], length: int) -> Windows:
    """Return evenly spaced windows of ``length`` steps from episodes ``(T, ...)`` and ``(T,)``."""
    starts = [
        (e, s) for e, (_, action) in enumerate(episodes) for s in range(len(action) - length + 1)
    ]
    chosen = [starts[i] for i in _spaced(len(starts))]

    def window(obs: ObsTensor, start: int) -> ObsTensor:
        return map_obs(lambda leaf: leaf[start : start + length], obs)

    parts = [window(episodes[e][0], s) for e, s in chosen]
    action = torch.stack([episodes[e][1][s : s + length] for e, s in chosen])
    return Windows(gather_obs(torch.stack, parts), action)


def replay_windows(replay: ReplayBuffer, length: int) -> Windows | None:
    """Return evenly spaced windows of ``length`` steps, each within one episode; None if none."""
    slots = torch.arange(replay.total - len(replay), replay.total) % replay.capacity
    ends = slots[length - 1 :]
    batch = replay.windows(ends, length)
    whole = (~batch.is_first[:, 1:].any(dim=1)).nonzero().squeeze(1)
    if not len(whole):
        return None
    chosen = whole[_spaced(len(whole))]
    return Windows(map_obs(lambda leaf: leaf[chosen], batch.obs), batch.action[chosen])


def rollout(agent: Agent, windows: Windows, context: int, seed: int = 0) -> ObsTensor:
    """Predict the frames of ``windows`` after the first ``context`` from the actions.

    Args:
        agent: Whose world model predicts.
        windows: ``W`` windows of ``T`` transitions.
        context: Frames read with the posterior.
        seed: Of the sampled latents.

    Returns:
        Predicted observations, each leaf ``(W, T - context, ...)``.
    """
    agent.world_model.eval()
    generator = torch.Generator(agent.device).manual_seed(seed)
    obs = map_obs(lambda leaf: leaf[:, :context].to(agent.device), windows.obs)
    action = windows.action.to(agent.device)
    predicted = agent.player.imagination.open_loop(obs, action, generator).obs
    return map_obs(lambda leaf: leaf.cpu(), predicted)


def shown(obs: ObsTensor, leaf: Leaf) -> Tensor:
    """Return the leaf that is compared: numbers, pixels in [0, 255], or one-hot variables."""
    part = obs[leaf.name] if isinstance(obs, dict) else obs
    if leaf.kind != "one-hot":
        return part
    return (part.unsqueeze(-1) == torch.arange(max(leaf.classes))).float()


def compare(predicted: Tensor, obs: Tensor, leaf: Leaf, context: int) -> Errors:
    """Return mean squared errors by horizon; pixels are in [0, 1].

    Args:
        predicted: ``(W, H, ...)``, from :func:`rollout`.
        obs: The true observations ``(W, T, ...)``.
        leaf: Which leaf of them it is.
        context: Frames read.
    """
    scale = 255.0 if leaf.kind == "image" else 1.0
    true = obs[:, context:].double() / scale
    last = obs[:, context - 1 : context].double() / scale

    def mse(other: Tensor) -> Array:
        error: Array = (other - true).square().flatten(2).mean(dim=(0, 2)).numpy()
        return error

    return Errors(mse(predicted.double() / scale), mse(last.expand_as(true)))


def draw_rollouts(rollouts: Rollouts) -> list[Figure]:
    """Draw the error curve, and the strip where observations are frames."""
    figures = [] if rollouts.strip is None else [_draw_strip(rollouts.strip, rollouts.context)]
    return [*figures, _draw_errors(rollouts)]


def _newest_segment(agent: Agent, checkpoint: Checkpoint, run_dir: Path) -> ReplayBuffer:
    """Read the newest replay segment, not the whole ring, which may be gigabytes.

    Raises:
        CheckpointError: It is missing or damaged.
    """
    segment = checkpoint.segments[-1]
    config = dataclasses.replace(
        agent.config.replay, capacity=segment["stop"] - segment["start"], random_shift=(0, 0)
    )
    buffer = ReplayBuffer(config, agent.world_model.observations)
    ReplayStore(run_dir / "replay").load(
        buffer, [segment], segment["stop"], agent.world_model.actions
    )
    return buffer


def _spaced(count: int) -> Tensor:
    """Return at most :data:`WINDOWS` indices below ``count``, evenly spaced."""
    return torch.linspace(0, count - 1, min(WINDOWS, count)).round().long()


def _strip(predicted: Tensor, obs: Tensor, context: int) -> ObsArray:
    """Return true over predicted frames of the window that changes most."""
    moved = (obs.float() - obs[:, :1].float()).square().flatten(1).mean(dim=1)
    best = int(moved.argmax())
    true = obs[best]
    below = torch.cat([true[:context], predicted[best]])
    return as_rgb(torch.stack([true, below]).numpy())


def _draw_strip(strip: ObsArray, context: int) -> Figure:
    rows, count, height, width = strip.shape[:4]
    with new_canvas((1.0 + 0.62 * count, 0.75 + 1.3 * height / width)) as canvas:
        grid = canvas.subplots(rows, count, squeeze=False)
        for r, (line, name) in enumerate(zip(strip, ("true", "predicted"), strict=True)):
            for t, frame in enumerate(line):
                axes = grid[r][t]
                axes.imshow(frame, interpolation="nearest")
                axes.set(xticks=[], yticks=[])
                axes.grid(visible=False)
                for spine in axes.spines.values():
                    spine.set_visible(True)
                    # Frames that were read are framed in grey, predicted ones in orange.
                    spine.set_color("#D55E00" if r and t >= context else "#9a9a9a")
                if not r:
                    axes.set_title(f"+{t - context + 1}" if t >= context else "read", fontsize=8)
            grid[r][0].set_ylabel(name, fontsize=9)
        return finished(
            canvas,
            "rollout-strip",
            "Open-loop rollout",
            f"Above: frames of an evaluation episode. Below: the first {context} are the same "
            "frames, read by the world model; the others (orange) are predicted from the actions "
            "alone. Shown is the window that changes most.",
            f"{count} true frames above {count - context} predicted ones.",
        )


def _draw_errors(rollouts: Rollouts) -> Figure:
    style = looks(list(rollouts.errors))
    with new_canvas((6.4, 3.2)) as canvas:
        axes = canvas.subplots()
        axes.axhline(1.0, color="grey", lw=0.8, ls=":")
        handles, said = {}, []
        for name, errors in rollouts.errors.items():
            relative = errors.relative()
            steps = np.arange(1, len(relative) + 1)
            look = style[name]
            (handles[name],) = axes.plot(
                steps, relative, color=look.colour, linestyle=look.dashes, marker="o", ms=3
            )
            said.append(f"{name}: {relative[0]:.2f} after 1 step, {relative[-1]:.2f} at the end")
        axes.set(xlabel="steps predicted", ylabel="MSE relative to copying")
        axes.set_ylim(bottom=0)
        axes.locator_params(axis="x", integer=True)
        legend(canvas, handles)
        return finished(
            canvas,
            "rollout-error",
            "Rollout error",
            f"Mean squared error of open-loop rollouts that read {rollouts.context} frames, "
            "relative to copying the last frame read (1, dotted). Fresh episodes far above the "
            "replay mean that the world model is overfitted.",
            "Rollout error relative to copying the last frame. " + "; ".join(said) + ".",
        )
