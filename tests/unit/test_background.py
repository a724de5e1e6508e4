"""Jobs that go on whatever happens to them."""

import asyncio
import logging

import pytest

from millrace.background import Background
from millrace.outage import Outage
from millrace.protocol.errors import Unavailable

LOG = logging.getLogger(__name__)


@pytest.mark.parametrize(
    ("error", "logged"),
    [(Unavailable("refused"), "the queue does not answer"), (RuntimeError("a fault"), "the link to the queue failed")],
)
def test_a_job_that_fails_is_repeated_until_it_is_stopped(
    error: Exception, logged: str, caplog: pytest.LogCaptureFixture
) -> None:
    times = 0

    async def test() -> None:
        background, went_on = Background(LOG, Outage(LOG)), asyncio.Event()

        async def job() -> None:
            nonlocal times
            times += 1
            if times == 1:
                raise error
            went_on.set()
            await asyncio.Event().wait()

        background.repeat(job)
        await asyncio.wait_for(went_on.wait(), 10)
        await background.stop()
        await asyncio.sleep(0)
        assert not len(background)

    asyncio.run(test())
    assert times == 2
    assert [record.getMessage() for record in caplog.records] == [logged]
