"""The tree of errors is what its docstring draws."""

import re

import pytest

from millrace.protocol import errors
from millrace.protocol.errors import MillraceError


def _drawn() -> dict[str, tuple[int, str, bool]]:
    lines = re.findall(r"[├└]── (\w+) +(\d+) +(\w+) +(yes|no)", errors.__doc__ or "")
    return {name: (int(status), code, again == "yes") for name, status, code, again in lines}


def test_every_error_is_drawn_with_its_status_code_and_whether_to_try_again() -> None:
    classes = {
        name: (value.status, value.code, value.can_retry)
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, MillraceError) and value is not MillraceError
    }
    assert classes == _drawn()


@pytest.mark.parametrize("code", ["INVALID_ARGUMENT", "INTERNAL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "UNIMPLEMENTED"])
def test_an_error_that_crosses_the_queue_keeps_its_code_and_text(code: str) -> None:
    error = errors.from_wire(code, "the text")
    assert (error.code, str(error)) == (code, "the text")


def test_an_unknown_code_becomes_an_internal_error() -> None:
    assert isinstance(errors.from_wire("FROM_THE_FUTURE", "?"), errors.Internal)
