"""What contract tests claim about clients, and the page that is made of it.

Each contract test says which call of which client it proves:

    @proves("tritonclient.http", "infer: JSON")
    @proves("tritonclient.http", "register_system_shared_memory", refused="501, naming shared memory")

A test that is parametrized by `model` proves its claim for those models.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest

_Test = TypeVar("_Test", bound=Callable[..., Any])
_HEAD = """# Compatibility

What clients written for other servers can do here. Every row was proved by a test that ran that client against the
running stack (`tests/contract/`); the page is written from those tests, by
`make test ARGS="tests/contract -n 0 --write-compatibility"`, and a test holds it to them.

*supported*: as on the server that the client was written for. *different*: works, with the difference that is named.
*not supported*: answered with what is said there.
"""


@dataclass
class Claim:
    """One row: `note` says how a call differs, or what is answered instead."""

    client: str
    call: str
    outcome: str
    note: str
    models: list[str] = field(default_factory=list)


def proves(client: str, call: str, *, differs: str = "", refused: str = "") -> Callable[[_Test], _Test]:
    """Mark a test as the proof of one row of the page."""
    outcome = "different" if differs else "not supported" if refused else "supported"
    mark: Callable[[_Test], _Test] = pytest.mark.claim(client, call, outcome, differs or refused)
    return mark


def claims(items: list[pytest.Item]) -> list[Claim]:
    """The claims of those tests, a row each however many models prove it, by client and in the tests' order."""
    rows: dict[tuple[str, str], Claim] = {}
    for item in items:
        for mark in item.iter_markers("claim"):
            claim = rows.setdefault((mark.args[0], mark.args[1]), Claim(*mark.args))
            model = getattr(item, "callspec", None) and item.callspec.params.get("model")  # type: ignore[attr-defined]
            if isinstance(model, str) and model not in claim.models:
                claim.models.append(model)
    return list(rows.values())


def page(rows: list[Claim]) -> str:
    """The page, with a table for each client."""
    parts = [_HEAD]
    for client in sorted({row.client for row in rows}):
        parts.append(f"\n## {client}\n\n| call | | proved with |\n| --- | --- | --- |\n")
        parts += [
            f"| {row.call} | {row.outcome}{': ' + row.note if row.note else ''} | {', '.join(row.models)} |\n"
            for row in rows
            if row.client == client
        ]
    return "".join(parts)
