"""A gRPC method as grpc.aio has it, and one call of it."""

import asyncio
from typing import Any

from serving.access.callers import Peer, grpc_address
from serving.transport.budget import Reservation
from serving.transport.grpc_method import Answer, CallHead, Message, Method, StreamMethod, UnaryMethod
from serving.transport.spooled_body import SpooledBody

Context = Any  # grpc.aio.ServicerContext


class CountedMethod:
    """One method, and how many of its calls are `open`."""

    __slots__ = ("method", "most_open", "open", "path")

    def __init__(self, path: str, method: Method, most_open: int) -> None:
        self.path = path
        self.method = method
        self.most_open = method.most_open if isinstance(method, StreamMethod) else most_open
        self.open = 0

    @property
    def most_bytes(self) -> int:
        """The largest message that it takes."""
        return self.method.most_bytes


class Call:
    """One call until its answer is sent. `reservation` counts its bytes, once it is admitted.

    Its message is awaited since `began`, on the loop's clock; `is_slow` says that there is room for the largest,
    `is_given_up` that it is about to be refused. `aborted` is the exception with which it ended.
    """

    __slots__ = ("aborted", "began", "head", "is_given_up", "is_slow", "method", "reservation")

    def __init__(self, method: CountedMethod, head: CallHead) -> None:
        self.method = method
        self.head = head
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


def head_of(path: str, context: Context) -> CallHead:
    """What is known of a call before its message."""
    headers: dict[bytes, bytes] = {}
    for key, value in context.invocation_metadata():
        if isinstance(value, str):
            name, raw = key.encode(), value.encode("latin-1", "replace")
            headers[name] = headers[name] + b"," + raw if name in headers else raw
    shown = context.auth_context()
    names = [*shown.get("x509_common_name", ()), *shown.get("x509_subject_alternative_name", ())]
    peer = Peer(grpc_address(context.peer()), names[0].decode("utf-8", "replace") if names else "")
    return CallHead(path, headers, peer, context.time_remaining())


async def begun(method: UnaryMethod, request: bytes, head: CallHead) -> Answer:
    """The method's answer; cancelling this withdraws the request."""
    future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def settle(answer: Answer) -> None:
        if future.done():  # cancelled in this turn of the loop, before it could be withdrawn
            answer.close()
        else:
            future.set_result(answer)

    withdraw = method.begin(Message(request), head, settle)
    try:
        return await future
    finally:
        if future.cancelled() and withdraw:
            withdraw()


async def body_of(answer: Answer) -> bytes:
    """The answer's bytes. A large one is read in a thread, since that takes a moment."""
    if not isinstance(answer.body, SpooledBody):
        return answer.body
    body = await asyncio.get_running_loop().run_in_executor(None, answer.body.read)
    answer.close()
    return body
