"""Does the replay suffice to predict an event? ``python -m lab.predictability LABEL=RUN``.

Events: in MinAtar's Freeway a car hits the chicken (``thrown``); in any game an action is rewarded
(``paid``: a hit in Boxing). Predictors: the world model of a finished run, and small networks that
learn only this from the same transitions: a convolution (shared over places), an MLP (not
shared), and an MLP on the world model's latents. The result is the area under the ROC curve on
training transitions and on held-out episodes of the run's policy. If the convolution does well on
held-out episodes, the transitions suffice; if the MLP on latents does, the latents do.

``python -m lab.predictability LABEL=RUN`` writes ``lab/assets/predictability-thrown.json`` and the
block of that name in ``lab/log.md``; with ``--event paid`` both are ``predictability-paid``.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from benchmarks import measure
from scipy.stats import rankdata
from torch import Tensor, nn
from torch.nn import functional as F

from drama.replay import ReplayBuffer
from drama.types import Batch
from drama.world_model import WorldModel
from lab import LAB, LOG
from lab.runs import continued, played

CHICKEN = (4, 0)
"""Column and channel of the chicken."""
WINDOW = 32
"""Transitions that the world model reads; the last one is queried."""
PLACES = 10
"""A convolution halves its frames while they are twice as wide as this."""
FRAMES = {"one frame": 1, "four frames": 4}
"""Frames that a network reads."""

# -------------------------------------------------------------------------------------- events

Asked = tuple[Tensor, Tensor]
"""For all transitions but the last ``(N - 1,)``: whether queried, whether the event follows."""


def thrown(rows: Batch) -> Asked:
    """Whether a car hits the chicken in MinAtar's Freeway."""
    lane = rows.obs[0, ..., CHICKEN[0], CHICKEN[1]]  # (N, 10)
    place = lane.argmax(-1)
    here, following = place[:-1], place[1:]
    seen = lane.amax(-1) > 0
    # At the top a crossing is rewarded and starts again at the bottom, which is no hit.
    on_the_road = (here < 9) & (rows.reward[0, :-1] == 0)
    asked = seen[:-1] & seen[1:] & ~rows.is_first[0, 1:] & on_the_road
    return asked, (following == 9) & on_the_road


def paid(rows: Batch) -> Asked:
    """Whether the action is rewarded."""
    return ~rows.is_last[0, :-1], rows.reward[0, :-1] > 0


def in_order(replay: ReplayBuffer) -> Batch:
    """Return all transitions but the newest, oldest first ``(1, N, ...)``."""
    end = torch.tensor([(replay.total - 2) % replay.capacity])
    return replay.windows(end, len(replay) - 1)


class Rows:
    """Consecutive transitions of a replay, and which of them are queried."""

    def __init__(self, rows: Batch, actions: int, event: Callable[[Batch], Asked]) -> None:
        self.batch = rows
        self.actions = actions
        self.shows = rows.obs[0]  # (N, H, W, C)
        self.asked, self.happened = event(rows)

    def as_latents(self, model: WorldModel) -> Rows:
        """Return the same transitions with latent probabilities instead of frames."""
        other = copy.copy(self)
        parts = [model.posterior(frames).exp().flatten(1) for frames in self.shows.split(500)]
        other.shows = torch.cat(parts)[:, None, None]  # (N, 1, 1, Z)
        return other

    def having(self, frames: int) -> Tensor:
        """Return queried indices whose last ``frames`` belong to one episode."""
        asked = self.asked.clone()
        asked[: WINDOW - 1] = False
        begins = self.batch.is_first[0].float()
        for back in range(frames - 1):
            asked &= begins.roll(back)[:-1] == 0
        return asked.nonzero().squeeze(1)

    def shown(self, index: Tensor, frames: int) -> Tensor:
        """Return the last frames and actions, ``(B, C, H, W)``."""
        columns = []
        for back in range(frames):
            frame = self.shows[index - back].permute(0, 3, 1, 2)
            frame = frame.float() / 255 if frame.dtype == torch.uint8 else frame
            action = F.one_hot(self.batch.action[0, index - back], self.actions).float()
            columns += [frame, action[:, :, None, None].expand(-1, -1, *frame.shape[2:])]
        return torch.cat(columns, dim=1)


