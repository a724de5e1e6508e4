"""What a caller needs for each route: a key with a role, that is good for the model; for changes of models there are
the rules of `serving.access.control` besides.

All is decided on the route that Flask finds for a request, so there is no way of writing a path around it.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from flask import Flask, g, request
from werkzeug.exceptions import HTTPException
from werkzeug.routing import RequestRedirect

from millrace.protocol.errors import MillraceError
from serving.access import audit
from serving.access.callers import UNKNOWN, Caller
from serving.access.gate import (
    ANY,
    CONTROL,
    INFER,
    METRICS,
    READ,
    SEE,
    Gate,
    Key,
    check_model,
    check_role,
    current,
    name_of,
)
from serving.protocols.rest_calls import Headers
from serving.routing import target
from serving.service import Service
from serving.web.control_routes import ACTIONS
from serving.web.methods import MODEL_PATH
from serving.web.page_files import wants_page
from serving.web.pages import PATHS

# By the name of the route's function. () is open to all; a route that is not here is nobody's.
ROLES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("_live", "_ready", "_model_ready", "_asset", "_runtime", *PATHS), ()),
    **dict.fromkeys(("_index", "_server"), ANY),
    **dict.fromkeys(("_hot", "_model_file"), INFER),
    **dict.fromkeys(("_list", "_model", "_metadata", "_config", "_statistics", "_all_statistics"), SEE),
    **dict.fromkeys(("_repository_index", "_traffic", "_shared_memory"), SEE),
    **dict.fromkeys(("_stack", "_access", "_card", "_plot"), SEE),
    **dict.fromkeys(("_metrics", "_tensorflow_metrics"), METRICS),
    **dict.fromkeys(ACTIONS, CONTROL),
    "_list_jobs": READ,
    **dict.fromkeys(("_show_job", "_job_events", "_job_logs", "_job_result"), ("read", "infer")),
    **dict.fromkeys(("_submit_job", "_put_job", "_cancel_job", "_retry_job", "_delete_job"), INFER),
}
# Those that count against the limits of a key. A hot verb counts where it is executed.
_COUNTED = frozenset(("_submit_job", "_put_job", "_retry_job"))


class Route(NamedTuple):
    """The route that was found for a request, and what its path names."""

    name: str
    arguments: Mapping[str, Any]

    def model(self, path: str) -> str | None:
        """The model that the path names, None for none."""
        if self.name == "_hot":
            found = target(path)
            return found.model if found else None
        if self.name == "_model":
            match = MODEL_PATH.fullmatch(path)
            return match[1] if match else None
        return None if "kind" in self.arguments else self.arguments.get("name")


class RouteAccess:
    """Says of a request's head, before its body is read, whether its caller may do what the route does."""

    def __init__(self, app: Flask, service: Service) -> None:
        self._routes = app.url_map.bind("")
        self._service = service

    def check(self, method: str, path: str, headers: Headers, peer: str) -> MillraceError | None:
        """Why the caller may not, None where it may; what is refused of changes of models is recorded.

        `path` is decoded. `headers` have names in lower case, `peer` is the caller's address.
        """
        if method == "OPTIONS" or (method in ("GET", "HEAD") and self._service.gate is None):
            return None
        try:
            found = Route(*self._routes.match(path, method, return_rule=False))
        except (HTTPException, RequestRedirect):
            return None  # there is no such route
        try:
            _check(self._service, found, path, headers, peer, self._service.request_id(headers))
        except MillraceError as error:
            return error.with_traceback(None)
        return None


def check_request(service: Service) -> None:
    """The same for the request that Flask is about to answer, under whatever server.

    Raises `NotAuthenticated`, `NotAllowed`, `LimitReached`. The request counts against its key until `end_request`.
    """
    g.key = g.counted = None
    current.set(None)
    if not request.endpoint or request.method == "OPTIONS":
        return
    headers = {name.lower().encode("latin-1"): value.encode("latin-1") for name, value in request.headers.items()}
    found = Route(request.endpoint, request.view_args or {})
    peer = request.environ.get(PEER) or request.remote_addr or UNKNOWN
    g.key = _check(service, found, request.path, headers, peer, g.request_id)
    g.caller = Caller(str(peer), g.request_id, "http", name_of(g.key, peer))
    current.set(g.key)
    if service.gate and g.key and found.name in _COUNTED:
        service.gate.begin(g.key)
        g.counted = g.key


def end_request(gate: Gate | None, status: int) -> None:
    """The request has its response."""
    counted: Key | None = g.pop("counted", None)
    if gate and counted:
        gate.ended(counted, status)


PEER = "millrace.peer"  # in the environment under our own server: the caller's address, with its certificate's name


def _check(service: Service, found: Route, path: str, headers: Headers, peer: str, request_id: str) -> Key | None:
    """The caller's key, which may do that. Raises `NotAuthenticated`, `NotAllowed`."""
    action, model, key = ACTIONS.get(found.name), found.model(path), None
    caller = Caller(str(peer), request_id, "http")
    try:
        roles = () if found.name == "_index" and wants_page(headers) else ROLES.get(found.name, ("nobody",))
        if service.gate and roles:
            key = service.gate.identify(headers, peer)
            caller = caller._replace(name=name_of(key, peer))
            if key:
                check_role(key, roles)
            if key and model is not None:
                check_model(key, model)
        if action and (refusal := service.access.check(headers, caller)):
            raise refusal
    except MillraceError as error:
        error.request_id = request_id
        if action:
            audit.refused(error, caller, action, model or "")
        raise
    return key
