"""What orchestrators ask again and again, answered on the event loop: health, and whether a model is there.

Flask has the same routes for other WSGI servers, made of the same functions.
"""

import re
import time
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from millrace.protocol.errors import MillraceError, NotSupported
from serving.models.registry import AVAILABLE
from serving.protocols.oip import rest as oip
from serving.protocols.tfs import rest as tfs
from serving.service import Service
from serving.transport.request_head import RequestHead
from serving.transport.responses import HttpResponse, error_body, error_headers
from serving.web.page_files import INDEX, Page, wants_page

_JSON = ("content-type", "application/json")
_STATUS = "model_version_status"  # which tells of versions whatever their state
_V1_MODEL = re.compile(r"(?i)/v1/models/([^/:]+)(?:/versions/(\d{1,99})|/labels/([^/:]+))?/?")
_V2_READY = re.compile(r"/v2/models/([^/]+)(?:/versions/(\d{1,99}))?/ready/?")


def live() -> dict[str, Any]:
    """The body of `GET /v2/health/live`."""
    return {"live": True}


def ready(service: Service) -> dict[str, Any]:
    """The body of `GET /v2/health/ready`; 503 where it is not."""
    return {"ready": service.is_ready}


def model_ready(service: Service, name: str, version: int | None) -> dict[str, Any]:
    """The body of `GET /v2/models/NAME/ready`; 503 where it is not. Raises `ModelNotFound`."""
    states = [model.state for model in service.models.versions(name, version)]
    return {"name": name, "ready": service.producer.is_connected and AVAILABLE in states}


def model_status(service: Service, name: str, version: int | None, label: str | None) -> dict[str, Any]:
    """The body of `GET /v1/models/NAME`: TensorFlow Serving's, with the keys of KServe's v1 protocol beside it.

    Raises `ModelNotFound`.
    """
    versions = service.models.versions(name, version, label)
    is_ready = service.producer.is_connected and any(model.state == AVAILABLE for model in versions)
    return {**tfs.render_status(versions), "name": name, "ready": is_ready}


def status_of(body: dict[str, Any]) -> int:
    """The HTTP status of one of the above."""
    return 200 if body.get("ready", True) or _STATUS in body else 503


class Probes:
    """Answers the probes of one service, and the pages that are rendered already."""

    def __init__(self, service: Service, pages: Mapping[str, Page]) -> None:
        self._service = service
        self._pages = pages

    def has(self, head: RequestHead) -> bool:
        """Whether it answers that request."""
        path = head.path
        return head.method in ("GET", "HEAD") and (
            path.removesuffix("/") in _FIXED
            or self._page(head) is not None
            or bool(_V2_READY.fullmatch(path) or _V1_MODEL.fullmatch(path))
        )

    def respond(self, head: RequestHead) -> HttpResponse:
        """The response to a request that it `has`."""
        started = time.perf_counter()
        if page := self._page(head):
            return self._response(head, started, 200, page.body, (("content-type", page.content_type), *page.headers))
        try:
            body = self._body(head.path)
        except MillraceError as error:
            text = oip.error_text(error) if head.path.startswith("/v2") else tfs.status_error_text(error)
            return self._response(head, started, error.status, error_body(text), (_JSON, *error_headers(error)))
        status = status_of(body)
        headers = (_JSON, ("retry-after", "1")) if status == 503 else (_JSON,)
        return self._response(head, started, status, orjson.dumps(body), headers)

    def _page(self, head: RequestHead) -> Page | None:
        if head.path == "/":
            return self._pages.get(INDEX) if wants_page(head.headers) else None
        return self._pages.get(head.path)

    def _body(self, path: str) -> dict[str, Any]:
        if fixed := _FIXED.get(path.removesuffix("/")):
            return fixed(self._service)
        if match := _V2_READY.fullmatch(path):
            return model_ready(self._service, match[1], _number(match[2]))
        match = _V1_MODEL.fullmatch(path)
        if not match:
            raise NotSupported(f"{path} is no probe")
        name, version, label = match.groups()
        return model_status(self._service, name, _number(version), label)

    def _response(
        self, head: RequestHead, started: float, status: int, body: bytes, headers: tuple[tuple[str, str], ...]
    ) -> HttpResponse:
        service = self._service
        length = (("content-length", str(len(body))),) if head.method == "HEAD" else ()
        stamps = (
            ("x-request-id", service.request_id(head.headers)),
            ("server-timing", f"total;dur={(time.perf_counter() - started) * 1000:.3f}"),
        )
        return HttpResponse(status, body, (*headers, *stamps, *service.cors, *length))


_FIXED: dict[str, Callable[[Service], dict[str, Any]]] = {
    "/v2/health/live": lambda _service: live(),
    "/v2/health/ready": ready,
}


def _number(version: str | None) -> int | None:
    return None if version is None else int(version)
