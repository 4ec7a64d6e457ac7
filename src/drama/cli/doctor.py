"""``drama doctor``: say what would be used here, and its cost; check an environment."""

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
    """``drama doctor``: say what would be used here, and its cost; check an environment."""
    from drama.envs import check_env
    from drama.machine.calibration import ATARI, SECONDS, calibrate
    from drama.machine.inspection import inspect_machine
    from drama.machine.table import CalibrationTable

    parser = Parser(
        prog="drama doctor",
        allow_abbrev=False,
        description="Say which device, precision and backend would be used and why; measure what "
        "each preset would cost here in time and memory; with --env, run an environment for some "
        "hundred steps and report what the agent would see.",
    )
    parser.add_argument(
        "--env", help=f"environment id to check and to measure with (measured without it: {ATARI})"
    )
    parser.add_argument("--steps", type=int, default=300, help="steps of the check")
    parser.add_argument("--seed", type=int, default=0, help="seed of the check")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument("--preset", help="measure this preset only (default: all of them)")
    parser.add_argument(
        "--seconds",
        type=float,
        default=SECONDS,
        help="time to measure in; what takes longer is measured on smaller batches and marked as "
        f"estimated, or left out (default: {SECONDS:g})",
    )
    parser.add_argument("--no-calibration", action="store_true", help="measure nothing")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    options = parser.parse_args(args)
    if options.steps < 1:
        raise ConfigError(f"--steps must be at least 1, got {options.steps}")
    if not 0 < options.seconds < float("inf"):
        raise ConfigError(f"--seconds must be positive, got {options.seconds:g}")
    known = presets.PRESETS
    if options.preset is not None:
        presets.preset(options.preset)  # one that there is
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

        def say(text: str) -> None:
            shown.close()
            shown.enter_context(status())(text)

        def show(calibration: Calibration) -> None:
            shown.close()  # what is being measured leaves its line to the row
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
                progress=say,
                found=show,
            )
        found["calibration"] = calibration.to_dict()
        if not options.json:
            out.print("\n".join(table.footer(calibration)))
    if options.json:
        print(json.dumps(found, allow_nan=False))
    return 0
