"""``drama doctor``: inspect the machine, measure each preset, check an environment."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from typing import Any

from drama import presets
from drama.cli.common import Parser, out, status
from drama.errors import ConfigError
from drama.machine.costs import Calibration
from drama.version import __version__


def doctor(args: list[str]) -> int:
    """``drama doctor``: inspect the machine, measure each preset, check an environment."""
    from drama.envs import check_env
    from drama.machine.calibration import ATARI, SECONDS, calibrate
    from drama.machine.inspection import inspect_machine
    from drama.machine.table import CalibrationTable

    parser = Parser(
        prog="drama doctor",
        allow_abbrev=False,
        description="Show the device, precision and backend of a run and why; measure time and "
        "memory of each preset; with --env, step an environment with random actions and report "
        "its observations, rewards and episodes.",
    )
    parser.add_argument(
        "--env",
        metavar="ID",
        help=f"environment to check and to measure with (default: measure {ATARI})",
    )
    parser.add_argument(
        "--steps",
        metavar="N",
        type=int,
        default=300,
        help="steps of the environment check (default: 300)",
    )
    parser.add_argument(
        "--seed",
        metavar="S",
        type=int,
        default=0,
        help="seed of the environment check (default: 0)",
    )
    parser.add_argument(
        "--device", metavar="NAME", default="auto", help="auto, cpu, cuda or mps (default: auto)"
    )
    parser.add_argument("--preset", metavar="NAME", help="measure only this preset (default: all)")
    parser.add_argument(
        "--seconds",
        metavar="S",
        type=float,
        default=SECONDS,
        help="time limit of the measurement in s; slow presets are estimated from smaller batches "
        f"or skipped (default: {SECONDS:g})",
    )
    parser.add_argument("--no-calibration", action="store_true", help="skip the measurement")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    options = parser.parse_args(args)
    if options.steps < 1:
        raise ConfigError(f"--steps must be at least 1, got {options.steps}")
    if not 0 < options.seconds < float("inf"):
        raise ConfigError(f"--seconds must be positive, got {options.seconds:g}")
    known = presets.PRESETS
    if options.preset is not None:
        presets.preset(options.preset)  # raises for an unknown preset
        known = {options.preset: known[options.preset]}

    machine = inspect_machine(options.device)
    found: dict[str, Any] = {"drama": __version__, "machine": machine.to_dict()}
    if not options.json:
        out.print(machine.render())
    if options.env is not None:
        report = check_env(options.env, steps=options.steps, seed=options.seed)
        found["environment"] = dataclasses.asdict(report)
        if not options.json:
            out.print(f"\n{report.render()}")
    if not options.no_calibration:
        table = CalibrationTable(known)
        shown = contextlib.ExitStack()

        def report_progress(text: str) -> None:
            shown.close()
            shown.enter_context(status())(text)

        def show(calibration: Calibration) -> None:
            shown.close()  # the row replaces the status line
            if options.json:
                return
            if len(calibration.presets) == 1:
                out.print("\n" + "\n".join(table.header(calibration)))
            out.print(table.row(calibration.presets[-1]))

        with shown:
            calibration = calibrate(
                known,
                env=options.env,
                device=options.device,
                seconds=options.seconds,
                progress=report_progress,
                found=show,
            )
        found["calibration"] = calibration.to_dict()
        if not options.json:
            out.print("\n".join(table.footer(calibration)))
    if options.json:
        print(json.dumps(found, allow_nan=False))
    return 0
