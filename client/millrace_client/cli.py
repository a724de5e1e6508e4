"""The commands `predict`, `similar`, `models` and `jobs`, of `millrace` or, with the client alone, `millrace-client`.

Answers go to standard output, errors as one line to standard error. Exit status: 0 answered, 1 not, 2 wrong usage.
"""

import argparse
import base64
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from millrace_client import jobcommands, rolloutcommand
from millrace_client.arguments import query_of
from millrace_client.client import Client
from millrace_client.connectionoptions import add_connection, client_of
from millrace_client.errors import ConnectionFailed, MillraceError
from millrace_client.load.command import main as load
from millrace_client.models import ModelMetadata, ModelStatus, VersionStatus
from millrace_client.prediction import Prediction
from millrace_client.tables import print_table

_LOAD = "Put load on models of any server, and say what came of it."
_INTERRUPTED = 130  # 128 + SIGINT, as shells have it


@dataclass(frozen=True, slots=True)
class _Command:
    """A command: its one-line help, what it adds to the parser, what it does, and arguments to copy."""

    help: str
    declare: Callable[[argparse.ArgumentParser], None]
    run: Callable[[Client, argparse.Namespace], None]
    examples: tuple[str, ...]


def predict(argv: list[str] | None = None) -> int:
    """`millrace predict MODEL INPUT…`: print the model's answer to each input."""
    return _main("millrace predict", _COMMANDS["predict"], argv)


def similar(argv: list[str] | None = None) -> int:
    """`millrace similar WORD… --minus WORD --plus WORD`: print the nearest words."""
    return _main("millrace similar", _COMMANDS["similar"], argv)


def models(argv: list[str] | None = None) -> int:
    """`millrace models`: print the server's models."""
    return _main("millrace models", _COMMANDS["models"], argv)


def jobs(argv: list[str] | None = None) -> int:
    """`millrace jobs submit|list|show|cancel|retry|result|logs|delete`: background jobs."""
    return _main("millrace jobs", _COMMANDS["jobs"], argv)


def rollout(argv: list[str] | None = None) -> int:
    """`millrace rollout MODEL VERSION`: give a version the requests step by step, or go back."""
    return _main("millrace rollout", _COMMANDS["rollout"], argv)


