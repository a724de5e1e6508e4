"""One POST of 3 KB over 32 connections, answered at once: our HTTP server beside uvicorn on the same parser.

    .venv/bin/python -m benchmarks.micro.http_server

Server and callers share one event loop, so that the time has both; the callers' is the same for each.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn
import uvloop

from benchmarks.micro.timing import compare
from millrace.protocol.errors import MillraceError
from serving.settings import ServingSettings
from serving.transport.budget import Budget, Reservation
from serving.transport.handler import Done
from serving.transport.http_server import HttpServer
from serving.transport.intake import Body
from serving.transport.request_head import RequestHead
from serving.transport.responses import HttpResponse

REQUESTS = 6000
CONNECTIONS = 32
HEADERS = (("content-type", "application/json"), ("x-request-id", "a-1"))
BODY, ANSWER = bytes(3136), b"x" * 140
REQUEST = b"POST /v1/models/m:predict HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 3136\r\n\r\n" + BODY


class AtOnce:
    """Answers at once."""

    def check(self, head: RequestHead, peer: str) -> None:
        """See `serving.transport.handler.Handler`."""

    def body_limit(self, head: RequestHead) -> int:  # noqa: ARG002
        """See `serving.transport.handler.Handler`."""
        return 2**20

    def handle(self, head: RequestHead, body: Body, peer: str, reservation: Reservation, done: Done) -> None:  # noqa: ARG002
        """See `serving.transport.handler.Handler`."""
        reservation.release()
        done(HttpResponse(200, ANSWER, HEADERS))

    def refused(self, head: RequestHead | None, error: MillraceError) -> HttpResponse:  # noqa: ARG002
        """See `serving.transport.handler.Handler`."""
        return HttpResponse(error.status, b"", ())


async def application(
    _scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
) -> None:
    """The same as an ASGI application."""
    message = await receive()
    while message.get("more_body"):
        message = await receive()
    headers = [(name.encode(), value.encode()) for name, value in (*HEADERS, ("content-length", str(len(ANSWER))))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": ANSWER})


class Caller(asyncio.Protocol):
    """Sends the request again with every answer, until enough were sent."""

    def __init__(self, left: list[int], done: "asyncio.Future[None]") -> None:
        self._left = left
        self._done = done
        self._received = b""
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of `asyncio.Protocol`."""
        self._transport = transport
        self._transport.write(REQUEST)

    def data_received(self, data: bytes) -> None:
        """Part of `asyncio.Protocol`."""
        self._received += data
        if not self._received.endswith(ANSWER):
            return
        self._received = b""
        self._left[0] -= 1
        if self._left[0] > 0:
            self._transport.write(REQUEST)
        else:
            self._transport.close()
            if not self._done.done():
                self._done.set_result(None)


async def load(port: int) -> float:
    """Microseconds a request."""
    loop = asyncio.get_running_loop()
    left, done = [REQUESTS], loop.create_future()
    started = time.perf_counter()
    for _ in range(CONNECTIONS):
        await loop.create_connection(lambda: Caller(left, done), "127.0.0.1", port)
    await done
    return (time.perf_counter() - started) / REQUESTS * 1e6


async def start_both() -> tuple[int, int]:
    """The ports of the two servers."""
    ours = HttpServer(ServingSettings(port=0), AtOnce(), Budget(2**29))
    await ours.start()
    config = uvicorn.Config(application, port=0, http="httptools", access_log=False, log_level="critical")
    theirs = uvicorn.Server(config)
    config.load()
    theirs.lifespan = config.lifespan_class(config)
    await theirs.startup()
    return ours.port, theirs.servers[0].sockets[0].getsockname()[1]


def main() -> None:
    """Measure both in one process."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        ours, theirs = runner.run(start_both())
        compare(
            "a POST of 3 KB, answered at once",
            {
                "serving.transport.http_server": lambda: runner.run(load(ours)),
                "uvicorn, httptools": lambda: runner.run(load(theirs)),
            },
        )


if __name__ == "__main__":
    main()
