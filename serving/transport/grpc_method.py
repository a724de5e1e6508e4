"""A gRPC method as the server registers it, and one call of it."""

from collections.abc import Callable
from typing import Any

import grpc

from millrace.protocol.errors import MillraceError
from serving.transport.budget import Reservation

Context = Any  # grpc.aio.ServicerContext
Check = Callable[[Context], MillraceError | None]


class Method:
    """How one method is taken in: a `handler` that takes bytes, the largest message, and how many calls may be open.

    `check` says by a call's head why its caller is refused. `open` counts the calls that are open.
    """

    __slots__ = ("check", "handler", "most_bytes", "most_open", "open")

    def __init__(
        self, handler: grpc.RpcMethodHandler, most_bytes: int, most_open: int, check: Check | None = None
    ) -> None:
        self.handler = handler
        self.most_bytes = most_bytes
        self.most_open = most_open
        self.check = check
        self.open = 0


class Call:
    """One call until its answer is sent. `reservation` counts its bytes, once it is admitted.

    Its message is awaited since `began`, on the loop's clock; `is_slow` says that there is room for the largest,
    `is_given_up` that it is about to be refused. `aborted` is the exception with which it ended.
    """

    __slots__ = ("aborted", "began", "is_given_up", "is_slow", "method", "reservation")

    def __init__(self, method: Method) -> None:
        self.method = method
        self.reservation: Reservation | None = None
        self.aborted: BaseException | None = None
        self.began = 0.0
        self.is_slow = False
        self.is_given_up = False

    def resize(self, bytes_: int) -> bool:
        """Reserve so many bytes in all; False where there is no room for them."""
        reservation = self.reservation
        if reservation is None:
            return False
        if bytes_ > reservation.bytes:
            return reservation.grow(bytes_ - reservation.bytes)
        reservation.shrink_to(bytes_)
        return True

    def forget(self) -> None:
        """Let go of what the call held.

        gRPC keeps the exception for as long as the call, whose frames the exception has: a circle that would keep the
        message, too, until a collection of garbage.
        """
        if self.reservation:
            self.reservation.release()
        if self.aborted:
            self.aborted.__traceback__ = self.aborted.__context__ = None
