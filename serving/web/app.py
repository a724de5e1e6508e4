"""The Flask application: the whole API, so that it runs under any WSGI server.

Under our own server (`server.py`) the hot verbs never come here; the code that answers them is the same
(`service.py`).
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from functools import partial
from operator import itemgetter
from typing import Any

import orjson
from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException, NotFound, RequestEntityTooLarge
from werkzeug.routing import BaseConverter

from millrace.protocol.errors import MillraceError, Unavailable
from serving.access.gate import visible
from serving.monitoring import gauges, metrics, peer_metrics
from serving.monitoring.counts import Counts
from serving.monitoring.depths import Seen
from serving.protocols.oip import rest as oip
from serving.protocols.oip.config import render_config
from serving.protocols.rest_calls import Headers
from serving.protocols.tfs import rest as tfs
from serving.routing import target
from serving.service import Service
from serving.transport.intake import too_large
from serving.transport.responses import HttpResponse, error_body, error_headers
from serving.web import card_routes, control_routes, device_routes, jobs_routes, probes, route_access, stack_routes
from serving.web.methods import MODEL_PATH, allowed_methods
from serving.web.page_files import INDEX, PREFIX, Page, wants_page
from serving.web.pages import PATHS, render_pages
from serving.web.plain_bodies import PlainBodies

_View = Callable[[str, int | None], Response]
PAGES = "millrace.pages"  # the name of the rendered pages among the application's extensions
_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


class _V1(BaseConverter):
    """The beginning of TensorFlow Serving's paths, which it matches in whatever case."""

    regex = "(?i:v1/models)"
    part_isolating = False


def create_app(service: Service, loop: asyncio.AbstractEventLoop) -> Flask:
    """The application. `loop` is the event loop that the service was started on, running in another thread."""
    app = Flask("serving.web", static_folder=None)
    app.url_map.converters["v1"] = _V1
    # Each path is one path or none: a redirect would tell callers to ask whatever host they named.
    app.url_map.merge_slashes = app.url_map.redirect_defaults = app.url_map.strict_slashes = False
    app.wsgi_app = PlainBodies(app.wsgi_app, service.settings.max_body_bytes)  # type: ignore[method-assign]
    app.config["MAX_CONTENT_LENGTH"] = service.settings.max_body_bytes

    @app.before_request
    def _begin() -> Response | None:
        g.started = time.perf_counter()
        g.request_id = service.request_id(_headers())
        route_access.check_request(service)
        return _early_response(app, service)

    @app.after_request
    def _stamp(response: Response) -> Response:
        route_access.end_request(service.gate, response.status_code)
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
        response = _error(error.name, error.code or 500)
        if error.code == 405:
            response.headers["Allow"] = ", ".join(allowed_methods(app, request.path))
        return response

    @app.post("/<v1:_>/<path:_rest>")
    @app.post("/v2/models/<_name>/infer")
    @app.post("/v2/models/<_name>/versions/<int:_number>/infer")
    def _hot(**_: object) -> Response:
        if hot := target(request.path):
            answering = service.rest.answer(hot, _headers(), request.get_data(), request.remote_addr or "")
            return _response(asyncio.run_coroutine_threadsafe(answering, loop).result())
        raise NotFound

    _add_tensorflow_serving(app, service)
    counts = partial(_counts, service, loop)
    _add_open_inference(app, service, counts)
    _add_operations(app, service, counts, partial(_seen, service, loop))
    control_routes.add_routes(app, service, loop)
    card_routes.add_routes(app, service)
    device_routes.add_routes(app, service)
    stack_routes.add_routes(app, service, loop)
    jobs_routes.add_routes(app, service)
    return app


def _response(answer: HttpResponse) -> Response:
    body = answer.body
    if answer.spooled:
        body = answer.spooled.read()
        answer.spooled.close()
    return Response(body, answer.status, answer.headers)


def _early_response(app: Flask, service: Service) -> Response | None:
    """The response to OPTIONS: the path's methods; to a browser's preflight, where pages may call, for every path.

    Raises `NotFound` for a path with two slashes in front, which Flask takes for one.
    """
    if request.environ["PATH_INFO"].startswith("//"):
        raise NotFound
    if request.method != "OPTIONS":
        return None
    allowed = allowed_methods(app, request.path)
    if not allowed and not service.cors:
        return None
    return Response(headers={"Allow": ", ".join(allowed)} if allowed else {})


def _headers() -> Headers:
    return {name.lower().encode("latin-1"): value.encode("latin-1") for name, value in request.headers.items()}


def _json(value: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(value), status, content_type="application/json")


def _readiness(body: dict[str, Any]) -> Response:
    response = _json(body, probes.status_of(body))
    if response.status_code == 503:
        response.headers["Retry-After"] = "1"
    return response


def _error(text: str, status: int) -> Response:
    return Response(error_body(text), status, content_type="application/json")


def _is_v1() -> bool:
    return request.path[:4].lower() == "/v1/" and not request.path.startswith("/v1/jobs")


