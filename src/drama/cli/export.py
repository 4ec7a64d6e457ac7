"""``drama export``: write a trained agent as a web page, an ONNX file or a PyTorch program."""

from __future__ import annotations

from pathlib import Path

from drama.cli.common import Parser, out, status
from drama.errors import ConfigError


def export(args: list[str]) -> int:
    """``drama export``: write a trained agent as a web page, an ONNX file or a PyTorch program."""
    parser = Parser(
        prog="drama export",
        allow_abbrev=False,
        description="Write the dream of a run as a static web page (--web), or one acting step "
        "(obs, state, is_first) -> (action, state) as a file for ONNX Runtime (--onnx) or PyTorch "
        "alone (--torch). Needs the extra 'onnx', except --torch.",
    )
    parser.add_argument("run", metavar="RUN", help="run directory or checkpoint")
    parser.add_argument("--web", metavar="DIR", help="folder of a page in which to play the dream")
    parser.add_argument("--onnx", metavar="FILE", help="file for drama.runtime.OnnxAgent")
    parser.add_argument("--torch", metavar="FILE", help="file for torch.export.load")
    parser.add_argument(
        "--starts",
        metavar="N",
        type=int,
        default=12,
        help="start frames on the page, from the replay (default: 12)",
    )
    parser.add_argument(
        "--runtime",
        metavar="PATH",
        help="onnxruntime-web for the page: archive or folder (default: fetched once)",
    )
    parser.add_argument(
        "--env",
        metavar="ID",
        help="environment id or module:make_env, if the run does not record one",
    )
    parser.add_argument(
        "--trust-env",
        action="store_true",
        help="allow importing code that the run names for its environment",
    )
    options = parser.parse_args(args)
    targets = {name: getattr(options, name) for name in ("web", "onnx", "torch")}
    if not any(targets.values()):
        raise ConfigError("nothing to export: give --web DIR, --onnx FILE or --torch FILE")
    if options.starts < 1:
        raise ConfigError(f"--starts must be at least 1, got {options.starts}")

    from drama.agent import Agent
    from drama.export import export_onnx, export_torch, export_web
    from drama.export.output import check_new

    for target in filter(None, targets.values()):
        check_new(Path(target))  # before the model is read
    agent = Agent.load(options.run, options.env, device="cpu", trust_env=options.trust_env)
    with status() as show:
        if options.onnx:
            show("acting step for ONNX Runtime")
            export_onnx(agent, options.onnx)
        if options.torch:
            show("acting step for PyTorch")
            export_torch(agent, options.torch)
        if options.web:
            export_web(
                agent,
                options.web,
                run=options.run,
                runtime=options.runtime,
                starts=options.starts,
                progress=show,
            )
    for target in filter(None, targets.values()):
        out.print(f"written to {target}")
    if options.web:
        out.print(
            f"to look at it: python -m http.server --bind 127.0.0.1 --directory {options.web}"
        )
    return 0