# ------------------------------------------------------------------------------------ networks

Build = Callable[[int, int], nn.Module]
"""Builds a network from the number of channels and the frame width."""


class Convolution(nn.Module):
    """Three layers of 3x3 convolutions, after layers of stride 2 for wide frames."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for stride in [2] * int(math.log2(max(1, size / PLACES))) + [1, 1, 1]:
            layers += [nn.Conv2d(channels, 32, 3, stride, padding=1), nn.ReLU()]
            channels = 32
        self.layers = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to logits ``(B,)``, from each channel's largest value anywhere."""
        logits: Tensor = self.head(self.layers(x).amax(dim=(2, 3))).squeeze(1)
        return logits


class Perceptron(nn.Module):
    """Two hidden layers on the flattened input."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels * size * size, 512),
            nn.ReLU(),
            nn.Linear(512, 512),
            nn.ReLU(),
            nn.Linear(512, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to logits ``(B,)``."""
        logits: Tensor = self.layers(x).squeeze(1)
        return logits


def taught(build: Build, rows: Rows, frames: int, updates: int) -> nn.Module:
    """Train a classifier on batches of 128 transitions."""
    torch.manual_seed(0)
    index = rows.having(frames)
    network = build(*rows.shown(index[:1], frames).shape[1:3])
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
    for _ in range(updates):
        some = index[torch.randint(len(index), (128,))]
        logits = network(rows.shown(some, frames))
        loss = F.binary_cross_entropy_with_logits(logits, rows.happened[some].float())
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return network


# ----------------------------------------------------------------------------- the world model


def read(model: WorldModel, rows: Rows, index: Tensor) -> Iterator[Tensor]:
    """Yield sequence-model outputs of the queried transitions: parts of ``(B, D)``."""
    generator = torch.Generator().manual_seed(0)
    for part in index.split(64):
        window = part[:, None] + torch.arange(1 - WINDOW, 1)
        batch = Batch(*(None if x is None else x[0][window] for x in rows.batch))
        yield model.observe(batch, generator).deter[:, -1]


