"""`millrace dead-letters`: lists, shows and drops the request blocks that were given up."""

import argparse
import json
import os
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from millrace.broker.base import DeadLetter, OperatorLink
from millrace.broker.keys import Queue
from millrace.broker.redis import RedisBroker
from millrace.commandline import REDIS_URL_HELP, Parser
from millrace.protocol import codec
from millrace.protocol.errors import Unavailable
from millrace.protocol.messages import RequestBlock
from millrace.settings import CommonSettings, SettingsError, load

_ENTRY_ID = re.compile(r"\d+-\d+")
_WIDTH = 60  # of the request ids and of the error on a line of the list


class DeadLettersError(Exception):
    """What the command was asked for is not there."""


def main(argv: list[str] | None = None) -> int:
    """Run `millrace dead-letters`; returns the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        settings = load(CommonSettings, os.environ, redis_url=arguments.redis_url)
        link = RedisBroker(settings.redis_url).operator()
        try:
            arguments.run(link, arguments)
        finally:
            link.close()
    except SettingsError as error:
        print(f"millrace dead-letters: {error}", file=sys.stderr)
        return 2
    except (DeadLettersError, Unavailable) as error:
        print(f"millrace dead-letters: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="millrace dead-letters",
        parents=[_options()],
        description="Look at the blocks of requests that were given up after three workers failed on them, and drop "
        "them. Without a command, list them.",
        examples=[
            "millrace dead-letters list digits",
            "millrace dead-letters show digits/1 1764115200000-0",
            "millrace dead-letters drop --all",
        ],
    )
    parser.set_defaults(run=_list, model=None, redis_url=None, json=False)
    common = _options()
    commands = parser.add_subparsers(metavar="COMMAND")
    listing = commands.add_parser(
        "list",
        parents=[common],
        help="list them, the oldest of each model first",
        description="List them, the oldest of each model first.",
    )
    listing.add_argument("model", nargs="?", metavar="MODEL[/VERSION]", help="only of this model")
    listing.set_defaults(run=_list)
    show = commands.add_parser(
        "show",
        parents=[common],
        help="show one: its requests, its tensors and its error",
        description="Show one: its requests, its tensors and its error.",
    )
    show.add_argument("model", metavar="MODEL/VERSION")
    show.add_argument("id", metavar="ID", help="as the list has it")
    show.set_defaults(run=_show)
    drop = commands.add_parser(
        "drop",
        parents=[common],
        help="drop one, all of a model, or all",
        description="Drop one, all of a model, or all.",
    )
    drop.add_argument("model", nargs="?", metavar="MODEL[/VERSION]")
    drop.add_argument("id", nargs="?", metavar="ID", help="only this one, of MODEL/VERSION")
    drop.add_argument("--all", action="store_true", help="all of all models")
    drop.set_defaults(run=_drop)
    return parser


def _options() -> Parser:
    """What may stand before and behind the command's name; a new one each time, since defaults change it."""
    options = Parser(add_help=False)
    options.add_argument("--redis-url", default=argparse.SUPPRESS, help=f"{REDIS_URL_HELP} MILLRACE_REDIS_URL")
    options.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")
    return options


def _list(link: OperatorLink, arguments: argparse.Namespace) -> None:
    letters = (letter for queue in _queues(link, arguments.model) for letter in link.dead_letters(queue))
    if arguments.json:
        print(json.dumps([_summary(letter) for letter in letters], indent=2))
        return
    rows = [_row(_summary(letter)) for letter in letters]
    if not rows:
        print("no dead letters")
        return
    rows.insert(0, ("MODEL", "ID", "WHEN", "DELIVERIES", "REQUESTS", "ERROR"))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        print("  ".join([*cells, row[5]]).rstrip())


def _show(link: OperatorLink, arguments: argparse.Namespace) -> None:
    (queue,) = _one_version(link, arguments.model)
    letter = next((letter for letter in link.dead_letters(queue) if letter.entry_id == arguments.id), None)
    if letter is None:
        raise DeadLettersError(f"{arguments.model} has no dead letter {arguments.id}")
    described = _described(letter)
    if arguments.json:
        print(json.dumps(described, indent=2))
        return
    for name, value in described.items():
        if isinstance(value, list):
            print(f"{name}:")
            for element in value:
                print("  " + "  ".join(f"{key} {_printable(part)}" for key, part in element.items()))
        else:
            print(f"{name}: {_printable(value)}")


