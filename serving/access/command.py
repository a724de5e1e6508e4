"""`millrace keys add|list|remove`: the file of API keys."""

import argparse
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

from millrace.commandline import Parser
from serving.access.key_file import ROLES, KeyFileError, StoredKey, changing, new_key, read_keys

_VARIABLE = "MILLRACE_SERVING_KEYS_FILE"


def main(argv: list[str] | None = None) -> int:
    """Run `millrace keys`; returns the exit status."""
    parser = _parser()
    options = parser.parse_args(argv)
    if options.file is None:
        parser.error(f"name the file of keys with --file or {_VARIABLE}")
    try:
        return int(options.run(options))
    except KeyFileError as error:
        print(f"millrace keys: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="millrace keys",
        description="Make, list and take back the API keys of callers. Servers take a change within two seconds.",
        examples=[
            "millrace keys --file keys.json add phone --role infer --models digits,sentiment --rate 50/s",
            "MILLRACE_SERVING_KEYS_FILE=keys.json millrace keys list",
            "millrace keys --file keys.json remove phone",
        ],
    )
    file = os.environ.get(_VARIABLE)
    parser.add_argument("--file", type=Path, default=Path(file) if file else None, help=f"(default: {_VARIABLE})")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=argparse.ArgumentParser)
    _declare_add(commands.add_parser("add", help="make a key, and print it: it is shown this once"))
    listing = commands.add_parser("list", help="what each key may do; the keys themselves nobody can list")
    listing.set_defaults(run=_list)
    remove = commands.add_parser("remove", help="take a key back")
    remove.add_argument("name")
    remove.set_defaults(run=_remove)
    return parser


def _declare_add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="whose it is: it stands in logs and metrics")
    roles = "infer: ask models, and submit jobs; read: see models, statistics and jobs; control: change models; metrics"
    parser.add_argument(
        "--role", action="append", required=True, choices=ROLES, metavar="ROLE", help=f"may be repeated. {roles}"
    )
    parser.add_argument("--models", help="names, separated by commas (default: all)")
    parser.add_argument("--rate", default="", help="requests for inference, such as 50/s, 100/min or 1000/h")
    parser.add_argument("--concurrency", type=int, default=0, help="requests for inference at once")
    parser.add_argument("--certificate", default="", metavar="NAME", help="no key: the name in a client's certificate")
    parser.set_defaults(run=_add)


def _add(options: argparse.Namespace) -> int:
    key, digest = ("", "") if options.certificate else new_key()
    models = tuple(name.strip() for name in options.models.split(",") if name.strip()) if options.models else None
    stored = StoredKey(
        name=options.name,
        roles=tuple(dict.fromkeys(options.role)),
        models=models,
        rate=options.rate,
        concurrency=options.concurrency,
        sha256=digest,
        certificate=options.certificate,
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    )
    with changing(options.file) as keys:
        if any(known.name == stored.name for known in keys):
            raise KeyFileError(f"{options.file} has a key {stored.name!r}: remove it first, or choose another name")
        keys.append(stored)
    if key:
        print(key)
        print("This is the only time that the key is shown.", file=sys.stderr)
    return 0


def _remove(options: argparse.Namespace) -> int:
    with changing(options.file) as keys:
        left = [key for key in keys if key.name != options.name]
        if len(left) == len(keys):
            raise KeyFileError(f"{options.file} has no key {options.name!r}")
        keys[:] = left
    return 0


def _list(options: argparse.Namespace) -> int:
    rows: list[tuple[str, ...]] = [("NAME", "ROLES", "MODELS", "RATE", "AT ONCE", "KNOWN BY", "CREATED")]
    rows += [_row(key) for key in read_keys(options.file)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _row(key: StoredKey) -> tuple[str, ...]:
    return (
        key.name,
        ",".join(key.roles),
        ",".join(key.models) if key.models else "all",
        key.rate or "-",
        str(key.concurrency or "-"),
        f"certificate {key.certificate}" if key.certificate else "key",
        key.created or "-",
    )


if __name__ == "__main__":
    raise SystemExit(main())
