"""The Flask application: the whole API, so that it runs under any WSGI server.

Under our own server (`server.py`) the hot verbs never come here; the code that answers them is the same
(`service.py`).
"""

import asyncio
import re
import time
from collections.abc import Callable
from typing import Any

import orjson
from flask import Flask, Response, g, render_template, request
from werkzeug.exceptions import HTTPException, NotFound, RequestEntityTooLarge
from werkzeug.routing import BaseConverter

from millrace.protocol.errors import MillraceError
from serving.models.registry import AVAILABLE
from serving.monitoring import peer_metrics
from serving.protocols.oip import rest as oip
from serving.protocols.tfs import rest as tfs
from serving.service import Headers, Service, target
from serving.transport.intake import too_large
from serving.transport.responses import error_body, error_headers
from serving.web import control_routes, openapi

_MODEL = re.compile(r"(?i)/v1/models/([^/:]+)(?:/versions/(\d{1,19})|/labels/([^/:]+))?(/metadata)?")
_View = Callable[[str, int | None], Response]
_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


class _V1(BaseConverter):
    """The beginning of TensorFlow Serving's paths, which it matches in whatever case."""

    regex = "(?i:v1/models)"
    part_isolating = False


def create_app(service: Service, loop: asyncio.AbstractEventLoop) -> Flask:
    """The application. `loop` is the event loop that the service was started on, running in another thread."""
    app = Flask("serving.web", static_folder=None)
    app.url_map.converters["v1"] = _V1
    app.config["MAX_CONTENT_LENGTH"] = service.settings.max_body_bytes

    @app.before_request
    def _begin() -> Response | None:
        g.started = time.perf_counter()
        g.request_id = service.request_id(_headers())
        control_routes.check_request(service)
        is_preflight = request.method == "OPTIONS" and service.cors
        return Response() if is_preflight else None

    @app.after_request
    def _stamp(response: Response) -> Response:
        if "X-Request-Id" not in response.headers:
            response.headers["X-Request-Id"] = g.request_id
            response.headers["Server-Timing"] = f"total;dur={(time.perf_counter() - g.started) * 1000:.3f}"
            response.headers.extend(service.cors)
        return response

    @app.errorhandler(MillraceError)
    def _refused(error: MillraceError) -> Response:
        text = oip.error_text(error) if request.path.startswith("/v2") else tfs.status_error_text(error)
        response = _error(text, error.status)
        response.headers.extend(error_headers(error))
        return response

    @app.errorhandler(HTTPException)
    def _http_error(error: HTTPException) -> Response:
        if error.code in (404, 405) and _is_v1():
            return _malformed()
        if error.code == 404 and (refusal := oip.refusal(request.path)):
            return _refused(refusal)
        if isinstance(error, RequestEntityTooLarge):
            return _refused(too_large(service.settings))
        return _error(error.name, error.code or 500)

    @app.post("/<v1:_>/<path:_rest>")
    @app.post("/v2/models/<_name>/infer")
    @app.post("/v2/models/<_name>/versions/<int:_number>/infer")
    def _hot(**_: object) -> Response:
        if hot := target(request.path):
            answering = service.answer(hot, _headers(), request.get_data())
            answer = asyncio.run_coroutine_threadsafe(answering, loop).result()
            return Response(answer.body, answer.status, answer.headers)
        raise NotFound

    _add_tensorflow_serving(app, service)
    _add_open_inference(app, service)
    _add_operations(app, service)
    control_routes.add_routes(app, service, loop)
    return app


def _headers() -> Headers:
    return {name.lower().encode("latin-1"): value.encode("latin-1") for name, value in request.headers.items()}


def _json(value: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(value), status, content_type="application/json")


def _readiness(body: dict[str, Any]) -> Response:
    response = _json(body, 200 if body["ready"] else 503)
    if not body["ready"]:
        response.headers["Retry-After"] = "1"
    return response


def _error(text: str, status: int) -> Response:
    return Response(error_body(text), status, content_type="application/json")


def _is_v1() -> bool:
    return request.path[:4].lower() == "/v1/"


def _malformed() -> Response:
    return _error(f"Malformed request: {request.method} {request.path}", 400)


def _add_tensorflow_serving(app: Flask, service: Service) -> None:
    @app.get("/<v1:_>")
    def _list(**_: object) -> Response:
        return _json(tfs.render_list([service.models.versions(name) for name in service.models.names()]))

    @app.get("/<v1:_>/<path:_rest>")
    def _model(**_: object) -> Response:
        match = _MODEL.fullmatch(request.path)
        if not match:
            raise NotFound
        name, number, label, metadata = match.groups()
        version = None if number is None else int(number)
        if metadata:
            return _json(tfs.render_metadata(service.models.find(name, version, label)))
        return _json(tfs.render_status(service.models.versions(name, version, label)))


def _get_of_model(app: Flask, ending: str) -> Callable[[_View], _View]:
    """Decorates what answers GET for a model, and for one version of it."""

    def add(view: _View) -> _View:
        app.get(f"/v2/models/<name>{ending}", defaults={"number": None})(view)
        app.get(f"/v2/models/<name>/versions/<int:number>{ending}")(view)
        return view

    return add


def _add_open_inference(app: Flask, service: Service) -> None:
    @app.get("/v2")
    def _server() -> Response:
        return _json(oip.render_server())

    @app.get("/v2/health/live")
    def _live() -> Response:
        return _json({"live": True})

    @app.get("/v2/health/ready")
    def _ready() -> Response:
        return _readiness({"ready": service.is_ready})

    @app.get("/v2/models/stats")
    def _all_statistics() -> Response:
        return _json(service.statistics.render())

    @_get_of_model(app, "/stats")
    def _statistics(name: str, number: int | None) -> Response:
        return _json(service.statistics.render(name, number))

    @_get_of_model(app, "/config")
    def _config(name: str, number: int | None) -> Response:
        return _json(oip.render_config(service.models.find(name, number)))

    @_get_of_model(app, "")
    def _metadata(name: str, number: int | None) -> Response:
        model = service.models.find(name, number)
        return _json(oip.render_model(model, service.models.versions(name)))

    @_get_of_model(app, "/ready")
    def _model_ready(name: str, number: int | None) -> Response:
        states = [model.state for model in service.models.versions(name, number)]
        ready = service.producer.is_connected and AVAILABLE in states
        return _readiness({"name": name, "ready": ready})

    @app.get("/v2/<any(systemsharedmemory, cudasharedmemory):_>/status")
    def _shared_memory(**_: object) -> Response:
        return _json([])  # as in Triton where no region is registered, and here none ever is


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
        text = service.metrics.render() + peer_metrics.triton(service.metrics.versions)
        return Response(text, content_type=_PROMETHEUS)

    @app.get("/monitoring/prometheus/metrics")
    def _tensorflow_metrics() -> Response:
        return Response(peer_metrics.tensorflow(service.metrics.versions), content_type=_PROMETHEUS)
