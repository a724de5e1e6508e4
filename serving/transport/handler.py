"""The seam between the HTTP server and what it serves."""

from collections.abc import Callable
from typing import Protocol

from millrace.protocol.errors import MillraceError
from serving.transport.budget import Reservation
from serving.transport.intake import Body
from serving.transport.request_head import RequestHead
from serving.transport.responses import HttpResponse
from serving.transport.streamed_body import Receiver

Done = Callable[[HttpResponse], None]
Withdraw = Callable[[], None]


class Handler(Protocol):
    """What the server serves. All methods are called on its event loop.

    `peer` is the caller's address as text, "" where there is none.
    """

    def check(self, head: RequestHead, peer: str) -> MillraceError | None:
        """Why the request is refused before its body is read; None where it may go on.

        It is not asked where a body of at most `SMALL_BYTES` has come with the head: `handle` refuses those.
        """

    def body_limit(self, head: RequestHead) -> int:
        """How many bytes the body may have. Asked only for bodies above `SMALL_BYTES`."""

    def handle(self, head: RequestHead, body: Body, peer: str, reservation: Reservation, done: Done) -> Withdraw | None:
        """Answer the request by calling `done` once, now or later, on the event loop.

        The body is a `SpooledBody` where it is larger than `LARGE_BYTES`. Its content coding is taken off. The handler
        closes it and releases the reservation, which counts its bytes. What is returned is called when the caller
        leaves before the response.
        """

    def refused(self, head: RequestHead | None, error: MillraceError) -> HttpResponse:
        """The response to a request whose body was not taken; without a head where not even that could be read."""


class Uploads(Protocol):
    """Takes the large bodies of some requests as they arrive, in the place of the handler.

    All methods are called on the server's event loop.
    """

    def receiver(self, head: RequestHead) -> Receiver | None:
        """What takes the body of that request; None where it is the handler's. Raises `MillraceError`.

        It is not asked where the body has come with the head, or is at most `SMALL_BYTES` long.
        """

    def handle(
        self, head: RequestHead, receiver: Receiver, peer: str, reservation: Reservation, done: Done
    ) -> Withdraw | None:
        """As `Handler.handle`, once the receiver has all of the body. It closes the receiver."""
