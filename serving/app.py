"""The Flask application: the whole API, so that it runs under any WSGI server.

Under our own server (`server.py`) the two hot verbs never come here; the code that answers them is the same
(`service.py`).
"""

import asyncio
import re
import time
from typing import Any

import orjson
from flask import Flask, Response, g, render_template, request
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from millrace.protocol.errors import MillraceError, NotSupported
from serving import oip, openapi, tfs
from serving.answers import error_body, retry_after
from serving.intake import too_large
from serving.models import AVAILABLE
from serving.service import Headers, Service, target

_MODEL = re.compile(r"(?i)/v1/models/([^/:]+)(?:/versions/(\d{1,19})|/labels/([^/:]+))?(/metadata)?")
_OTHER_VERB = re.compile(r"(?i)/v1/models/[^/:]+(?:/versions/\d+|/labels/[^/:]+)?:(classify|regress)")


def create_app(service: Service, loop: asyncio.AbstractEventLoop) -> Flask:
    """The application. `loop` is the event loop that the service was started on, running in another thread."""
    app = Flask("serving", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = service.settings.max_body_bytes

    @app.before_request
    def _begin() -> None:
        g.started = time.perf_counter()

    @app.after_request
    def _stamp(response: Response) -> Response:
        if "X-Request-Id" not in response.headers:
            response.headers["X-Request-Id"] = service.request_id(_headers())
            response.headers["Server-Timing"] = f"total;dur={(time.perf_counter() - g.started) * 1000:.3f}"
        return response

    @app.errorhandler(MillraceError)
    def _refused(error: MillraceError) -> Response:
        text = oip.error_text(error) if request.path.startswith("/v2") else tfs.status_error_text(error)
        response = _error(text, error.status)
        response.headers.extend(retry_after(error))
        return response

    @app.errorhandler(HTTPException)
    def _http_error(error: HTTPException) -> Response:
        if request.path.startswith("/v1/") and error.code in (404, 405):
            return _unknown()
        if error.code == 405 and request.path.startswith("/v2/models/") and not target(request.path):
            return _unknown()  # the route that takes every POST makes Flask think that the path is there
        if isinstance(error, RequestEntityTooLarge):
            return _refused(too_large(service.settings))
        return _error(error.name, error.code or 500)

    @app.post("/v1/models/<path:rest>")
    @app.post("/v2/models/<path:rest>")
    def _hot(rest: str) -> Response:  # noqa: ARG001 - Flask passes it; the verb is in the whole path
        if hot := target(request.path):
            answering = service.answer(hot, _headers(), request.get_data())
            answer = asyncio.run_coroutine_threadsafe(answering, loop).result()
            return Response(answer.body, answer.status, answer.headers)
        if match := _OTHER_VERB.fullmatch(request.path):
            raise NotSupported(f"the verb {match[1].lower()} is not supported; use predict")
        return _unknown()

    _add_tensorflow_serving(app, service)
    _add_open_inference(app, service)
    _add_operations(app, service)
    return app


def _headers() -> Headers:
    return {name.lower().encode("latin-1"): value.encode("latin-1") for name, value in request.headers.items()}


def _json(value: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(value), status, content_type="application/json")


def _error(text: str, status: int) -> Response:
    return Response(error_body(text), status, content_type="application/json")


def _unknown() -> Response:
    if request.path.startswith("/v1/"):
        return _error(f"Malformed request: {request.method} {request.path}", 400)
    return _error("Not Found", 404)


def _add_tensorflow_serving(app: Flask, service: Service) -> None:
    @app.get("/v1/models")
    def _list() -> Response:
        return _json(tfs.render_list([service.models.versions(name) for name in service.models.names()]))

    @app.get("/v1/models/<path:rest>")
    def _model(rest: str) -> Response:  # noqa: ARG001 - as above
        match = _MODEL.fullmatch(request.path)
        if not match:
            return _unknown()
        name, number, label, metadata = match.groups()
        version = None if number is None else int(number)
        if metadata:
            return _json(tfs.render_metadata(service.models.find(name, version, label)))
        return _json(tfs.render_status(service.models.versions(name, version, label)))


def _add_open_inference(app: Flask, service: Service) -> None:
    @app.get("/v2")
    def _server() -> Response:
        return _json(oip.render_server())

    @app.get("/v2/health/live")
    def _live() -> Response:
        return _json({"live": True})

    @app.get("/v2/health/ready")
    def _ready() -> Response:
        return _json({"ready": service.is_ready}, 200 if service.is_ready else 503)

    @app.get("/v2/models/<name>", defaults={"number": None})
    @app.get("/v2/models/<name>/versions/<int:number>")
    def _metadata(name: str, number: int | None) -> Response:
        model = service.models.find(name, number)
        return _json(oip.render_model(model, service.models.versions(name)))

    @app.get("/v2/models/<name>/ready", defaults={"number": None})
    @app.get("/v2/models/<name>/versions/<int:number>/ready")
    def _model_ready(name: str, number: int | None) -> Response:
        states = [model.state for model in service.models.versions(name, number)]
        ready = service.producer.is_connected and AVAILABLE in states
        return _json({"name": name, "ready": ready}, 200 if ready else 503)


def _add_operations(app: Flask, service: Service) -> None:
    @app.get("/")
    def _index() -> Response:
        return _json(oip.render_server() | {"models": service.models.names()})

    @app.get("/openapi.json")
    def _openapi() -> Response:
        return _json(openapi.document())

    @app.get("/docs")
    def _docs() -> str:
        return render_template("docs.html", document=openapi.document())

    @app.get("/metrics")
    def _metrics() -> Response:
        return Response(service.metrics.render(), content_type="text/plain; version=0.0.4; charset=utf-8")
