"""Reads request bodies: each bounded in size and in time, and all that are arriving bounded together."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from millrace.protocol.errors import Cancelled, DeadlineExceeded, PayloadTooLarge, Unavailable
from serving.settings import ServingSettings

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


def too_large(settings: ServingSettings) -> PayloadTooLarge:
    """The error for a body above the limit."""
    return PayloadTooLarge(f"the request body is larger than the {settings.max_body_bytes} bytes that are allowed")


class Intake:
    """Reads the bodies of one API process, on its event loop."""

    def __init__(self, settings: ServingSettings) -> None:
        self._settings = settings
        self._arriving_bytes = 0

    async def read(self, headers: Mapping[bytes, bytes], receive: Receive) -> bytes:
        """The body of an ASGI request.

        Raises `PayloadTooLarge`, `Unavailable` when too much is arriving at once, `DeadlineExceeded` when it does not
        arrive in time, and `Cancelled` when the caller goes away meanwhile. What is refused is still read, and
        dropped, so that the caller hears the answer.
        """
        message = await receive()
        body: bytes = message.get("body", b"")
        if not message.get("more_body"):
            if len(body) > self._settings.max_body_bytes:
                raise too_large(self._settings)
            return body
        announced = headers.get(b"content-length", b"")
        is_refused = announced.isdigit() and int(announced) > self._settings.max_body_bytes
        try:
            async with asyncio.timeout(self._settings.request_timeout_ms / 1000):
                return await self._rest(body, receive, too_large(self._settings) if is_refused else None)
        except TimeoutError:
            raise DeadlineExceeded(f"the body did not arrive within {self._settings.request_timeout_ms} ms") from None

    async def _rest(self, first: bytes, receive: Receive, refusal: PayloadTooLarge | Unavailable | None) -> bytes:
        chunks, size, has_more = [first], len(first), True
        self._arriving_bytes += size
        try:
            while has_more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Cancelled("the caller went away")
                has_more = message.get("more_body", False)
                chunk: bytes = message.get("body", b"")
                refusal = refusal or self._refusal(size + len(chunk), len(chunk))
                if refusal:
                    chunks.clear()
                    continue
                chunks.append(chunk)
                size += len(chunk)
                self._arriving_bytes += len(chunk)
        finally:
            self._arriving_bytes -= size
        if refusal:
            raise refusal
        return b"".join(chunks)

    def _refusal(self, size: int, more: int) -> PayloadTooLarge | Unavailable | None:
        if size > self._settings.max_body_bytes:
            return too_large(self._settings)
        if self._arriving_bytes + more > self._settings.max_arriving_bytes:
            return Unavailable("too many large bodies are arriving at once; try again")
        return None
