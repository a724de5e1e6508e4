"""A connection that carries one request at a time, and says when its parts left and came.

It blocks on plain sockets. Under Locust these are gevent's, so that many of them share one thread.
"""

import select
import socket
import time
from dataclasses import dataclass
from typing import Protocol

import httpx2

from millrace_client.endpoint import grpc_part
from millrace_client.errors import ConnectionFailed, DeadlineExceeded, InvalidResponse, MillraceError, timed_out
from millrace_client.exchange import Request, Response, Send
from millrace_client.load.targets import Target, credentials

_CHUNK = 65_536
_IDLE_S = 0.5  # after this pause, look first whether the server has closed the connection
_TIMING = "server-timing"


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete answer, and the moments (seconds of `time.perf_counter`) at which the request was sent, the first byte
    came, and the last one."""

    response: Response
    sent_s: float
    first_s: float
    done_s: float


class Connection(Protocol):
    """To one server."""

    def ask(self, request: Request) -> Reply:
        """The answer, whatever its status. Raises `ConnectionFailed`, `DeadlineExceeded`, `InvalidResponse`."""

    def close(self) -> None:
        """Disconnect."""


def connection(target: Target, timeout_s: float) -> Connection:
    """A connection to the target, which is opened when it is first needed."""
    return GrpcConnection(target.url, timeout_s) if target.is_grpc else HttpConnection(target.url, timeout_s)


class HttpConnection:
    """HTTP/1.1, kept alive."""

    def __init__(self, url: str, timeout_s: float) -> None:
        self._url, self._timeout_s = url, timeout_s
        self._parsed, self._own = httpx2.URL(url), credentials()
        self._socket: socket.socket | None = None
        self._used_s = 0.0
        self._heads: dict[int, bytes] = {}

    def ask(self, request: Request) -> Reply:
        """As `Connection.ask`."""
        message = self._message(request)
        try:
            wire = self._open()
            wire.sendall(message)
            sent_s = time.perf_counter()
            reply = self._read(wire, sent_s)
        except TimeoutError:
            self.close()
            raise timed_out(self._url, self._timeout_s) from None
        except OSError as error:
            self.close()
            raise ConnectionFailed(f"{error.strerror or error}") from None
        except MillraceError:
            self.close()
            raise
        self._used_s = reply.done_s
        return reply

    def close(self) -> None:
        """Disconnect."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _open(self) -> socket.socket:
        if self._socket is not None and time.perf_counter() - self._used_s > _IDLE_S:
            readable, _, _ = select.select([self._socket], [], [], 0)
            if readable:
                self.close()
        if self._socket is None:
            is_secure = self._parsed.scheme == "https"
            address = self._parsed.host, self._parsed.port or (443 if is_secure else 80)
            opened = socket.create_connection(address, self._timeout_s)
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if is_secure:
                opened = self._secured(opened)
            self._socket = opened
        return self._socket

    def _secured(self, opened: socket.socket) -> socket.socket:
        context = self._own.context()
        context.set_alpn_protocols(["http/1.1"])
        return context.wrap_socket(opened, server_hostname=self._parsed.host)

    def _message(self, request: Request) -> bytes:
        """The bytes of a request, made once: the questions are asked again and again."""
        made = self._heads.get(id(request))
        if made is None:
            if not isinstance(request.body, bytes):
                raise TypeError("a load test sends bytes")
            lines = [
                f"{request.method} {self._parsed.path.rstrip('/')}{request.path} HTTP/1.1",
                f"Host: {self._parsed.netloc.decode()}",
                "User-Agent: millrace-load",
                f"Content-Length: {len(request.body)}",
                *(f"{name}: {value}" for name, value in {**self._own.headers, **request.headers}.items()),
                "\r\n",
            ]
            made = self._heads[id(request)] = "\r\n".join(lines).encode() + request.body
        return made

    def _read(self, wire: socket.socket, sent_s: float) -> Reply:
        data = wire.recv(_CHUNK)
        first_s = time.perf_counter()
        while (end := data.find(b"\r\n\r\n")) < 0:
            data += self._more(wire, data)
        head, body = data[:end], data[end + 4 :]
        low = head.lower()
        if (at := low.find(b"\r\ncontent-length:")) >= 0:
            length = int(low[at + 17 : (low + b"\r\n").find(b"\r\n", at + 2)])
            while len(body) < length:
                body += self._more(wire, body)
        elif b"\r\ntransfer-encoding: chunked" in low:
            body = self._unchunked(wire, body)
        else:
            raise InvalidResponse("the answer has neither Content-Length nor chunks")
        done_s = time.perf_counter()
        if b"\r\nconnection: close" in low:
            self.close()
        return Reply(Response(status=int(head[9:12]), headers=_headers(low), body=body), sent_s, first_s, done_s)

    def _unchunked(self, wire: socket.socket, data: bytes) -> bytes:
        parts: list[bytes] = []
        while True:
            while (end := data.find(b"\r\n")) < 0:
                data += self._more(wire, data)
            size = int(data[:end].partition(b";")[0], 16)
            while len(data) < end + 2 + size + 2:
                data += self._more(wire, data)
            if size == 0:
                return b"".join(parts)
            parts.append(data[end + 2 : end + 2 + size])
            data = data[end + 2 + size + 2 :]

    def _more(self, wire: socket.socket, got: bytes) -> bytes:
        if not (more := wire.recv(_CHUNK)):
            what = "in the middle of an answer" if got else "before it answered"
            raise ConnectionFailed(f"the server closed the connection {what}")
        return more


class GrpcConnection:
    """gRPC: a channel of its own. There is no first byte to see: all of the time is waiting."""

    def __init__(self, url: str, timeout_s: float) -> None:
        self._wire = grpc_part("grpcwire").GrpcWire(url, credentials())
        self._timeout_s = timeout_s

    def ask(self, request: Request) -> Reply:
        """As `Connection.ask`."""
        sent_s = time.perf_counter()
        try:
            response = self._wire.send(Send(request, self._timeout_s, "millrace-load"))
        except (ConnectionFailed, DeadlineExceeded, InvalidResponse):
            raise
        except MillraceError as error:
            response = Response(status=error.status or 500, headers={}, body=str(error).encode())
        done_s = time.perf_counter()
        return Reply(response, sent_s, done_s, done_s)

    def close(self) -> None:
        """Disconnect."""
        self._wire.close()


def _headers(low: bytes) -> dict[str, str]:
    """Those of the headers that matter, of a head in lower case."""
    found = {}
    for name in (_TIMING, "inference-header-content-length", "retry-after"):
        if (at := low.find(b"\r\n" + name.encode() + b":")) >= 0:
            found[name] = (
                (low + b"\r\n")[at + len(name) + 3 : (low + b"\r\n").find(b"\r\n", at + 2)].strip().decode("latin-1")
            )
    return found
