"""What a run's rows teach about new episodes, and what its model learnt: ``benchmarks.foretell``.

In MinAtar's Freeway a car throws the chicken back. Whether the next step does is asked of the world
model of a finished run, and of small networks that learn nothing else from the same rows: of a
convolution, which all places share, and of an MLP, to which each place is one of its own; with one
frame and with the last four. Told is, on rows learnt from and in new episodes of the run's policy,
the area under the ROC curve: the probability that of two steps, one that throws back and one that
does not, the former is thought the more dangerous. Where the convolution does well in new episodes,
the rows are not what is missing.

``python -m benchmarks.foretell LABEL=RUN`` writes ``docs/assets/results/foretell.json`` and the
block ``foretell`` of ``docs/results.md``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from scipy.stats import rankdata
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import measure
from benchmarks.apart import continued, played
from drama.types import Batch
from drama.world_model import WorldModel

CHICKEN = (4, 0)
"""Column and channel of the chicken."""
ACTIONS = 3
WINDOW = 32
"""Rows that the world model reads before it is asked about the last."""


class Rows:
    """Consecutive rows of a replay, and where the chicken is on them."""

    def __init__(self, rows: Batch) -> None:
        self.batch = rows
        self.obs, self.action = rows.obs[0], rows.action[0]  # (N, 10, 10, C), (N,)
        self.first = rows.is_first[0]
        lane = self.obs[..., CHICKEN[0], CHICKEN[1]]  # (N, 10)
        place = lane.argmax(-1)
        here, following = place[:-1], place[1:]
        seen = lane.amax(-1) > 0
        # At the top a crossing pays and begins anew at the bottom, which is no accident.
        on_the_road = (here < 9) & (rows.reward[0, :-1] == 0)
        self.asked = seen[:-1] & seen[1:] & ~self.first[1:] & on_the_road
        self.thrown = (following == 9) & on_the_road

    def having(self, frames: int) -> Tensor:
        """Indices of rows that are asked about and whose last ``frames`` are of one episode."""
        asked = self.asked.clone()
        asked[: WINDOW - 1] = False
        begins = self.first.float()
        for back in range(frames - 1):
            asked &= begins.roll(back)[:-1] == 0
        return asked.nonzero().squeeze(1)

    def shown(self, index: Tensor, frames: int) -> Tensor:
        """The last frames and actions of rows, ``(B, C, 10, 10)``."""
        columns = []
        for back in range(frames):
            frame = self.obs[index - back].permute(0, 3, 1, 2).float() / 255
            action = F.one_hot(self.action[index - back], ACTIONS).float()
            columns += [frame, action[:, :, None, None].expand(-1, -1, 10, 10)]
        return torch.cat(columns, dim=1)


class Convolution(nn.Module):
    """Three layers of 3x3 convolutions, the largest answer of any place."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in (channels, 32, 32):
            layers += [nn.Conv2d(width, 32, 3, padding=1), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, 10, 10)`` to logits ``(B,)``."""
        logits: Tensor = self.head(self.layers(x).amax(dim=(2, 3))).squeeze(1)
        return logits


class Perceptron(nn.Module):
    """Two hidden layers over all cells at once."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels * 100, 512),
            nn.ReLU(),
            nn.Linear(512, 512),
            nn.ReLU(),
            nn.Linear(512, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, 10, 10)`` to logits ``(B,)``."""
        logits: Tensor = self.layers(x).squeeze(1)
        return logits


def taught(build: Callable[[int], nn.Module], rows: Rows, frames: int, updates: int) -> nn.Module:
    """A network trained to tell, from 128 rows at a time."""
    torch.manual_seed(0)
    index = rows.having(frames)
    network = build(rows.shown(index[:1], frames).shape[1])
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
    for _ in range(updates):
        some = index[torch.randint(len(index), (128,))]
        logits = network(rows.shown(some, frames))
        loss = F.binary_cross_entropy_with_logits(logits, rows.thrown[some].float())
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return network


def area(score: Tensor, happened: Tensor) -> float:
    """Area under the ROC curve; ties count half."""
    rank = torch.as_tensor(rankdata(score.double().numpy()))
    yes = int(happened.sum())
    no = len(happened) - yes
    return float((rank[happened].sum() - yes * (yes + 1) / 2) / (yes * no))


@torch.no_grad()
def model_says(model: WorldModel, rows: Rows, index: Tensor, futures: int = 64) -> Tensor:
    """How often the world model, having read up to a row, sees the chicken at the bottom next."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for part in index.split(64):
        window = part[:, None] + torch.arange(1 - WINDOW, 1)
        batch = Batch(*(None if x is None else x[0][window] for x in rows.batch))
        prior = model.prior(model.observe(batch, generator).deter[:, -1])
        share = torch.zeros(len(part))
        for _ in range(futures):
            frame = model.decoder(model.sample(prior, generator))
            share += (frame[..., CHICKEN[0], CHICKEN[1]].argmax(-1) == 9).float() / futures
        found.append(share)
    return torch.cat(found)


