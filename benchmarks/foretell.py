"""What a run's rows teach about new episodes, and what its model learnt: ``benchmarks.foretell``.

Something may follow a row: in MinAtar's Freeway a car throws the chicken back (``thrown``), in any
game an action is paid for (``paid``: a blow in Boxing). Whether it does is asked of the world model
of a finished run, and of small networks that learn nothing else from the same rows: of a
convolution, which all places share, of an MLP, to which each place is one of its own, and of an MLP
that is shown the world model's latents instead of frames. Told is, on rows learnt from and in new
episodes of the run's policy, the area under the ROC curve: the probability that of two rows, one
that it follows and one that it does not, the former is thought the likelier. Where the convolution
does well in new episodes, the rows are not what is missing; where the MLP on latents does, the
latents are not.

``python -m benchmarks.foretell LABEL=RUN`` writes ``docs/assets/results/foretell.json`` and the
block ``foretell`` of ``docs/results.md``; with ``--event paid`` both are named ``foretell-paid``.
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
from scipy.stats import rankdata
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import measure
from benchmarks.apart import continued, played
from drama.replay import ReplayBuffer
from drama.types import Batch
from drama.world_model import WorldModel

CHICKEN = (4, 0)
"""Column and channel of the chicken."""
WINDOW = 32
"""Rows that the world model reads before it is asked about the last."""
PLACES = 10
"""A convolution halves its frames while they are twice as wide as this."""
FRAMES = {"one frame": 1, "four frames": 4}
"""How far back a network sees."""

# -------------------------------------------------------------------------------------- events

Asked = tuple[Tensor, Tensor]
"""Of each row but the last ``(N - 1,)``: whether one may ask about it, and whether it follows."""


def thrown(rows: Batch) -> Asked:
    """Whether a car throws the chicken back to the bottom of MinAtar's Freeway."""
    lane = rows.obs[0, ..., CHICKEN[0], CHICKEN[1]]  # (N, 10)
    place = lane.argmax(-1)
    here, following = place[:-1], place[1:]
    seen = lane.amax(-1) > 0
    # At the top a crossing pays and begins anew at the bottom, which is no accident.
    on_the_road = (here < 9) & (rows.reward[0, :-1] == 0)
    asked = seen[:-1] & seen[1:] & ~rows.is_first[0, 1:] & on_the_road
    return asked, (following == 9) & on_the_road


def paid(rows: Batch) -> Asked:
    """Whether the row's action is rewarded."""
    return ~rows.is_last[0, :-1], rows.reward[0, :-1] > 0


def in_order(replay: ReplayBuffer) -> Batch:
    """All rows but the newest, oldest first ``(1, N, ...)``, also of a ring that has wrapped."""
    end = torch.tensor([(replay.total - 2) % replay.capacity])
    return replay.windows(end, len(replay) - 1)


class Rows:
    """Consecutive rows of a replay, and what one may ask about them."""

    def __init__(self, rows: Batch, actions: int, event: Callable[[Batch], Asked]) -> None:
        self.batch = rows
        self.actions = actions
        self.shows = rows.obs[0]  # (N, H, W, C)
        self.asked, self.happened = event(rows)

    def as_latents(self, model: WorldModel) -> Rows:
        """The same rows, of which a network is shown the probabilities of the latents."""
        other = copy.copy(self)
        parts = [model.posterior(frames).exp().flatten(1) for frames in self.shows.split(500)]
        other.shows = torch.cat(parts)[:, None, None]  # (N, 1, 1, Z)
        return other

    def having(self, frames: int) -> Tensor:
        """Indices of rows that are asked about and whose last ``frames`` are of one episode."""
        asked = self.asked.clone()
        asked[: WINDOW - 1] = False
        begins = self.batch.is_first[0].float()
        for back in range(frames - 1):
            asked &= begins.roll(back)[:-1] == 0
        return asked.nonzero().squeeze(1)

    def shown(self, index: Tensor, frames: int) -> Tensor:
        """The last frames and actions of rows, ``(B, C, H, W)``."""
        columns = []
        for back in range(frames):
            frame = self.shows[index - back].permute(0, 3, 1, 2)
            frame = frame.float() / 255 if frame.dtype == torch.uint8 else frame
            action = F.one_hot(self.batch.action[0, index - back], self.actions).float()
            columns += [frame, action[:, :, None, None].expand(-1, -1, *frame.shape[2:])]
        return torch.cat(columns, dim=1)


