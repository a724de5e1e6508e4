"""A job's changes as server-sent events, without a thread for each who watches."""

import asyncio
import re
from collections.abc import Callable

from millrace.jobs.records import JobRecord
from millrace.protocol.errors import MillraceError
from serving.jobs.shown import event
from serving.jobs.watching import Watcher, Watching
from serving.transport.request_head import RequestHead
from serving.transport.responses import error_body

MEDIA = "text/event-stream"
BEAT = b": the job goes on\n\n"
BEAT_S = 10.0
_JOB = re.compile(r"/v1/jobs/([^/]+)(/events)?/?")
Begun = Callable[[MillraceError | None], None]


def watched_job(head: RequestHead) -> str:
    """The job whose events the request asks for; "" where it asks for none."""
    if head.method != "GET" or not (found := _JOB.fullmatch(head.path)):
        return ""
    wants = found[2] or MEDIA in head.headers.get(b"accept", b"").decode("latin-1")
    return found[1] if wants else ""


def last_words(error: MillraceError) -> bytes:
    """The event that says why there are no more."""
    return b"event: error\ndata: " + error_body(str(error)) + b"\n\n"


class JobEvents:
    """See `serving.transport.event_stream.Pieces`. All of it runs on the event loop.

    `begun` is called once, when the job is known: with None when its events can be written, or with an error. With
    each event, and each beat, `check` is asked whether the caller may see the job still.
    """

    def __init__(
        self,
        watching: Watching,
        job: str,
        begun: Begun,
        check: Callable[[JobRecord], MillraceError | None] = lambda _record: None,
    ) -> None:
        """Raises `Unavailable` where too many watch jobs."""
        self._loop = asyncio.get_running_loop()
        self._begun: Begun | None = begun
        self._check = check
        self._write: Callable[[bytes], None] | None = None
        self._end: Callable[[], None] | None = None
        self._first: JobRecord | None = None
        self._last: JobRecord | None = None
        self._beat: asyncio.TimerHandle | None = None
        self._watching = watching
        self._is_over = False
        self._watcher: Watcher = watching.watch(job, self._tell)

    def begin(self, write: Callable[[bytes], None], end: Callable[[], None]) -> None:
        """See `Pieces`."""
        self._write, self._end = write, end
        self._beat = self._loop.call_later(BEAT_S, self._go_on)
        if self._first:
            self._loop.call_soon(self._told, self._first)

    def cancel(self) -> None:
        """See `Pieces`."""
        self._is_over = True
        self._watching.leave(self._watcher)
        if self._beat:
            self._beat.cancel()

    def _tell(self, found: JobRecord | MillraceError) -> None:
        try:
            self._loop.call_soon_threadsafe(self._told, found)
        except RuntimeError:  # the loop is closed: the process ends
            self._watching.leave(self._watcher)

    def _told(self, found: JobRecord | MillraceError) -> None:
        if self._is_over:
            return
        if isinstance(found, JobRecord):
            self._last = found
            found = self._check(found) or found
        if self._begun:
            begun, self._begun = self._begun, None
            self._first = found if isinstance(found, JobRecord) else None
            begun(found if isinstance(found, MillraceError) else None)
        elif self._write and self._end:
            self._write(last_words(found) if isinstance(found, MillraceError) else event(found))
            if isinstance(found, MillraceError) or found.is_final:
                self._end()

    def _go_on(self) -> None:
        if self._last and (refusal := self._check(self._last)):
            self._told(refusal)
        elif self._write and not self._is_over:
            self._write(BEAT)
            self._beat = self._loop.call_later(BEAT_S, self._go_on)
