"""Bodies in parts: whole, or refused with the right error, and nothing is kept of what was refused."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from millrace.protocol.errors import Cancelled, DeadlineExceeded, PayloadTooLarge, Unavailable
from serving.intake import Intake, Receive
from serving.settings import ServingSettings

SETTINGS = ServingSettings(max_body_bytes=2000, max_arriving_bytes=3000, request_timeout_ms=20)


def chunk(size: int, *, more: bool = True) -> dict[str, Any]:
    return {"type": "http.request", "body": b"x" * size, "more_body": more}


def receiving(*messages: dict[str, Any]) -> Receive:
    """Gives the messages in turn, and then nothing for ever."""

    async def each() -> AsyncIterator[dict[str, Any]]:
        for message in messages:
            yield message
        await asyncio.Event().wait()

    return each().__anext__


def read(intake: Intake, receive: Receive, **headers: str) -> bytes:
    given = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    return asyncio.run(intake.read(given, receive))


@pytest.mark.parametrize("sizes", [[0], [2000], [1, 999, 1000], [1000, 0, 1000]])
def test_a_body_is_put_together(sizes: list[int]) -> None:
    *first, last = sizes
    messages = [*(chunk(size) for size in first), chunk(last, more=False)]
    assert read(Intake(SETTINGS), receiving(*messages)) == b"x" * sum(sizes)


@pytest.mark.parametrize("sizes", [[2001], [2000, 1], [1000, 1000, 1000]])
def test_a_body_that_is_too_large_is_read_to_its_end_and_refused(sizes: list[int]) -> None:
    *first, last = sizes
    with pytest.raises(PayloadTooLarge, match="larger than the 2000 bytes"):
        read(Intake(SETTINGS), receiving(*(chunk(size) for size in first), chunk(last, more=False)))


def test_a_body_that_announces_too_much_is_refused_whatever_comes() -> None:
    with pytest.raises(PayloadTooLarge):
        read(Intake(SETTINGS), receiving(chunk(1), chunk(1, more=False)), content_length="2001")


def test_a_body_that_does_not_arrive_is_given_up() -> None:
    with pytest.raises(DeadlineExceeded, match="did not arrive within 20 ms"):
        read(Intake(SETTINGS), receiving(chunk(1)))


def test_a_caller_that_goes_away_in_the_middle_is_noticed() -> None:
    with pytest.raises(Cancelled):
        read(Intake(SETTINGS), receiving(chunk(1), {"type": "http.disconnect"}))


def test_bodies_that_arrive_together_share_a_limit_and_give_it_back() -> None:
    async def run(intake: Intake) -> None:
        slow = asyncio.create_task(intake.read({}, receiving(chunk(900), chunk(900))))
        await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="too many large bodies"):
            await intake.read({}, receiving(chunk(900), chunk(900, more=False)))
        with pytest.raises(DeadlineExceeded):
            await slow
        assert len(await intake.read({}, receiving(chunk(900), chunk(900, more=False)))) == 1800

    asyncio.run(run(Intake(SETTINGS)))
