"""Tasks that belong to one owner on an event loop: begun, repeated while the queue is away, and ended together."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine

from millrace.outage import Outage
from millrace.protocol.errors import MillraceError

_FIRST_BACKOFF_S, _LONGEST_BACKOFF_S = 0.05, 1.0


class Background:
    """The tasks of an owner, whose `log` has what fails. Its methods run on the event loop.

    A queue that does not answer is an `outage`, of which the owner says when it is over.
    """

    def __init__(self, log: logging.Logger, outage: Outage) -> None:
        self._log = log
        self._outage = outage
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        """How many tasks have not ended."""
        return len(self._tasks)

    def spawn(self, work: Coroutine[None, None, None]) -> None:
        """Run the coroutine as a task."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def repeat(self, job: Callable[[], Awaitable[None]]) -> None:
        """Do the job again and again, after a pause where it failed: no error ends it."""
        self.spawn(self._forever(job))

    async def stop(self) -> None:
        """Cancel all tasks, and wait until they have ended."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _forever(self, job: Callable[[], Awaitable[None]]) -> None:
        backoff_s = _FIRST_BACKOFF_S
        while True:
            try:
                await job()
                backoff_s = _FIRST_BACKOFF_S
            except MillraceError as error:
                self._outage.failed(error)
            except Exception:
                self._log.exception("the link to the queue failed")
            else:
                continue
            await asyncio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, _LONGEST_BACKOFF_S)
