"""``drama presets``: size, purpose and speed of each preset."""

from __future__ import annotations

import inspect

from rich.table import Table

from drama.actions import ActionSpace
from drama.cli.common import Parser, out, status
from drama.errors import ConfigError
from drama.observations import ObsSpace
from drama.presets import PRESETS
from drama.text import duration

SIDES = {"quick": 32}
"""Frame size that a preset is designed for, if not 64 pixels."""
GAMES = {"quick": "drama/Catch-v0"}
"""Environment to measure a preset on, if not an Atari game."""
ACTIONS = 6


def presets(args: list[str]) -> int:
    """``drama presets``: list the presets."""
    parser = Parser(
        prog="drama presets",
        allow_abbrev=False,
        description="List the presets with world-model parameters and purpose; with --speed, "
        "measure the training speed of each preset on this machine.",
    )
    parser.add_argument(
        "--speed", action="store_true", help="measure environment steps/s on this machine"
    )
    parser.add_argument("--env", metavar="ID", help="with --speed: environment to measure with")
    parser.add_argument(
        "--device", metavar="NAME", default="auto", help="with --speed: auto, cpu, cuda or mps"
    )
    parser.add_argument(
        "--seconds",
        metavar="S",
        type=float,
        default=12.0,
        help="with --speed: duration in s (default: 12)",
    )
    options = parser.parse_args(args)
    if not 0 < options.seconds < float("inf"):
        raise ConfigError(f"--seconds must be positive, got {options.seconds:g}")
    if options.env is not None and not options.speed:
        raise ConfigError("--env needs --speed")
    speeds = _speeds(options.env, options.device, options.seconds) if options.speed else {}
    table = Table(box=None, pad_edge=False)
    table.add_column("preset")
    table.add_column("parameters", justify="right")
    table.add_column("steps", justify="right")
    for column in ("steps/s", "time") if options.speed else ():
        table.add_column(column, justify="right")
    table.add_column("purpose")
    for name, make in PRESETS.items():
        purpose = (inspect.getdoc(make) or "").splitlines()[0]
        cells = [name, f"{_parameters(name) / 1e6:.1f} M", f"{make().steps:,}"]
        table.add_row(*cells, *speeds.get(name, ()), purpose)
    out.print(table)
    if not options.speed:
        out.print("\nspeed on this machine: drama presets --speed")
    return 0


def _parameters(name: str) -> int:
    """Return the number of world-model parameters of a preset."""
    import torch

    from drama.world_model import WorldModel

    side = SIDES.get(name, 64)
    with torch.device("meta"):
        model = WorldModel(
            PRESETS[name]().world_model, ObsSpace.image(side, side, 3), ActionSpace(ACTIONS)
        )
    return sum(p.numel() for p in model.parameters())


def _speeds(env: str | None, device: str, seconds: float) -> dict[str, tuple[str, str]]:
    """Measure environment steps/s and the time of a full run for each preset."""
    from drama.machine.calibration import calibrate
    from drama.machine.costs import PresetCost

    found = {}
    with status() as show:
        for name, make in PRESETS.items():
            game = GAMES.get(name) if env is None else env
            share = seconds / len(PRESETS)
            only = {name: make}
            measured = calibrate(only, env=game, device=device, seconds=share, progress=show)
            (cost,) = measured.presets
            if not isinstance(cost, PresetCost):
                found[name] = ("-", cost.error)
                continue
            time = duration(3600 * cost.hours(make().steps))
            found[name] = (f"{1 / cost.step_seconds:.3g}", time)
    return found
