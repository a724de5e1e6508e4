"""Which requests send their body on as it arrives: those that submit a job."""

import threading
from collections.abc import Callable

from millrace.protocol.errors import CodingNotSupported, MillraceError, Unavailable
from serving.access.pages import page_error
from serving.jobs.service import Jobs
from serving.transport.budget import Reservation
from serving.transport.handler import Done, Withdraw
from serving.transport.request_head import RequestHead
from serving.transport.streamed_body import Receiver

_MOST_AT_ONCE = 16
_ROOT = "/v1/jobs"
Answer = Callable[[RequestHead, Receiver, str, Reservation, Done], Withdraw | None]


def is_submission(head: RequestHead) -> bool:
    """Whether the request submits a job."""
    path = head.path
    if not path.startswith(_ROOT):
        return False
    rest = path[len(_ROOT) :].strip("/")
    return (head.method == "POST" and not rest) or (head.method == "PUT" and bool(rest) and "/" not in rest)


class JobUploads:
    """See `serving.transport.handler.Uploads`. `answer` goes on with a request whose body is here.

    `origin` is the one whose web pages may submit jobs.
    """

    def __init__(self, jobs: Jobs, origin: str, answer: Answer) -> None:
        self._jobs = jobs
        self._origin = origin
        self._answer = answer
        self._free = threading.BoundedSemaphore(_MOST_AT_ONCE)

    def receiver(self, head: RequestHead) -> Receiver | None:
        """See `Uploads`."""
        if not is_submission(head):
            return None
        if head.headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise CodingNotSupported("an upload is sent as it is, without Content-Encoding; pack the file itself")
        if refusal := page_error(head.headers, self._origin, "jobs"):
            raise refusal
        if not self._free.acquire(blocking=False):
            raise Unavailable(f"{_MOST_AT_ONCE} uploads are on their way already; try again when one has arrived")
        try:
            return self._jobs.form(head.headers.get(b"content-type", b"").decode("latin-1"), self._free.release)
        except MillraceError:
            self._free.release()
            raise

    def handle(
        self, head: RequestHead, receiver: Receiver, peer: str, reservation: Reservation, done: Done
    ) -> Withdraw | None:
        """See `Uploads`."""
        return self._answer(head, receiver, peer, reservation, done)
