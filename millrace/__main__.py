"""The `millrace` command: finds its subcommands among the entry points of the group `millrace.commands`."""

import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points

import millrace
from millrace import installing

COMMANDS = {
    "up": "run the whole stack on this machine: the API, workers and a Redis",
    "check": "load a model as a worker would, and say what will be served and how to ask it",
    "models": "list the models of a running server",
    "predict": "ask a model of a running server",
    "similar": "ask word2vec for similar words",
    "jobs": "submit background jobs, watch them, and fetch their results",
    "serve": "run the API alone",
    "keys": "make, list and take back API keys",
    "work": "run a worker alone",
    "jobs-worker": "run background jobs",
    "dead-letters": "list, show and drop requests that were given up",
    "train": "train a model and publish it",
    "export": "write a trained model in other formats, and compare their answers",
    "doctor": "say which formats a trained model can be exported to",
}


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
        return command(rest)
    except ModuleNotFoundError as error:
        if not (hint := _hint(commands[name], error.name or "")):
            raise
        print(f"millrace {name}: {hint}", file=sys.stderr)
        return 2


def _hint(point: EntryPoint, module: str) -> str:
    """What to install for a command that lacks a module, "" where all that it needs is there."""
    requirements = point.dist.requires or [] if point.dist else None
    if not point.extras or (requirements is not None and not installing.missing(requirements, point.extras)):
        return ""
    return f"{module} is not installed; {installing.hint(point.extras)}"


def _usage(commands: dict[str, EntryPoint]) -> str:
    known = [name for name in COMMANDS if name in commands]
    others = sorted(name for name in commands if name not in COMMANDS)
    listed = "\n".join(f"  millrace {name:<13} {COMMANDS.get(name, '')}".rstrip() for name in (*known, *others))
    return f"usage: millrace COMMAND …\n\n{listed}\n\nEach explains itself: millrace COMMAND --help"


if __name__ == "__main__":
    raise SystemExit(main())
