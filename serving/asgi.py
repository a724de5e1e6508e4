"""The API as an ASGI application: the hot verbs on the event loop, everything else in Flask behind it."""

import asyncio
import gc
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from a2wsgi import WSGIMiddleware

from millrace import logs
from millrace.broker.redis import RedisBroker
from serving.answers import Answer, error_body
from serving.app import create_app
from serving.service import Service
from serving.settings import ServingSettings

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_FLASK_THREADS = 4


def build(settings: ServingSettings) -> "Application":
    """The application with its real parts, as the server's process runs it."""
    logs.configure("serving", settings.log_level)
    return Application(Service(settings, RedisBroker(settings.redis_url)))


class Application:
    """The ASGI callable. Its lifespan starts and drains the service."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._flask: Callable[[Scope, Receive, Send], Awaitable[None]] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] != "http":
            raise ValueError(f"no {scope['type']} connections are served here")
        elif scope["method"] == "POST" and (verb := self._service.verb(scope["path"])):
            headers = dict(scope["headers"])
            body = await self._body(headers, receive)
            await _send(send, await verb(headers, body) if body is not None else self._too_large(headers))
        elif self._flask:
            await self._flask(scope, receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        await self._service.start()
        app = create_app(self._service, asyncio.get_running_loop())
        self._flask = WSGIMiddleware(app, workers=_FLASK_THREADS)
        gc.collect()
        gc.freeze()  # later collections pass over all that was imported: it makes the slowest requests otherwise
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._service.stop()
        await send({"type": "lifespan.shutdown.complete"})

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes | None:
        """The body, or None where it is too large: the rest is then read and dropped, so that the answer is heard."""
        limit = self._service.settings.max_body_bytes
        message = await receive()
        if not message.get("more_body"):
            body: bytes = message.get("body", b"")
            return body if len(body) <= limit else None
        announced = headers.get(b"content-length", b"0")
        chunks, size = [message["body"]], len(message["body"])
        if announced.isdigit() and int(announced) > limit:
            size = limit + 1
        while message.get("more_body"):
            message = await receive()
            size += len(message.get("body", b""))
            if size <= limit:
                chunks.append(message["body"])
            else:
                chunks.clear()
        return b"".join(chunks) if size <= limit else None

    def _too_large(self, headers: dict[bytes, bytes]) -> Answer:
        error = self._service.too_large()
        body = error_body(str(error))
        request_id = ("x-request-id", self._service.request_id(headers))
        return Answer(
            error.status, body, (("content-type", "application/json"), request_id, ("server-timing", "parse;dur=0"))
        )


async def _send(send: Send, answer: Answer) -> None:
    headers = [(name.encode(), value.encode("latin-1")) for name, value in answer.headers]
    headers.append((b"content-length", str(len(answer.body)).encode()))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body, "more_body": False})
