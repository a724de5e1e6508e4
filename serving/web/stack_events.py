"""The stack as server-sent events, one a second, without a thread for each who watches."""

import asyncio
import contextlib
from collections.abc import Callable

from millrace.protocol.errors import MillraceError
from serving.jobs.events import MEDIA, last_words
from serving.monitoring.stack import FRESH_S, StackFeed
from serving.transport.request_head import RequestHead

PATH = "/v1/stack"
MaySee = Callable[[str], bool] | None


def wants_stack_events(head: RequestHead) -> bool:
    """Whether the request asks for them."""
    return head.method == "GET" and head.path == PATH and MEDIA in head.headers.get(b"accept", b"").decode("latin-1")


def event(document: bytes) -> bytes:
    """The document, which has no line break, as an event."""
    return b"data: " + document + b"\n\n"


class StackEvents:
    """See `serving.transport.event_stream.Pieces`.

    Before each event `check` says which models the caller may see, None for all. It raises a `MillraceError` where the
    caller may see nothing any more: its key may be gone.
    """

    def __init__(self, feed: StackFeed, check: Callable[[], MaySee]) -> None:
        """Raises `Unavailable` where too many watch."""
        self._feed = feed
        self._check = check
        self._task: asyncio.Task[None] | None = None
        self._is_over = False
        feed.enter()

    def begin(self, write: Callable[[bytes], None], end: Callable[[], None]) -> None:
        """See `Pieces`."""
        self._task = asyncio.get_running_loop().create_task(self._tell(write, end))

    def cancel(self) -> None:
        """See `Pieces`."""
        if not self._is_over:
            self._is_over = True
            self._feed.leave()
            if self._task:
                self._task.cancel()

    async def _tell(self, write: Callable[[bytes], None], end: Callable[[], None]) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            try:
                while True:
                    write(event(await self._feed.latest(self._check())))
                    await asyncio.sleep(FRESH_S)
            except MillraceError as error:
                write(last_words(error))
                end()