# ------------------------------------------------------------------------------------ networks

Build = Callable[[int, int], nn.Module]
"""Makes a network for so many channels and so wide a frame."""


class Convolution(nn.Module):
    """Three layers of 3x3 convolutions, behind as many of stride 2 as a wide frame takes."""

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
    """Two hidden layers over all places at once."""

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
    """A network trained to tell, from 128 rows at a time."""
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
    """What the sequence model makes of the rows and of those before them: parts of ``(B, D)``."""
    generator = torch.Generator().manual_seed(0)
    for part in index.split(64):
        window = part[:, None] + torch.arange(1 - WINDOW, 1)
        batch = Batch(*(None if x is None else x[0][window] for x in rows.batch))
        yield model.observe(batch, generator).deter[:, -1]


def futures_thrown(model: WorldModel, rows: Rows, index: Tensor, futures: int = 64) -> Tensor:
    """How often it sees the chicken at the bottom next."""
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
    """What its reward head expects of the rows' actions."""
    return torch.cat([model.reward(deter) for deter in read(model, rows, index)])


# -------------------------------------------------------------------------------------- asking


class Event(NamedTuple):
    """What may follow a row, and who is asked about it."""

    of: Callable[[Batch], Asked]
    model: Callable[[WorldModel, Rows, Tensor], Tensor]
    """The world model's word: the larger, the likelier."""
    networks: Mapping[str, Build]
    """Those that are shown frames."""
    latents: bool
    """Whether a network is shown latents."""
    block: str


EVENTS = {
    "thrown": Event(
        thrown, futures_thrown, {"convolution": Convolution, "MLP": Perceptron}, False, "foretell"
    ),
    # A frame of Atari has too many places for an MLP.
    "paid": Event(paid, expected_reward, {"convolution": Convolution}, True, "foretell-paid"),
}


def area(score: Tensor, happened: Tensor) -> float:
    """Area under the ROC curve; ties count half."""
    rank = torch.as_tensor(rankdata(score.double().numpy()))
    yes = int(happened.sum())
    no = len(happened) - yes
    return float((rank[happened].sum() - yes * (yes + 1) / 2) / (yes * no))


def spaced(index: Tensor, most: int) -> Tensor:
    """At most so many of them, from one end to the other."""
    return index[torch.linspace(0, len(index) - 1, min(most, len(index))).long()]


def ask(
    run: Path, event: Event, new_rows: int, updates: int, most: int, seed: int
) -> dict[str, Any]:
    """Area of every network and of the world model, on known rows and on new ones."""
    with continued(run, {}) as (agent, trainer):
        model = agent.world_model.eval()
        both = [
            Rows(in_order(replay), model.actions.count, event.of)
            for replay in (trainer.replay, played(agent, seed, new_rows))
        ]
        # The same rows for all. Windows that the model reads may begin before an episode, as those
        # that it learnt from do: some games have shorter ones.
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
    header = ("", "asked", "rows learnt from", "new episodes")
    return f"`{result['command']}`\n\n{measure.table(header, rows)}"


def main(argv: Sequence[str] | None = None) -> None:
    """Ask, write the file, rewrite the block."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.foretell")
    parser.add_argument("runs", nargs="+", metavar="LABEL=RUN")
    parser.add_argument("--event", choices=list(EVENTS), default="thrown")
    parser.add_argument("--new-rows", type=int, default=6000)
    parser.add_argument("--updates", type=int, default=1500)
    parser.add_argument("--most", type=int, default=5000, help="rows asked about, of each kind")
    parser.add_argument("--seed", type=int, default=20_000, help="of the new episodes")
    parser.add_argument("--docs", type=Path, default=measure.DOCS)
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
        if name not in ("runs", "docs") and value != parser.get_default(name)
    ]
    command = " ".join(
        ["python -m benchmarks.foretell", *given_options, *(f'"{run}"' for run in options.runs)]
    )
    result = {"command": command, "machine": measure.machine(1), "runs": runs}
    path = options.docs / "assets" / "results" / f"{event.block}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    measure.replace_block(options.docs / "results.md", event.block, markdown(result))


if __name__ == "__main__":
    main()
