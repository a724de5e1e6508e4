"""The routes that tell of the stack as a whole, and of what a caller may do: `/v1/stack`, `/v1/access`."""

import asyncio
import time
from collections.abc import Iterator

import msgspec
from flask import Flask, Response, g, request

from millrace.protocol.errors import MillraceError
from serving.access.gate import CONTROL, SEE, check_role, current
from serving.jobs.events import MEDIA, last_words
from serving.monitoring.stack import FRESH_S
from serving.protocols.rest_calls import Headers
from serving.service import Service
from serving.web import schemas
from serving.web.stack_events import PATH, MaySee, event


def add_routes(app: Flask, service: Service, loop: asyncio.AbstractEventLoop) -> None:
    """Add the routes. `loop` is the event loop that the service was started on."""

    def latest(may_see: MaySee) -> bytes:
        return asyncio.run_coroutine_threadsafe(service.stack.latest(may_see), loop).result()

    @app.get(PATH)
    def _stack() -> Response:
        if MEDIA not in request.headers.get("Accept", ""):
            return Response(latest(_may_see()), content_type="application/json", headers={"Vary": "Accept"})
        return Response(events(_headers(), g.caller.address), content_type=MEDIA, headers={"Cache-Control": "no-store"})

    def events(headers: Headers, peer: str) -> Iterator[bytes]:
        """For other WSGI servers; our own sends them without a thread (`stack_events.py`)."""
        service.stack.enter()
        try:
            while True:
                yield event(latest(models_seen(service, headers, peer)))
                time.sleep(FRESH_S)
        except MillraceError as error:
            yield last_words(error)
        finally:
            service.stack.leave()

    @app.get("/v1/access")
    def _access() -> Response:
        reason = ""
        try:
            if g.key:
                check_role(g.key, CONTROL)
            if refusal := service.access.check(_headers(), g.caller):
                raise refusal
        except MillraceError as error:
            reason = str(error)
        has_runtime = service.settings.playground_assets is not None and service.settings.models is not None
        shown = schemas.Access(not reason, reason, jobs=service.jobs.is_on, device=has_runtime)
        return Response(msgspec.json.encode(shown), content_type="application/json")


def models_seen(service: Service, headers: Headers, peer: str) -> MaySee:
    """Which models that caller may see, None for all. Raises as `Gate.check` does."""
    key = service.gate.check(headers, peer, SEE) if service.gate else None
    return key.may_use if key and key.models is not None else None


def _may_see() -> MaySee:
    key = current.get()
    return key.may_use if key and key.models is not None else None


def _headers() -> Headers:
    return {name.lower().encode("latin-1"): value.encode("latin-1") for name, value in request.headers.items()}
