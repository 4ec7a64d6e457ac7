"""Probes of world model and policy at the question of Recall, on held-out episodes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

import drama
from drama.behaviour import LatentState
from drama.envs.toy import Recall
from drama.types import Batch
from drama.world_model import WorldModel


def episodes(env_id: str, size: int | None, count: int, seed: int) -> Batch:
    """Whole episodes of random actions, ``(count, gap + 4)``."""
    env = drama.make_env(env_id, seed, image_size=size)
    rng = np.random.default_rng(seed)
    columns: list[list[tuple[Any, ...]]] = []
    for _ in range(count):
        obs, _ = env.reset()
        rows, over = [], False
        while not over:
            action = int(rng.integers(len(Recall.action_names)))
            following, reward, over, _, _ = env.step(action)
            rows.append((obs, action, float(reward), over))
            obs = following
        columns.append([*rows, (obs, 0, 0.0, False)])
    env.close()
    pictures, actions, rewards, ends = (
        [[row[i] for row in rows] for rows in columns] for i in range(4)
    )
    flags = torch.tensor(ends)
    is_first, is_last = torch.zeros_like(flags), torch.zeros_like(flags)
    is_first[:, 0], is_last[:, -1] = True, True
    return Batch(
        obs=torch.from_numpy(np.array(pictures)),
        is_first=is_first,
        action=torch.tensor(actions),
        reward=torch.tensor(rewards),
        terminated=flags,
        truncated=torch.zeros_like(flags),
        is_last=is_last,
    )


def colours(seen: Batch, question: int) -> Tensor:
    """Right answer of each episode ``(B,)``, told by the first frame and by answers that paid."""
    frames = seen.obs[:, 0].flatten(1)
    _, kind = torch.unique(frames, dim=0, return_inverse=True)
    paid = seen.reward[:, question] > 0
    answer_of = torch.full((len(frames),), -1)
    answer_of[kind[paid]] = seen.action[paid, question]
    answers = answer_of[kind]
    if bool((answers < 0).any()):
        raise ValueError("a colour was never named right: more episodes are needed")
    return answers


def probe(features: Tensor, answers: Tensor) -> float:
    """Accuracy of a linear readout ``(B, F)`` fitted to the first half, on the second."""
    half = len(features) // 2
    x = features.double()
    x = (x - x[:half].mean(0)) / (x[:half].std(0) + 1e-3)
    x = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], dim=1)
    y = torch.nn.functional.one_hot(answers, len(Recall.action_names)).to(x.dtype)
    kernel = x[:half] @ x[:half].T + 10.0 * torch.eye(half, dtype=x.dtype)
    guess = (x[half:] @ x[:half].T @ torch.linalg.solve(kernel, y[:half])).argmax(1)
    return float((guess == answers[half:]).double().mean())


def share(features: Tensor, kind: Tensor) -> float:
    """Share of the variance of ``(B, F)`` that lies between the means of each ``kind``."""
    centred = features - features.mean(0)
    between = torch.zeros(())
    for value in torch.unique(kind):
        rows = centred[kind == value]
        between = between + len(rows) * rows.mean(0).square().sum()
    return float(between / centred.square().sum())


@torch.no_grad()
def ask(agent: drama.Agent, seen: Batch, question: int) -> dict[str, float]:
    """Probe model and policy at the question, after the actions of ``seen``."""
    model, right = agent.world_model.eval(), colours(seen, question)
    generator = torch.Generator().manual_seed(0)
    stoch = model.sample(model.posterior(seen.obs), generator)
    deter = model.dynamics(model.sequence_input(stoch, seen.action), seen.is_first)[0]
    before = deter[:, :question]  # d_{t-1} of steps 1 to the question
    latent = model.sample(model.prior(before), generator)
    dynamics, columns = model.dynamics.init_state(len(stoch)), []
    for t in range(question):
        _, dynamics = model.step(stoch[:, t], seen.action[:, t], dynamics)
        state = LatentState(latent[:, t], before[:, t], dynamics)
        columns.append(agent.player.imagination.features(state))
    features = torch.stack(columns, dim=1)  # (B, question, Z + D)
    log_probs = agent.behaviour.policy(features).log_probs  # (B, question, answers)
    entropy = -(log_probs.exp() * log_probs).sum(-1)
    return {
        **look(model, seen, question),
        "recalls_before": probe(before[:, -1], right),
        "policy_sees": probe(features[:, -1, latent.shape[-1] :], right),
        "right": float(log_probs[:, -1].exp().gather(-1, right[:, None]).mean()),
        "entropy_asked": float(entropy[:, -1].mean()),
        "entropy": float(entropy.mean()),
    }


@torch.no_grad()
def look(model: WorldModel, seen: Batch, question: int) -> dict[str, float]:
    """Probe the model at the question."""
    model.eval()
    right = colours(seen, question)
    stoch = model.sample(model.posterior(seen.obs), torch.Generator().manual_seed(0))

    def deter(action: Tensor) -> Tensor:
        out: Tensor = model.dynamics(model.sequence_input(stoch, action), seen.is_first)[0]
        return out

    given = []
    for answer in range(len(Recall.action_names)):
        action = seen.action.clone()
        action[:, question] = answer
        given.append(model.reward(deter(action)[:, question]))
    rewards = torch.stack(given, dim=1)  # (B, answers)
    asked = deter(seen.action)[:, question]
    return {
        "recalls": probe(asked, right),
        "action_share": share(asked, seen.action[:, question]),
        "answers": float((rewards.argmax(1) == right).double().mean()),
        "apart": float(rewards.std(1).mean()),
    }