NETWORKS: Mapping[str, tuple[Callable[[int], nn.Module], int]] = {
    "convolution, one frame": (Convolution, 1),
    "convolution, four frames": (Convolution, 4),
    "MLP, one frame": (Perceptron, 1),
    "MLP, four frames": (Perceptron, 4),
}


def ask(run: Path, new_rows: int, updates: int, most: int, seed: int) -> dict[str, Any]:
    """Area of every network and of the world model, on known rows and on new ones."""
    with continued(run, {}) as (agent, trainer):
        sets = [trainer.replay, played(agent, seed, new_rows)]
        known, new = (
            Rows(replay.windows(torch.tensor([len(replay) - 2]), len(replay) - 1))
            for replay in sets
        )
        model = agent.world_model.eval()
        scores: dict[str, list[float]] = {}
        for name, (build, frames) in NETWORKS.items():
            network = taught(build, known, frames, updates)
            scores[name] = []
            for rows in (known, new):
                index = spaced(rows.having(WINDOW), most)  # the same rows for all
                with torch.no_grad():
                    said = torch.cat([network(rows.shown(i, frames)) for i in index.split(500)])
                scores[name].append(round(area(said, rows.thrown[index]), 3))
        scores["the world model of the run"] = [
            round(area(model_says(model, rows, index), rows.thrown[index]), 3)
            for rows in (known, new)
            for index in (spaced(rows.having(WINDOW), most),)
        ]
    return {"rows": len(known.obs), "new": len(new.obs), "updates": updates, "scores": scores}


def spaced(index: Tensor, most: int) -> Tensor:
    """At most so many of them, from one end to the other."""
    return index[torch.linspace(0, len(index) - 1, min(most, len(index))).long()]


def markdown(result: Mapping[str, Any]) -> str:
    """The block of the page."""
    rows = []
    for label, found in result["runs"].items():
        for name, areas in found["scores"].items():
            rows.append((label, name, *(f"{area:.2f}" for area in areas)))
    header = ("", "asked", "rows learnt from", "new episodes")
    return f"`{result['command']}`\n\n{measure.table(header, rows)}"


def main(argv: Sequence[str] | None = None) -> None:
    """Ask, write the file, rewrite the block."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.foretell")
    parser.add_argument("runs", nargs="+", metavar="LABEL=RUN")
    parser.add_argument("--new-rows", type=int, default=6000)
    parser.add_argument("--updates", type=int, default=1500)
    parser.add_argument("--most", type=int, default=5000, help="rows asked about, of each kind")
    parser.add_argument("--seed", type=int, default=20_000, help="of the new episodes")
    parser.add_argument("--docs", type=Path, default=measure.DOCS)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    settings = (options.new_rows, options.updates, options.most, options.seed)
    runs = {}
    for given in options.runs:
        label, _, run = given.partition("=")
        runs[label] = ask(Path(run), *settings)
        print(label, runs[label], flush=True)
    command = "python -m benchmarks.foretell " + " ".join(f'"{run}"' for run in options.runs)
    result = {"command": command, "machine": measure.machine(1), "runs": runs}
    path = options.docs / "assets" / "results" / "foretell.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    measure.replace_block(options.docs / "results.md", "foretell", markdown(result))


if __name__ == "__main__":
    main()
