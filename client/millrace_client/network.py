"""The network under the blocking client: whatever a call waits for, it waits no longer than the call's deadline.

httpx2 bounds each read by itself: a server that sends one byte now and then would be waited for without end. Here every
connect, handshake, read and write gets the time that is left of the call. Only the look-up of a name is not bounded.
"""

import socket
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from ssl import SSLContext
from typing import Any

import httpcore2
import httpx2

_MAX_CONNECTIONS = 100
_WRITE_BYTES = 16_384  # a write that is as large as this waits for the other side at most once or twice
_left_s: ContextVar[Callable[[], float]] = ContextVar("left_s")
Options = Iterable[Any] | None  # of sockets


@contextmanager
def deadline(left_s: Callable[[], float]) -> Iterator[None]:
    """What this thread sends and receives in the block has the seconds that the function returns."""
    token = _left_s.set(left_s)
    try:
        yield
    finally:
        _left_s.reset(token)


class DeadlineNetwork(httpx2.BaseTransport):
    """Connections to one server, through the proxy that the environment names for it if `trusts_proxy`."""

    def __init__(self, url: httpx2.URL, context: SSLContext, *, trusts_proxy: bool) -> None:
        options: dict[str, Any] = {
            "ssl_context": context,
            "max_connections": _MAX_CONNECTIONS,
            "max_keepalive_connections": _MAX_CONNECTIONS,
            "keepalive_expiry": 5.0,
            "network_backend": _Backend(),
        }
        proxy = _proxy_for(url) if trusts_proxy else None
        self._pool = _through(proxy, options) if proxy else httpcore2.ConnectionPool(**options)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """See `httpx2.BaseTransport`."""
        url = request.url
        assert isinstance(request.stream, httpx2.SyncByteStream)  # noqa: S101 - httpx2 promises it
        with _client_errors(request):
            response = self._pool.handle_request(
                httpcore2.Request(
                    method=request.method,
                    url=httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                    headers=request.headers.raw,
                    content=request.stream,
                    extensions=request.extensions,
                )
            )
        body = _Body(request, response)
        return httpx2.Response(response.status, headers=response.headers, stream=body, extensions=response.extensions)

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()


class _Body(httpx2.SyncByteStream):
    def __init__(self, request: httpx2.Request, response: httpcore2.Response) -> None:
        self._request, self._response = request, response

    def __iter__(self) -> Iterator[bytes]:
        with _client_errors(self._request):
            yield from self._response.iter_stream()

    def close(self) -> None:
        self._response.close()


class _Backend(httpcore2.NetworkBackend):
    """Opens connections whose waits end at the deadline."""

    def __init__(self) -> None:
        self._sockets = httpcore2.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Options = None,
    ) -> httpcore2.NetworkStream:
        """A connection to the first of the host's addresses that has one."""
        failure: Exception = httpcore2.ConnectError(f"{host} has no address")
        for address in _addresses(host, port):
            left_s = _bounded(timeout, httpcore2.ConnectTimeout)
            try:
                return _Stream(self._sockets.connect_tcp(address, port, left_s, local_address, socket_options))
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
        raise failure


class _Stream(httpcore2.NetworkStream):
    """A connection whose waits end at the deadline of whoever uses it."""

    def __init__(self, stream: httpcore2.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _bounded(timeout, httpcore2.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), _WRITE_BYTES):
            left_s = _bounded(timeout, httpcore2.WriteTimeout)
            self._stream.write(buffer[start : start + _WRITE_BYTES], left_s)

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        left_s = _bounded(timeout, httpcore2.ConnectTimeout)
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, left_s))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _bounded(timeout: float | None, error: type[httpcore2.TimeoutException]) -> float | None:
    """The time that a wait has: no more than is left of the whole. Raises the error where nothing is left."""
    left_s = _left_s.get(lambda: float("inf"))()
    if left_s <= 0:
        raise error("the time for the whole exchange is over")
    if timeout is None:
        return None if left_s == float("inf") else left_s
    return min(timeout, left_s)


def _addresses(host: str, port: int) -> list[str]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise httpcore2.ConnectError(str(error)) from error
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def _proxy_for(url: httpx2.URL) -> httpx2.URL | None:
    """The proxy that the environment names for a server."""
    if urllib.request.proxy_bypass(url.host):
        return None
    proxies = urllib.request.getproxies()
    found = proxies.get(url.scheme) or proxies.get("all")
    return httpx2.URL(found if "://" in found else f"http://{found}") if found else None


def _through(proxy: httpx2.URL, options: dict[str, Any]) -> httpcore2.ConnectionPool:
    kind = httpcore2.SOCKSProxy if proxy.scheme.startswith("socks") else httpcore2.HTTPProxy
    auth = (proxy.username, proxy.password) if proxy.username else None
    where = httpcore2.URL(scheme=proxy.raw_scheme, host=proxy.raw_host, port=proxy.port, target=proxy.raw_path)
    return kind(proxy_url=where, proxy_auth=auth, **options)


@contextmanager
def _client_errors(request: httpx2.Request) -> Iterator[None]:
    try:
        yield
    except httpcore2.TimeoutException as error:
        raise httpx2.TimeoutException(str(error), request=request) from error
    except httpcore2.ConnectError as error:
        raise httpx2.ConnectError(str(error), request=request) from error
    except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.ProxyError) as error:
        raise httpx2.TransportError(str(error) or type(error).__name__, request=request) from error