def _drop(link: OperatorLink, arguments: argparse.Namespace) -> None:
    if bool(arguments.model) == arguments.all:
        raise DeadLettersError("say what to drop: MODEL/VERSION ID, MODEL[/VERSION], or --all")
    if arguments.id:
        (queue,) = _one_version(link, arguments.model)
        dropped = link.drop_dead_letters(queue, [arguments.id]) if _ENTRY_ID.fullmatch(arguments.id) else 0
        if not dropped:
            raise DeadLettersError(f"{arguments.model} has no dead letter {arguments.id}")
    else:
        dropped = sum(link.drop_dead_letters(queue) for queue in _queues(link, arguments.model))
    print(json.dumps({"dropped": dropped}) if arguments.json else f"dropped {dropped}")


def _queues(link: OperatorLink, model: str | None) -> list[Queue]:
    """The queues that have dead letters: all, or those of `MODEL` or `MODEL/VERSION`, of which there must be some."""
    queues = link.dead_letter_queues()
    if model is None:
        return queues
    found = [queue for queue in queues if model in (queue.model, _name(queue))]
    if not found:
        known = ", ".join(_name(queue) for queue in queues)
        raise DeadLettersError(
            f"{model} has no dead letters; there are some of {known}" if known else "no dead letters"
        )
    return found


def _one_version(link: OperatorLink, model: str) -> list[Queue]:
    found = _queues(link, model)
    if len(found) > 1:
        raise DeadLettersError(f"{model} has several versions: {', '.join(_name(queue) for queue in found)}")
    return found


def _name(queue: Queue) -> str:
    return f"{queue.model}/{queue.version}"


def _block(letter: DeadLetter) -> RequestBlock | str:
    """The block, or why it cannot be read."""
    try:
        return codec.decode_request(letter.block)
    except codec.CodecError as error:
        return str(error)


def _summary(letter: DeadLetter) -> dict[str, Any]:
    block = _block(letter)
    return {
        "model": letter.queue.model,
        "version": letter.queue.version,
        "id": letter.entry_id,
        "buried": datetime.fromtimestamp(letter.buried_ms / 1000, UTC).isoformat(timespec="milliseconds"),
        "deliveries": letter.deliveries,
        "requests": [] if isinstance(block, str) else [item.trace for item in block.items],
        "error": letter.error,
    }


def _described(letter: DeadLetter) -> dict[str, Any]:
    described = _summary(letter) | {"consumer": letter.consumer, "bytes": len(letter.block)}
    block = _block(letter)
    if isinstance(block, str):
        return described | {"unreadable": block}
    del described["requests"]
    return described | {
        "signature": block.signature,
        "reply_to": block.reply_to,
        "items": list(_items(block)),
        "tensors": [
            {"name": name, "datatype": tensor.datatype, "shape": list(tensor.shape), "bytes": len(tensor.data)}
            for name, tensor in block.tensors.items()
        ],
    }


def _items(block: RequestBlock) -> Iterator[dict[str, Any]]:
    for item in block.items:
        deadline = datetime.fromtimestamp(item.deadline_ms / 1000, UTC).isoformat(timespec="milliseconds")
        yield {"id": item.id, "request": item.trace, "rows": item.rows, "deadline": deadline}


def _row(summary: dict[str, Any]) -> tuple[str, ...]:
    when = summary["buried"][:19].replace("T", " ") + "Z"
    requests, model = _short(", ".join(summary["requests"])), f"{summary['model']}/{summary['version']}"
    return (model, summary["id"], when, str(summary["deliveries"]), requests, _short(summary["error"]))


def _short(text: str) -> str:
    line = _printable(text)
    return line if len(line) <= _WIDTH else f"{line[: _WIDTH - 1]}…"


def _printable(value: object) -> str:
    """On one line and without control characters, which come from a caller and would be obeyed by a terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(value))