def main(argv: list[str] | None = None) -> int:
    """`millrace-client COMMAND …`: the same commands for those who installed the client alone."""
    abouts = {name: command.help for name, command in _COMMANDS.items()} | {"load": _LOAD}
    listed = "\n".join(f"  {name:<9}{about}" for name, about in abouts.items())
    parser = argparse.ArgumentParser(
        prog="millrace-client",
        usage="%(prog)s COMMAND ...",
        description="Ask a Millrace model server.",
        epilog=f"commands:\n{listed}\n\nEach explains itself: millrace-client COMMAND --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=abouts, help=argparse.SUPPRESS)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.command == "load":
        return load(options.arguments)
    return _main(f"millrace-client {options.command}", _COMMANDS[options.command], options.arguments)


def _main(prog: str, command: _Command, argv: list[str] | None) -> int:
    parser = argparse.ArgumentParser(
        prog=prog,
        description=command.help,
        epilog="\n".join(["examples:", *[f"  {prog} {example}".rstrip() for example in command.examples]]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.declare(parser)
    add_connection(parser)
    options = parser.parse_args(argv)
    try:
        client = client_of(options)
    except (ValueError, ModuleNotFoundError) as error:
        parser.error(str(error))
    try:
        with client:
            command.run(client, options)
    except ConnectionFailed as error:
        return _failed(f"cannot reach {client.url}: is the server up? start it with: make up", error)
    except MillraceError as error:
        return _failed(str(error), error)
    except KeyboardInterrupt:
        return _INTERRUPTED
    return 0


def _failed(message: str, error: MillraceError) -> int:
    identified = f" (request {error.request_id})" if error.status is not None and error.status >= 500 else ""
    print(f"millrace: {message}{identified}", file=sys.stderr)
    return 1


def _declare_predict(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="the model's name")
    parser.add_argument(
        "inputs", nargs="+", metavar="input", help="text, an image file, a .npy or .json file, or - for standard input"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--version", help="a version of the model (default: the newest)")
    which.add_argument("--label", help="a label that stands for a version, such as stable")
    parser.add_argument(
        "--top",
        type=_count,
        default=1,
        metavar="N",
        help="print the N most probable labels of each row (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print all outputs, one JSON document per input")


def _predict(client: Client, options: argparse.Namespace) -> None:
    """One request per input. Where there are several, each line begins with its input."""
    for argument in options.inputs:
        query = query_of(argument, sys.stdin.buffer)
        answer = client.predict(
            options.model, query.inputs, version=options.version, label=options.label, signature=query.signature
        )
        if options.json or not answer.is_labelled:
            print(json.dumps(_document(answer), ensure_ascii=False, default=_base64))
            continue
        lead = f"{argument}  " if len(options.inputs) > 1 else ""
        for row in answer.top(options.top):
            for label, probability in row:
                print(f"{lead}{label}  {probability:.4f}")


def _document(answer: Prediction) -> dict[str, Any]:
    return {
        "model": answer.model,
        "version": answer.version,
        "outputs": {name: array.tolist() for name, array in answer.outputs.items()},
        "request_id": answer.request_id,
        "timings": dict(answer.timings),
    }


def _base64(raw: bytes) -> dict[str, str]:
    """What JSON cannot hold: an output element that is no text."""
    return {"b64": base64.b64encode(raw).decode()}


def _declare_similar(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("words", nargs="+", metavar="word", help="words whose vectors are added up")
    parser.add_argument(
        "--plus", nargs="+", action="extend", default=[], metavar="WORD", help="add these words as well"
    )
    parser.add_argument("--minus", nargs="+", action="extend", default=[], metavar="WORD", help="subtract these words")
    parser.add_argument("--top", type=_count, default=10, metavar="N", help="print N words (default: %(default)s)")
    parser.add_argument("--model", default="word2vec", help="the model's name (default: %(default)s)")


def _similar(client: Client, options: argparse.Namespace) -> None:
    for word, similarity in client.similar(
        options.words + options.plus, options.minus, k=options.top, model=options.model
    ):
        print(f"{word}  {similarity:.4f}")


def _declare_models(parser: argparse.ArgumentParser) -> None:
    """`models` has no arguments of its own."""


def _models(client: Client, options: argparse.Namespace) -> None:  # noqa: ARG001 - as all commands
    header = ("NAME", "VERSION", "STATE", "INPUTS", "OUTPUTS", "DESCRIPTION")
    rows, notes = [], []
    for model, version in [(listed, version) for listed in client.models() for version in listed.versions]:
        metadata = client.metadata(model.name, version=version.version) if version.state == "AVAILABLE" else None
        rows.append(_row(model, version, metadata))
        if metadata:
            said = [note for note in metadata.notes if note not in model.description]
            notes += [f"{model.name}/{version.version}: {note}" for note in said]
    print_table([header, *rows])
    if notes:
        print("", *notes, sep="\n")


def _row(model: ModelStatus, version: VersionStatus, metadata: ModelMetadata | None) -> tuple[str, ...]:
    """A version that is not available has no tensors to show; why not stands in place of its description."""
    if metadata is None:
        return model.name, version.version, version.state, "-", "-", version.error_message or model.description
    inputs, outputs = (", ".join(map(str, specs)) for specs in (metadata.inputs, metadata.outputs))
    return model.name, version.version, version.state, inputs, outputs, model.description or metadata.description


def _count(text: str) -> int:
    if (count := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{count} is less than 1")
    return count


_COMMANDS = {
    "predict": _Command(
        "Ask a model, and print its answer to each input.",
        _declare_predict,
        _predict,
        (
            "digits examples/seven.png",
            'sentiment "a dull, lifeless film" "a wonderful film"',
            "digits examples/seven.json --json --url grpc://127.0.0.1:8001",
        ),
    ),
    "similar": _Command(
        "Print the words nearest to a sum of words.",
        _declare_similar,
        _similar,
        ("king --minus man --plus woman --top 3",),
    ),
    "jobs": _Command(
        "Submit background jobs over whole files, watch them, and fetch their results.",
        jobcommands.declare,
        jobcommands.run,
        (
            "submit score --model sentiment --input reviews.csv --column text --output scored.csv",
            "list",
            "show ID --follow",
        ),
    ),
    "rollout": _Command(
        "Give a version of a model the requests step by step, while all that must hold does; else go back.",
        rolloutcommand.declare,
        rolloutcommand.run,
        ('digits 2 --canary 5% --promote-if "p99<20ms, errors<0.1%, agreement>0.99" --steps 5,25,100 --every 2m',),
    ),
    "models": _Command(
        "Print the server's models, their versions and their tensors.",
        _declare_models,
        _models,
        ("", "--url http://127.0.0.1:8000"),
    ),
}
