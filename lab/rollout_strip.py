"""Look into a world model: ``python -m lab.rollout_strip RUN --out dream.png``.

Draws three strips over a stretch of real play: the frames, their reconstructions from the
posterior, and a dream that saw only the first few frames and was then given the real actions. An
amber line in the dream's row shows where it began.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch

import drama
from drama.envs import as_rgb
from drama.envs.source import env_source
from drama.types import ObsArray

GREY = (128, 128, 128)
AMBER = (255, 176, 0)
"""Colours of the lines between frames, and of that behind which a dream sees no more."""


@torch.no_grad()
def strips(agent: drama.Agent, *, seed: int, seen: int, length: int, skip: int) -> ObsArray:
    """Return frames, reconstructions and open-loop dream: ``(3, length, H, W, 3)``.

    Fewer than ``length`` where the episode ends before.

    Args:
        agent: A trained agent on an image environment.
        seed: Seed of the episode and of every draw.
        seen: Frames read before the dream begins.
        length: Frames shown.
        skip: Steps played before the first frame shown.
    """
    model, generator = agent.world_model, torch.Generator().manual_seed(seed)
    config = agent.config.env
    env = env_source(None, config).copy(seed, life_loss=False)
    obs, _ = env.reset()
    frames: list[ObsArray] = []
    actions: list[int] = []
    state = None
    for _ in range(skip + length):
        chosen, state = agent.predict(obs, state, deterministic=False)
        frames.append(obs)
        actions.append(int(chosen))
        obs, _, terminated, truncated, _ = env.step(chosen)
        if terminated or truncated:
            break
    env.close()
    real = torch.from_numpy(np.stack(frames))  # (T, H, W, C)
    stoch = model.sample(model.posterior(real), generator)  # (T, Z)
    rebuilt = model.decode(stoch)
    read, imagined = max(skip + seen, 1), rebuilt
    if read < len(real):
        predicted = agent.player.imagination.open_loop(
            real[None, :read], torch.tensor([actions]), generator
        )
        imagined = torch.cat([rebuilt[:read], predicted.obs[0]])
    rows = [as_rgb(each[skip:].numpy()) for each in (real, rebuilt, imagined)]
    return np.stack(rows)


def drawn(rows: ObsArray, *, seen: int, scale: int) -> ObsArray:
    """Return ``rows`` of frames ``(R, T, H, W, 3)`` as one picture, with a line around each frame.

    Args:
        rows: The frames of each strip; the last strip is the dream.
        seen: Frames that the dream read.
        scale: Pixels a pixel becomes; lines are two pixels wide.
    """
    line = 2
    count, length, height, width = rows.shape[:4]
    height, width = height * scale, width * scale
    down, right = height + line, width + line
    picture = np.empty((count * down + line, length * right + line, 3), np.uint8)
    picture[:] = GREY
    for r, row in enumerate(rows):
        for t, frame in enumerate(row):
            large = frame.repeat(scale, axis=0).repeat(scale, axis=1)
            top, left = r * down + line, t * right + line
            picture[top : top + height, left : left + width] = large
    if seen < length:
        picture[-down:, seen * right : seen * right + line] = AMBER
    return picture


def main() -> None:
    """Read the run, draw, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, default=Path("dream.png"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seen", type=int, default=3, help="frames read before the dream")
    parser.add_argument("--length", type=int, default=16, help="frames shown")
    parser.add_argument("--skip", type=int, default=0, help="steps played before them")
    parser.add_argument("--scale", type=int, default=2, help="enlargement")
    args = parser.parse_args()
    agent = drama.Agent.load(args.run, device="cpu")
    rows = strips(agent, seed=args.seed, seen=args.seen, length=args.length, skip=args.skip)
    picture = drawn(rows, seen=args.seen, scale=args.scale)
    cv2.imwrite(str(args.out), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    print(args.out)


if __name__ == "__main__":
    main()
