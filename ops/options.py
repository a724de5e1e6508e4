"""The command line of `millrace up`."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from millrace.artifacts import storeurl
from millrace.commandline import Parser, device
from millrace.devices import DEVICE_HELP
from ops.stopping import stop_timeouts


def parser(environ: Mapping[str, str]) -> Parser:
    """The options; where an environment variable says the same, it is the default."""
    parser = Parser(
        prog="millrace up",
        description="Run the whole stack on this machine: a Redis, the API and workers. It serves every model of a "
        "repository, or one model, and starts a process that died again.",
        epilog=f"SIGTERM or Ctrl-C stops it: open requests are finished, for at most {_longest_stop_s(environ):g} s.",
        examples=[
            "millrace up                      # every model in ./models",
            "millrace up yolov8.onnx          # one file, as the model yolov8",
            "millrace up --models DIR --workers 2",
            "millrace up --models s3://bucket/models",
        ],
    )

    def option(name: str, variable: str, default: str, text: str, **more: Any) -> None:
        value = environ.get(variable, default)
        parser.add_argument(name, default=value, help=f"{text} (default {value}; {variable})", **more)

    option("--host", "MILLRACE_SERVING_HOST", "127.0.0.1", "the address to listen on")
    option("--port", "MILLRACE_SERVING_PORT", "8000", "the HTTP port", type=_between(1, 65535))
    grpc_text = "the gRPC port, 0 for none"
    option("--grpc-port", "MILLRACE_SERVING_GRPC_PORT", "8001", grpc_text, type=_between(0, 65535))
    parser.add_argument(
        "model", nargs="?", type=Path, help="one model to serve in place of a repository: its file or its folder"
    )
    models_text = "the model repository: a folder, or the URL of a store"
    option("--models", "MILLRACE_WORKER_MODELS", "models", models_text, type=_repository)
    option("--device", "MILLRACE_WORKER_DEVICE", "cpu", DEVICE_HELP, type=device)
    assets = environ.get("MILLRACE_SERVING_PLAYGROUND_ASSETS")
    parser.add_argument(
        "--playground-assets",
        type=Path,
        metavar="DIR",
        default=Path(assets) if assets else None,
        help="a folder with onnxruntime-web's files: the page runs the bundled models in the browser too "
        "(MILLRACE_SERVING_PLAYGROUND_ASSETS)",
    )
    levels = ["debug", "info", "warning", "error"]
    option("--log-level", "MILLRACE_LOG_LEVEL", "warning", "the least important events to show", choices=levels)
    parser.add_argument(
        "--allow-code",
        action="store_true",
        default=_is_set(environ.get("MILLRACE_WORKER_ALLOW_CODE", "")),
        help="let models be Python code (model.py), which can do all that you can (MILLRACE_WORKER_ALLOW_CODE)",
    )
    fits = "by default as many as fit the cores and the memory"
    parser.add_argument(
        "--apis",
        type=_between(0, 256),
        default=environ.get("MILLRACE_SERVING_PROCESSES", "0"),
        help=f"API processes, which share the ports; {fits} (MILLRACE_SERVING_PROCESSES)",
    )
    parser.add_argument("--workers", type=_between(1, 1000), help=f"worker processes; {fits}, and 1 with a GPU")
    parser.add_argument(
        "--jobs",
        type=_between(0, 1000),
        help="programs that run background jobs, 0 for none; by default 1 where what they need is installed. Jobs and "
        "their files are kept in MILLRACE_JOBS_FOLDER (default ~/.local/state/millrace/jobs)",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="end with an error where no model can be loaded within 120 s, or one does not answer its own example; "
        "without it, what can be served is served, and the repository is watched for the rest",
    )
    parser.add_argument(
        "--redis-url",
        help="a Redis to use; without it one is started here. Other users of this machine see a password given here, "
        "but not in the variable MILLRACE_REDIS_URL",
    )
    return parser


def parse(argv: Sequence[str] | None, environ: Mapping[str, str]) -> argparse.Namespace:
    """What the command line asks for. Exits where it contradicts itself."""
    options = parser(environ)
    given = options.parse_args(argv)
    if given.model and given.models != _repository(environ.get("MILLRACE_WORKER_MODELS", "models")):
        options.error("give one model, or a repository with --models, and not both")
    return given


def _between(least: int, most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdigit() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {least} to {most}")
        return int(text)

    return number


def _repository(text: str) -> Path | str:
    """A folder, or the URL of a store."""
    if not storeurl.is_url(text):
        return Path(text)
    try:
        storeurl.protocol(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _is_set(value: str) -> bool:
    """Whether a variable that is on or off is on, as the programs read it."""
    return value.strip().lower() in ("1", "true", "t", "yes", "y", "on")


def _longest_stop_s(environ: Mapping[str, str]) -> float:
    return sum(stop_timeouts(environ).values())
