"""Writes the reference pages that come from the code: `python docs/generate.py`. Tests hold the pages to it."""

from pathlib import Path

from millrace.settings import CommonSettings, variables
from serving.settings import ServingSettings
from worker.settings import WorkerSettings

PAGE = Path(__file__).parent / "reference" / "settings.md"


def settings_page() -> str:
    """The page of every setting of every program."""
    parts = [
        "# Settings\n\n"
        "Every setting is an environment variable; those that a program's command line takes too are in its `--help`.\n"
        "An unknown variable that begins with `MILLRACE_` is an error that names the nearest known one.\n"
    ]
    for title, program in (
        ("The API: `python -m serving`", ServingSettings),
        ("The worker: `python -m worker`", WorkerSettings),
    ):
        parts.append(f"\n## {title}\n\n| variable | default | what it does |\n| --- | --- | --- |\n")
        parts += [_row(program, name, field) for name, field in variables(program).items()]
    return "".join(parts)


def _row(program: type[CommonSettings], name: str, field: str) -> str:
    info = program.model_fields[field]
    return f"| `{name}` | `{info.default}` | {info.description} |\n"


if __name__ == "__main__":
    PAGE.write_text(settings_page(), encoding="utf-8")