def _malformed() -> Response:
    return _error(f"Malformed request: {request.method} {request.path}", 400)


def _add_tensorflow_serving(app: Flask, service: Service) -> None:
    @app.get("/<v1:_>")
    def _list(**_: object) -> Response:
        return _json(tfs.render_list([service.models.versions(name) for name in _names(service)]))

    @app.get("/<v1:_>/<path:_rest>")
    def _model(**_: object) -> Response:
        match = MODEL_PATH.fullmatch(request.path)
        if not match:
            raise NotFound
        name, number, label, metadata = match.groups()
        version = None if number is None else int(number)
        if metadata:
            return _json(tfs.render_metadata(service.models.find(name, version, label)))
        return _json(probes.model_status(service, name, version, label))


def _get_of_model(app: Flask, ending: str) -> Callable[[_View], _View]:
    """Decorates what answers GET for a model, and for one version of it."""

    def add(view: _View) -> _View:
        app.get(f"/v2/models/<name>{ending}", defaults={"number": None})(view)
        app.get(f"/v2/models/<name>/versions/<int:number>{ending}")(view)
        return view

    return add


def _counts(service: Service, loop: asyncio.AbstractEventLoop) -> Counts:
    """What all API processes have counted."""
    return asyncio.run_coroutine_threadsafe(service.siblings.total(), loop).result()


def _seen(service: Service, loop: asyncio.AbstractEventLoop) -> Seen:
    """What waits in the queues."""
    return asyncio.run_coroutine_threadsafe(service.depths.read(), loop).result()


def _add_open_inference(app: Flask, service: Service, counts: Callable[[], Counts]) -> None:
    @app.get("/v2")
    def _server() -> Response:
        return _json(oip.render_server())

    @app.get("/v2/health/live")
    def _live() -> Response:
        return _json(probes.live())

    @app.get("/v2/health/ready")
    def _ready() -> Response:
        return _readiness(probes.ready(service))

    @app.get("/v2/models/stats")
    def _all_statistics() -> Response:
        document = service.statistics.render(counts())
        return _json({"model_stats": visible(document["model_stats"], itemgetter("name"))})

    @_get_of_model(app, "/stats")
    def _statistics(name: str, number: int | None) -> Response:
        return _json(service.statistics.render(counts(), name, number))

    @_get_of_model(app, "/config")
    def _config(name: str, number: int | None) -> Response:
        return _json(render_config(service.models.find(name, number)))

    @_get_of_model(app, "")
    def _metadata(name: str, number: int | None) -> Response:
        model = service.models.find(name, number)
        return _json(oip.render_model(model, service.models.versions(name)))

    @_get_of_model(app, "/ready")
    def _model_ready(name: str, number: int | None) -> Response:
        return _readiness(probes.model_ready(service, name, number))

    @app.get("/v2/<any(systemsharedmemory, cudasharedmemory):kind>/status")
    @app.get("/v2/<any(systemsharedmemory, cudasharedmemory):kind>/region/<name>/status")
    def _shared_memory(kind: str, name: str = "") -> Response:
        oip.check_no_region(kind.removesuffix("sharedmemory"), name)
        return _json([])  # as in Triton where no region is registered, and here none ever is


def _names(service: Service) -> list[str]:
    """The models that the caller may see."""
    return visible(service.models.names(), str)


def _page(page: Page) -> Response:
    return Response(page.body, content_type=page.content_type, headers=page.headers)


def _add_operations(app: Flask, service: Service, counts: Callable[[], Counts], seen: Callable[[], Seen]) -> None:
    pages = app.extensions[PAGES] = render_pages(
        app, playground=service.settings.playground, wasm=service.settings.playground_assets is not None
    )

    @app.get("/")
    def _index() -> Response:
        if INDEX in pages and wants_page(_headers()):
            return _page(pages[INDEX])
        models: list[str] = []
        with contextlib.suppress(Unavailable):  # it is not known yet which there are
            models = _names(service)
        # `status` is what clients of KServe's v1 protocol look at.
        response = _json({"status": "alive", **oip.render_server(), "models": models, "docs": "/docs"})
        response.headers["Vary"] = "Accept"
        return response

    for path in PATHS:
        app.get(path, endpoint=path)(partial(_page, pages[path]))

    @app.get(f"{PREFIX}<file>")
    def _asset(file: str) -> Response:
        if PREFIX + file not in pages:
            raise NotFound
        return _page(pages[PREFIX + file])

    @app.get("/metrics")
    def _metrics() -> Response:
        found = counts()
        text = metrics.render(found, service.worker_counts()) + peer_metrics.triton(found.versions)
        text += gauges.render(found, seen(), service.producer.workers)
        text += service.jobs.metrics.render() if service.jobs.metrics else b""
        return Response(text, content_type=_PROMETHEUS)

    @app.get("/monitoring/prometheus/metrics")
    def _tensorflow_metrics() -> Response:
        return Response(peer_metrics.tensorflow(counts().versions), content_type=_PROMETHEUS)
