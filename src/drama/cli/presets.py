"""``drama presets``: the starting points, their size, purpose and speed here."""

from __future__ import annotations

import inspect

from rich.table import Table

from drama.cli.common import Parser, out, status
from drama.errors import ConfigError
from drama.presets import PRESETS
from drama.text import duration

SIDES = {"quick": 32}
"""Side of the pictures that a preset is meant for, where that is not 64."""
GAMES = {"quick": "drama/Catch-v0"}
"""What a preset's speed is measured on, where that is not an Atari game."""
ACTIONS = 6


def presets(args: list[str]) -> int:
    """``drama presets``: list the starting points."""
    parser = Parser(
        prog="drama presets",
        allow_abbrev=False,
        description="List the presets with the parameters of their world model and their purpose; "
        "with --speed, measure what each of them makes here.",
    )
    parser.add_argument("--speed", action="store_true", help="measure environment steps/s here")
    parser.add_argument("--env", help="with --speed: environment to measure with")
    parser.add_argument("--device", default="auto", help="with --speed: auto, cpu, cuda or mps")
    parser.add_argument(
        "--seconds", type=float, default=12.0, help="about how long --speed measures (12)"
    )
    options = parser.parse_args(args)
    if not 0 < options.seconds < float("inf"):
        raise ConfigError(f"--seconds must be positive, got {options.seconds:g}")
    if options.env is not None and not options.speed:
        raise ConfigError("--env is for --speed")
    speeds = _speeds(options.env, options.device, options.seconds) if options.speed else {}
    table = Table(box=None, pad_edge=False)
    table.add_column("preset")
    table.add_column("parameters", justify="right")
    table.add_column("steps", justify="right")
    for column in ("steps/s here", "time here") if options.speed else ():
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
    """Count the parameters of the world model that a preset makes."""
    import torch

    from drama.world_model import WorldModel

    side = SIDES.get(name, 64)
    with torch.device("meta"):
        model = WorldModel(PRESETS[name]().world_model, (side, side, 3), ACTIONS)
    return sum(p.numel() for p in model.parameters())


def _speeds(env: str | None, device: str, seconds: float) -> dict[str, tuple[str, str]]:
    """Measure environment steps per second, and the time of a whole run, of each preset."""
    from drama.machine.calibration import calibrate
    from drama.machine.costs import PresetCost

    found = {}
    with status() as say:
        for name, make in PRESETS.items():
            game = GAMES.get(name) if env is None else env
            share = seconds / len(PRESETS)
            only = {name: make}
            measured = calibrate(only, env=game, device=device, seconds=share, progress=say)
            (cost,) = measured.presets
            if not isinstance(cost, PresetCost):
                found[name] = ("-", cost.error)
                continue
            time = duration(3600 * cost.hours(make().steps))
            found[name] = (f"{1 / cost.step_seconds:.3g}", time)
    return found