def futures_thrown(model: WorldModel, rows: Rows, index: Tensor, futures: int = 64) -> Tensor:
    """Return the share of predicted frames with the chicken at the bottom."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for deter in read(model, rows, index):
        prior = model.prior(deter)
        share = torch.zeros(len(deter))
        for _ in range(futures):
            frame = model.decoder(model.sample(prior, generator))
            share += (frame[..., CHICKEN[0], CHICKEN[1]].argmax(-1) == 9).float() / futures
        found.append(share)
    return torch.cat(found)


def expected_reward(model: WorldModel, rows: Rows, index: Tensor) -> Tensor:
    """Return predicted rewards."""
    return torch.cat([model.reward(deter) for deter in read(model, rows, index)])


# -------------------------------------------------------------------------------------- asking


class Event(NamedTuple):
    """An event and its predictors."""

    of: Callable[[Batch], Asked]
    model: Callable[[WorldModel, Rows, Tensor], Tensor]
    """Score of the world model: larger is likelier."""
    networks: Mapping[str, Build]
    """Networks on frames."""
    latents: bool
    """Whether an MLP on latents is trained too."""
    block: str


EVENTS = {
    "thrown": Event(
        thrown,
        futures_thrown,
        {"convolution": Convolution, "MLP": Perceptron},
        False,
        "predictability-thrown",
    ),
    # A frame of Atari has too many places for an MLP.
    "paid": Event(paid, expected_reward, {"convolution": Convolution}, True, "predictability-paid"),
}


def area(score: Tensor, happened: Tensor) -> float:
    """Area under the ROC curve; ties count half."""
    rank = torch.as_tensor(rankdata(score.double().numpy()))
    yes = int(happened.sum())
    no = len(happened) - yes
    return float((rank[happened].sum() - yes * (yes + 1) / 2) / (yes * no))


def spaced(index: Tensor, most: int) -> Tensor:
    """Return at most ``most`` indices, evenly spaced."""
    return index[torch.linspace(0, len(index) - 1, min(most, len(index))).long()]


def ask(
    run: Path, event: Event, new_rows: int, updates: int, most: int, seed: int
) -> dict[str, Any]:
    """Return the area of every predictor on training transitions and held-out episodes."""
    with continued(run, {}) as (agent, trainer):
        model = agent.world_model.eval()
        both = [
            Rows(in_order(replay), model.actions.count, event.of)
            for replay in (trainer.replay, played(agent, seed, new_rows))
        ]
        # The same transitions for all. Windows of the model may begin before an episode, as in
        # training, since some games have shorter episodes.
        longest = max(FRAMES.values())
        indices = [spaced(rows.having(longest), most) for rows in both]
        scores: dict[str, list[float]] = {}

        def score(name: str, says: Callable[[int], Tensor]) -> None:
            with torch.no_grad():
                areas = [area(says(i), both[i].happened[indices[i]]) for i in range(2)]
            scores[name] = [round(found, 3) for found in areas]

        def score_network(name: str, build: Build, shown: Sequence[Rows]) -> None:
            for words, frames in FRAMES.items():
                network = taught(build, shown[0], frames, updates)

                def says(i: int, network: nn.Module = network, frames: int = frames) -> Tensor:
                    parts = indices[i].split(500)
                    return torch.cat([network(shown[i].shown(part, frames)) for part in parts])

                score(f"{name}, {words}", says)

        for name, build in event.networks.items():
            score_network(name, build, both)
        if event.latents:
            with torch.no_grad():
                latents = [rows.as_latents(model) for rows in both]
            score_network("MLP, latents", Perceptron, latents)
        score("the world model of the run", lambda i: event.model(model, both[i], indices[i]))
        return {
            "rows": len(both[0].shows),
            "new": len(both[1].shows),
            "updates": updates,
            "happened": [int(both[i].happened[indices[i]].sum()) for i in range(2)],
            "scores": scores,
        }


def markdown(result: Mapping[str, Any]) -> str:
    """The block of the page."""
    rows = []
    for label, found in result["runs"].items():
        for name, areas in found["scores"].items():
            rows.append((label, name, *(f"{area:.2f}" for area in areas)))
    header = ("", "asked", "training transitions", "held-out episodes")
    return f"`{result['command']}`\n\n{measure.table(header, rows)}"


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, write the file, rewrite the block."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m lab.predictability")
    parser.add_argument("runs", nargs="+", metavar="LABEL=RUN")
    parser.add_argument("--event", choices=list(EVENTS), default="thrown")
    parser.add_argument("--new-rows", type=int, default=6000)
    parser.add_argument("--updates", type=int, default=1500)
    parser.add_argument("--most", type=int, default=5000, help="transitions per case")
    parser.add_argument("--seed", type=int, default=20_000, help="seed of the held-out episodes")
    parser.add_argument("--lab", type=Path, default=LAB)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    event = EVENTS[options.event]
    settings = (options.new_rows, options.updates, options.most, options.seed)
    runs = {}
    for given in options.runs:
        label, _, run = given.partition("=")
        runs[label] = ask(Path(run), event, *settings)
        print(label, runs[label], flush=True)
    given_options = [
        f"--{name.replace('_', '-')} {value}"
        for name, value in vars(options).items()
        if name not in ("runs", "lab") and value != parser.get_default(name)
    ]
    command = " ".join(
        ["python -m lab.predictability", *given_options, *(f'"{run}"' for run in options.runs)]
    )
    result = {"command": command, "machine": measure.machine(1), "runs": runs}
    path = options.lab / "assets" / f"{event.block}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    measure.replace_block(options.lab / LOG, event.block, markdown(result))


if __name__ == "__main__":
    main()
