"""The `millrace` command: finds its subcommands among the entry points of the group `millrace.commands`."""

import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points

import millrace


def main(argv: list[str] | None = None) -> int:
    """Run the subcommand that the first argument names; returns its exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    commands = {point.name: point for point in entry_points(group="millrace.commands")}
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage(commands))
        return 0
    if arguments[0] == "--version":
        print(f"millrace {millrace.__version__}")
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in commands:
        print(f"millrace: no command {name!r}\n\n{_usage(commands)}", file=sys.stderr)
        return 2
    try:
        command: Callable[[list[str]], int] = commands[name].load()
    except ModuleNotFoundError as error:
        print(f"millrace {name}: {error.name} is not installed{_remedy(commands[name])}", file=sys.stderr)
        return 2
    return command(rest)


def _remedy(point: EntryPoint) -> str:
    return f"; install it with: pip install 'millrace[{','.join(point.extras)}]'" if point.extras else ""


def _usage(commands: dict[str, EntryPoint]) -> str:
    listed = "\n".join(f"  millrace {name}" for name in sorted(commands))
    return f"usage: millrace COMMAND …\n\n{listed}\n\nEach explains itself: millrace COMMAND --help"


if __name__ == "__main__":
    raise SystemExit(main())
