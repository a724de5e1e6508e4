"""The `millrace` command: finds its subcommands among the entry points of the group `millrace.commands`."""

import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points

import millrace
from millrace import installing

_GROUPS = {
    "Serve": {
        "up": "run the whole stack on this machine: a Redis, the API and workers",
        "check": "load a model as a worker would, and say what will be served and how to ask it",
        "serve": "run the API alone",
        "keys": "make, list and take back API keys",
        "work": "run a worker alone",
        "jobs-worker": "run background jobs",
        "dead-letters": "list, show and drop requests that were given up",
    },
    "Ask a running server": {
        "models": "list its models and their tensors",
        "predict": "ask a model",
        "similar": "ask word2vec for similar words",
        "rollout": "give a version the requests step by step, or go back",
        "jobs": "submit background jobs over whole files, watch them, and fetch their results",
        "load": "put load on models of any server, and say what came of it",
        "tune": "find the settings with which this machine answers most requests a second",
    },
    "Train and export": {
        "train": "train a model and publish it",
        "export": "write a trained model in other formats, and compare their answers",
        "doctor": "say which formats a trained model can be exported to",
    },
}
_EXAMPLES = (
    "millrace up                                        # serves every model in ./models",
    "millrace up model.onnx                             # serves one file",
    'millrace predict sentiment "a dull, lifeless film"  # in another shell',
)
COMMANDS = {name: about for group in _GROUPS.values() for name, about in group.items()}
_OF_THE_CLIENT = _GROUPS["Ask a running server"]


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
    if name not in commands and name in _OF_THE_CLIENT:
        print(f"millrace {name}: the client is not installed; {installing.client_hint()}", file=sys.stderr)
        return 2
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
    others = {name: "" for name in sorted(commands) if name not in COMMANDS}
    groups = [_group(title, group, commands) for title, group in (_GROUPS | {"Others": others}).items()]
    examples = "\n".join(f"  {example}" for example in _EXAMPLES)
    return (
        f"usage: millrace COMMAND …\n\n{''.join(groups)}Examples:\n{examples}\n\n"
        "Each command explains itself: millrace COMMAND --help"
    )


def _group(title: str, about: dict[str, str], commands: dict[str, EntryPoint]) -> str:
    """A group of commands, with those that are installed; "" where none is."""
    lines = [f"  millrace {name:<13} {text}".rstrip() for name, text in about.items() if name in commands]
    return "\n".join([f"{title}:", *lines, "", ""]) if lines else ""


if __name__ == "__main__":
    raise SystemExit(main())
