"""gRPC as a wire for requests that are serialized messages already: grpcio, blocking and with asyncio.

Needs the extra: `pip install './client[grpc]'` in Millrace's checkout.
"""

from typing import Any

import grpc
import httpx2

from millrace_client.credentials import Credentials
from millrace_client.errors import (
    ConnectionFailed,
    MillraceError,
    PayloadTooLarge,
    error_class,
    retry_after_s,
    timed_out,
)
from millrace_client.exchange import Response, Send
from millrace_client.httpwire import is_remote

_DEFAULT_PORT = 8001
# The HTTP status that says the same, as both protocols map them.
_STATUSES = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}


class GrpcWire:
    """Sends requests to a server and blocks until they are answered; threads may share it."""

    def __init__(self, url: str, own: Credentials) -> None:
        self._url, self._own = url, own
        target, options = _target(url), _options(url)
        if _is_secure(url):
            self._channel = grpc.secure_channel(target, grpc.ssl_channel_credentials(*own.contents()), options)
        else:
            self._channel = grpc.insecure_channel(target, options)

    def send(self, step: Send) -> Response:
        """The answer to one that succeeded. Raises the `MillraceError` that any other status stands for."""
        method = self._channel.unary_unary(step.request.path)
        try:
            body, call = method.with_call(
                step.request.body, timeout=step.timeout_s, metadata=_metadata(step, self._own)
            )
        except grpc.RpcError as error:
            raise _error_of(error, self._url, step) from error
        return Response(status=200, headers=_headers(call.initial_metadata(), call.trailing_metadata()), body=body)

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()


class AsyncGrpcWire:
    """The same for asyncio; it belongs to the event loop of its first request."""

    def __init__(self, url: str, own: Credentials) -> None:
        self._url, self._own = url, own
        self._shown = grpc.ssl_channel_credentials(*own.contents()) if _is_secure(url) else None
        self._channel: grpc.aio.Channel | None = None

    async def send(self, step: Send) -> Response:
        """As `GrpcWire.send`."""
        method = self._opened().unary_unary(step.request.path)
        call = method(step.request.body, timeout=step.timeout_s, metadata=_metadata(step, self._own))
        try:
            body = await call
        except grpc.RpcError as error:
            raise _error_of(error, self._url, step) from error
        headers = _headers(await call.initial_metadata(), await call.trailing_metadata())
        return Response(status=200, headers=headers, body=body)

    async def close(self) -> None:
        """Close the connection."""
        if self._channel is not None:
            await self._channel.close()

    def _opened(self) -> grpc.aio.Channel:
        if self._channel is None:
            target, options = _target(self._url), _options(self._url)
            if self._shown:
                self._channel = grpc.aio.secure_channel(target, self._shown, options)
            else:
                self._channel = grpc.aio.insecure_channel(target, options)
        return self._channel


def _target(url: str) -> str:
    parsed = httpx2.URL(url)
    host = f"[{parsed.host}]" if ":" in parsed.host else parsed.host
    return f"{host}:{parsed.port or _DEFAULT_PORT}"


def _is_secure(url: str) -> bool:
    return httpx2.URL(url).scheme == "grpcs"


def _options(url: str) -> list[tuple[str, int]]:
    """No limit on what the server may answer, no retries but ours, and a new connection as soon as one is wanted."""
    return [
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        ("grpc.enable_retries", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1000),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_http_proxy", int(is_remote(url))),
    ]


def _metadata(step: Send, own: Credentials) -> tuple[tuple[str, str], ...]:
    """The deadline is not among them: gRPC tells it the server by itself."""
    return (("x-request-id", step.request_id), *own.headers.items())


def _headers(*metadata: Any) -> dict[str, str]:
    pairs = [pair for part in metadata for pair in part or ()]
    return {name: value for name, value in pairs if isinstance(value, str)}


def _error_of(error: Any, url: str, step: Send) -> MillraceError:
    """The error that a status stands for; the request's id among the metadata tells those that the server sent."""
    code, text = error.code(), error.details() or ""
    headers = _headers(error.initial_metadata(), error.trailing_metadata())
    if "x-request-id" not in headers:
        if code == grpc.StatusCode.DEADLINE_EXCEEDED:
            return timed_out(url, step.timeout_s)
        if code == grpc.StatusCode.UNAVAILABLE:
            return ConnectionFailed(f"cannot reach {url}: {text}")
    status = _STATUSES.get(code, 500)
    kind = error_class(status)
    if code == grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in text:  # gRPC's own words
        kind, status = PayloadTooLarge, 413
    return kind(text, status=status, request_id=headers.get("x-request-id"), retry_after_s=retry_after_s(headers))
