"""The record of control actions: one line in the log for each, whether it was allowed, refused or failed.

The lines are written at every log level. Their values come from callers, so each is cut to `_MOST_CHARACTERS`; JSON
keeps them on one line (`millrace/logs.py`).
"""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from millrace.protocol.desired_state import DesiredState
from millrace.protocol.errors import MillraceError
from serving.access.callers import Caller

_log = logging.getLogger(__name__)
_MOST_CHARACTERS = 1000


class Action:
    """A control action while it is done. Tell it of each change."""

    def __init__(self) -> None:
        self.changes: list[tuple[DesiredState, DesiredState]] = []

    def changed(self, old: DesiredState, new: DesiredState) -> None:
        """What is wanted of a model was `old`, and is `new`."""
        self.changes.append((old, new))


@contextmanager
def recorded(caller: Caller, action: str, model: str) -> Iterator[Action]:
    """Record what is done inside: a line for each model that is changed, one line where none is."""
    doing = Action()
    outcome, error = "FAILED", ""
    try:
        yield doing
        outcome = "OK"
    except asyncio.CancelledError:
        outcome = "CANCELLED"  # the caller left, or the server stops; what was written stays
        raise
    except MillraceError as problem:
        outcome, error = problem.code, str(problem)
        raise
    finally:
        for old, new in doing.changes:
            _write(caller, action, new.model, outcome, error, old=_shown(old), new=_shown(new))
        if not doing.changes:
            _write(caller, action, model, outcome, error)


def refused(error: MillraceError, caller: Caller, action: str, model: str) -> None:
    """Record an action that its caller may not do."""
    _write(caller, action, model, error.code, str(error))


def _write(caller: Caller, action: str, model: str, outcome: str, error: str, **values: str) -> None:
    extra = {
        "action": action,
        "model": model,
        "caller": caller.address,
        **({"key": caller.name} if caller.name else {}),
        "request_id": caller.request_id,
        "protocol": caller.protocol,
        "outcome": outcome,
        **values,
        **({"error": error} if error else {}),
    }
    _log.setLevel(logging.INFO)  # whatever the program's own level
    _log.info("model control", extra={name: _cut(value) for name, value in extra.items()})


def _shown(state: DesiredState) -> str:
    """What is wanted, without the model's name, which has its own place."""
    document = msgspec.to_builtins(state)
    return msgspec.json.encode({name: document[name] for name in document if name != "model"}).decode()


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}…"
