"""HTTP as a wire for requests: httpx2, blocking and with asyncio."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import httpx2

from millrace_client.credentials import Credentials
from millrace_client.errors import ConnectionFailed, InvalidResponse, MillraceError, timed_out
from millrace_client.exchange import Response, Send
from millrace_client.network import DeadlineNetwork, deadline
from millrace_client.transfers import Download, FileForm

_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_LIMITS = httpx2.Limits(max_connections=100, max_keepalive_connections=100)
_HEADERS = {"User-Agent": "millrace-client"}


class HttpWire:
    """Sends requests to a server and blocks until they are answered; threads may share it."""

    def __init__(
        self, url: str, network: httpx2.BaseTransport | None, clock: Callable[[], float], own: Credentials
    ) -> None:
        self._url, self._clock = url, clock
        network = network or DeadlineNetwork(httpx2.URL(url), own.context(), trusts_proxy=is_remote(url))
        self._http = httpx2.Client(headers=_HEADERS | own.headers, transport=network, trust_env=is_remote(url))

    def send(self, step: Send) -> Response:
        """The answer, whatever its status. Raises `ConnectionFailed`, `DeadlineExceeded`, `InvalidResponse`."""
        until_s = self._clock() + step.timeout_s
        try:
            with (
                deadline(lambda: until_s - self._clock()),
                self._http.stream(**_arguments(self._url, step)) as response,
            ):
                chunks = self._within(response.iter_bytes(), until_s, step.timeout_s)
                body = _into(step.request.sink, chunks) if _has_sink(step, response) else b"".join(chunks)
        except httpx2.RequestError as error:
            raise _error_of(error, self._url, step) from error
        return _response(response, body)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _within(self, chunks: Iterator[bytes], until_s: float, timeout_s: float) -> Iterator[bytes]:
        """The chunks while there is time, whatever network the caller gave us."""
        for chunk in chunks:
            if self._clock() > until_s:
                raise timed_out(self._url, timeout_s)
            yield chunk


class AsyncHttpWire:
    """The same for asyncio."""

    def __init__(self, url: str, network: httpx2.AsyncBaseTransport | None, own: Credentials) -> None:
        self._url = url
        self._is_secure = httpx2.URL(url).scheme == "https"
        self._http = httpx2.AsyncClient(
            headers=_HEADERS | own.headers,
            verify=own.context(),
            limits=_LIMITS,
            transport=network,
            trust_env=is_remote(url),
        )

    async def send(self, step: Send) -> Response:
        """As `HttpWire.send`."""
        opened: list[Any] = []

        async def note(event: str, info: dict[str, Any]) -> None:
            if event == "connection.connect_tcp.complete":
                opened.append(info["return_value"])

        extensions = {"trace": note} if self._is_secure else {}
        try:
            async with asyncio.timeout(step.timeout_s):
                arguments = _arguments(self._url, step) | {"extensions": extensions}
                if isinstance(step.request.body, FileForm):
                    arguments["content"] = step.request.body.pieces()
                async with self._http.stream(**arguments) as response:
                    body = await self._read(step, response)
        except TimeoutError:
            for stream in opened:  # a handshake that is cut off leaves its connection open
                await stream.aclose()
            raise timed_out(self._url, step.timeout_s) from None
        except httpx2.RequestError as error:
            raise _error_of(error, self._url, step) from error
        return _response(response, body)

    async def _read(self, step: Send, response: httpx2.Response) -> bytes:
        sink = step.request.sink
        if sink is None or not _has_sink(step, response):
            return await response.aread()
        sink.begin()
        async for chunk in response.aiter_bytes():
            sink.write(chunk)
        return b""

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()


def is_remote(url: str) -> bool:
    """A server on this machine is never asked through the proxy that the environment names."""
    return httpx2.URL(url).host not in _LOOPBACK


def _arguments(url: str, step: Send) -> dict[str, Any]:
    request = step.request
    left_ms = max(1, int(step.timeout_s * 1000))
    return {
        "method": request.method,
        "url": url + request.path,
        "content": request.body,
        "headers": {**request.headers, "X-Request-Id": step.request_id, "X-Request-Timeout-Ms": str(left_ms)},
        "timeout": step.timeout_s,
    }


def _has_sink(step: Send, response: httpx2.Response) -> bool:
    return step.request.sink is not None and response.is_success


def _into(sink: Download | None, chunks: Iterator[bytes]) -> bytes:
    """All chunks into the sink; nothing is left for the response."""
    if sink:
        sink.begin()
        for chunk in chunks:
            sink.write(chunk)
    return b""


def _response(response: httpx2.Response, body: bytes) -> Response:
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Response(status=response.status_code, headers=headers, body=body)


def _error_of(error: httpx2.RequestError, url: str, step: Send) -> MillraceError:
    if isinstance(error, httpx2.TimeoutException):
        return timed_out(url, step.timeout_s)
    if isinstance(error, httpx2.DecodingError):
        return InvalidResponse(f"the answer of {url} cannot be decompressed: {error}")
    if isinstance(error, httpx2.ConnectError):
        return ConnectionFailed(f"cannot reach {url}: {error}")
    return ConnectionFailed(f"the connection to {url} was lost: {error or type(error).__name__}")
