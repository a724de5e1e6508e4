"""The API as an ASGI application: the hot verbs on the event loop, everything else in Flask behind it."""

import asyncio
import gc
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from a2wsgi import WSGIMiddleware

from millrace import logs
from millrace.broker.redis import RedisBroker
from millrace.protocol.errors import MillraceError
from serving.answers import Answer
from serving.app import create_app
from serving.intake import Intake, Receive
from serving.service import Service
from serving.settings import ServingSettings

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
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
        self._intake = Intake(service.settings)
        self._flask: Callable[[Scope, Receive, Send], Awaitable[None]] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] != "http":
            raise ValueError(f"no {scope['type']} connections are served here")
        elif scope["method"] == "POST" and (verb := self._service.verb(scope["path"])):
            headers = dict(scope["headers"])
            try:
                body = await self._intake.read(headers, receive)
            except MillraceError as error:
                answer = self._service.refused(headers, error)
            else:
                answer = await verb(headers, body)
            await _send(send, answer)
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


async def _send(send: Send, answer: Answer) -> None:
    headers = [(name.encode(), value.encode("latin-1")) for name, value in answer.headers]
    headers.append((b"content-length", str(len(answer.body)).encode()))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body, "more_body": False})
