"""`timeout_s` bounds a whole call, whatever the server does with its side of the connection."""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from millrace_client import AsyncClient, Client, DeadlineExceeded, MillraceError

TIMEOUT_S = 0.4
LONG_S = 10.0  # much more than the timeout on any machine, much less than a server that drips would take
_PAUSE_S = 0.05

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
LONG_HEAD = HEAD + b"X-Slow: " + b"a" * 4000 + b"\r\nContent-Length: 2\r\n\r\n{}"
TLS_RECORD = b"\x16\x03\x03\x40\x00"  # a handshake message of 16 KB, which never ends
HTTP2_SETTINGS = b"\x00\x3f\xfc\x04\x00\x00\x00\x00\x00"  # as much of gRPC's first frame
Serve = Callable[[socket.socket, threading.Event], None]


def drips(at_once: bytes, slowly: bytes) -> Serve:
    """Answers with the first part as soon as it was asked, then with a byte of the rest now and then."""

    def serve(connection: socket.socket, stopping: threading.Event) -> None:
        connection.recv(65536)
        connection.sendall(at_once)
        for byte in slowly:
            if stopping.wait(_PAUSE_S):
                return
            connection.sendall(bytes([byte]))

    return serve


def reads_slowly(connection: socket.socket, stopping: threading.Event) -> None:
    while not stopping.wait(_PAUSE_S):
        connection.recv(1000)


def is_silent(connection: socket.socket, stopping: threading.Event) -> None:
    stopping.wait()


HTTP_SERVERS = {
    "a head that drips": ("http", drips(b"", LONG_HEAD)),
    "a body that drips": ("http", drips(HEAD + b"Content-Length: 4000\r\n\r\n", b" " * 4000)),
    "chunks that drip": ("http", drips(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n" * 1000)),
    "a handshake that drips": ("https", drips(TLS_RECORD, bytes(4000))),
    "no handshake": ("https", is_silent),
    "no answer": ("http", is_silent),
}
GRPC_SERVERS = {
    "a first frame that drips": ("grpc", drips(HTTP2_SETTINGS, bytes(4000))),
    "a handshake that drips": ("grpcs", drips(TLS_RECORD, bytes(4000))),
    "no answer": ("grpc", is_silent),
}


@contextlib.contextmanager
def listening(serve: Serve) -> Iterator[int]:
    """The port of a server that treats every connection so, each in a thread."""
    stopping = threading.Event()
    threads: list[threading.Thread] = []

    def one(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            serve(connection, stopping)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threads.append(threading.Thread(target=one, args=(server.accept()[0],)))
                threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield server.getsockname()[1]
        finally:
            stopping.set()
            server.shutdown(socket.SHUT_RDWR)
            accepting.join()
            for thread in threads:
                thread.join()


@pytest.fixture
def full() -> Iterator[int]:
    """The port of a server that accepts no connection: those that wait for it fill its backlog."""
    with contextlib.ExitStack() as waiting:
        server = waiting.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        port = server.getsockname()[1]
        for _ in range(8):
            connection = waiting.enter_context(socket.socket())
            connection.setblocking(False)
            connection.connect_ex(("127.0.0.1", port))
        yield port


def models(kind: str, url: str) -> MillraceError:
    """How a call of that client ends."""
    return failure_of(kind, url, lambda client: client.models())


def failure_of(kind: str, url: str, ask: Callable[[Any], Any]) -> MillraceError:
    async def later() -> None:
        async with AsyncClient(url, timeout_s=TIMEOUT_S) as client:
            await ask(client)

    def now() -> None:
        with Client(url, timeout_s=TIMEOUT_S) as client:
            ask(client)

    with pytest.raises(MillraceError) as caught:
        asyncio.run(later()) if kind == "async" else now()
    return caught.value


def assert_bounded(ask: Callable[[], MillraceError]) -> None:
    started = time.monotonic()
    error = ask()
    assert isinstance(error, DeadlineExceeded), repr(error)
    assert error.status is None
    assert time.monotonic() - started < LONG_S


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("server", HTTP_SERVERS)
def test_a_slow_server_does_not_outlast_the_timeout_over_http(kind: str, server: str) -> None:
    scheme, serve = HTTP_SERVERS[server]
    with listening(serve) as port:
        assert_bounded(lambda: models(kind, f"{scheme}://127.0.0.1:{port}"))


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("server", GRPC_SERVERS)
def test_a_slow_server_does_not_outlast_the_timeout_over_grpc(kind: str, server: str) -> None:
    scheme, serve = GRPC_SERVERS[server]
    with listening(serve) as port:
        assert_bounded(lambda: models(kind, f"{scheme}://127.0.0.1:{port}"))


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_a_connection_that_is_not_accepted_does_not_outlast_the_timeout(kind: str, scheme: str, full: int) -> None:
    assert_bounded(lambda: models(kind, f"{scheme}://127.0.0.1:{full}"))


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_server_that_reads_slowly_does_not_outlast_the_timeout(kind: str) -> None:
    inputs = {"x": np.zeros(4_000_000, np.float32)}
    metadata = b'{"name": "m", "versions": [], "platform": "", "inputs": [], "outputs": []}'
    known = HEAD + b"Content-Length: %d\r\n\r\n" % len(metadata) + metadata

    def serve(connection: socket.socket, stopping: threading.Event) -> None:
        connection.recv(65536)
        connection.sendall(known)
        reads_slowly(connection, stopping)

    with listening(serve) as port:
        url = f"http://127.0.0.1:{port}"
        assert_bounded(lambda: failure_of(kind, url, lambda client: client.predict("m", inputs, signature="other")))


def test_a_proxy_of_the_environment_is_used_and_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []

    def serve(connection: socket.socket, stopping: threading.Event) -> None:
        asked.append(connection.recv(65536))
        connection.sendall(HEAD)
        while not stopping.wait(_PAUSE_S):
            connection.sendall(b"X")

    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with listening(serve) as port:
        monkeypatch.setenv("http_proxy", f"http://user:secret@127.0.0.1:{port}")
        assert_bounded(lambda: models("sync", "http://elsewhere.invalid"))
    assert asked[0].startswith(b"GET http://elsewhere.invalid/v1/models HTTP/1.1\r\n")
    assert b"proxy-authorization: Basic " in asked[0].replace(b"Proxy-Authorization", b"proxy-authorization")
