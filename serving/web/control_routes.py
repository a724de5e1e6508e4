"""The routes by which operators change what the models do at run time: Triton's model repository, and our own verbs.

The bodies are the types of `schemas.py`, which validate them and are the OpenAPI document's. Who may change something
is decided in `route_access.py`.
"""

import asyncio
import threading
from collections.abc import Coroutine
from operator import attrgetter
from typing import Any, TypeVar

import msgspec
from flask import Flask, Response, g, request
from msgspec import UNSET

from millrace.protocol.desired_state import DesiredState, Rollout, Shadow, VersionPolicy
from millrace.protocol.errors import InvalidRequest, NotSupported, Unavailable
from serving.access.callers import Caller
from serving.access.gate import visible
from serving.models.model_control import IndexEntry
from serving.service import Service
from serving.web import schemas

_MOST_WAITING = 2  # of Flask's few threads; the others answer whether the server is alive
_Body = TypeVar("_Body")
# What each route that changes something does, by its function's name, as the record has it.
ACTIONS = {
    "_load": "load",
    "_unload": "unload",
    "_set_traffic": "traffic",
    "_set_label": "label",
    "_remove_label": "remove label",
    "_set_policy": "policy",
    "_remove_policy": "policy",
}


def add_routes(app: Flask, service: Service, loop: asyncio.AbstractEventLoop) -> None:
    """Add the routes. `loop` is the event loop that the service was started on."""
    changes = _Changes(loop)
    _add_repository(app, service, changes)
    _add_traffic(app, service, changes)


def _caller() -> Caller:
    caller: Caller = g.caller
    return caller


class _Changes:
    """Makes changes on the event loop, for Flask's threads."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting = threading.BoundedSemaphore(_MOST_WAITING)

    def make(self, change: Coroutine[Any, Any, None]) -> None:
        """Make a change that waits for nobody."""
        asyncio.run_coroutine_threadsafe(change, self._loop).result()

    def wait_for(self, change: Coroutine[Any, Any, None]) -> None:
        """Make a change that waits for the workers. Raises `Unavailable` where too many are waited for."""
        if not self._waiting.acquire(blocking=False):
            change.close()
            raise Unavailable("other changes are still waited for; try again when they are done")
        try:
            self.make(change)
        finally:
            self._waiting.release()


def _add_repository(app: Flask, service: Service, changes: _Changes) -> None:
    repository = service.repository

    @app.post("/v2/repository/index")
    def _repository_index() -> Response:
        wanted = _read(schemas.IndexRequest, empty=b"{}")
        found = visible(repository.index(ready=wanted.ready), attrgetter("name"))
        return _json([_index_entry(entry) for entry in found])

    @app.post("/v2/repository/models/<name>/load")
    def _load(name: str) -> Response:
        for parameter in _read(schemas.LoadRequest, empty=b"{}").parameters:
            raise NotSupported(
                f"the load parameter '{parameter[:100]}' is not supported: a model's configuration and files cannot be "
                "sent; put them into the model repository"
            )
        changes.wait_for(repository.load(name, caller=_caller()))
        return Response()

    @app.post("/v2/repository/models/<name>/unload")
    def _unload(name: str) -> Response:
        _read(schemas.UnloadRequest, empty=b"{}")  # no model depends on another, so there are no dependents to unload
        changes.wait_for(repository.unload(name, caller=_caller()))
        return Response()


def _add_traffic(app: Flask, service: Service, changes: _Changes) -> None:
    repository = service.repository

    def now(name: str) -> Response:
        return _json(_shown(repository.control(name), service.models.labels(name)))

    @app.get("/v1/models/<name>/traffic")
    def _traffic(name: str) -> Response:
        return now(name)

    @app.put("/v1/models/<name>/traffic")
    def _set_traffic(name: str) -> Response:
        wanted = _read(schemas.Traffic)
        shadow = _shadow(wanted.shadow)
        rollout = _rollout(wanted.rollout) if wanted.rollout else None
        changes.make(repository.set_traffic(name, _weights(wanted.weights), shadow, rollout, caller=_caller()))
        return now(name)

    @app.put("/v1/models/<name>/labels/<label>")
    def _set_label(name: str, label: str) -> Response:
        version = _read(schemas.LabelledVersion).version
        changes.make(repository.set_label(name, label, version, caller=_caller()))
        return now(name)

    @app.delete("/v1/models/<name>/labels/<label>")
    def _remove_label(name: str, label: str) -> Response:
        changes.make(repository.remove_label(name, label, caller=_caller()))
        return now(name)

    @app.put("/v1/models/<name>/policy")
    def _set_policy(name: str) -> Response:
        policy = _policy(_read(schemas.Policy))
        changes.wait_for(repository.set_policy(name, policy, caller=_caller()))
        return now(name)

    @app.delete("/v1/models/<name>/policy")
    def _remove_policy(name: str) -> Response:
        changes.wait_for(repository.set_policy(name, None, caller=_caller()))
        return now(name)


def _index_entry(entry: IndexEntry) -> dict[str, Any]:
    """As Triton has it; what it has no words for only where that says something."""
    shown = entry._asdict()
    return shown if entry.notes else {name: shown[name] for name in ("name", "version", "state", "reason")}


def _json(value: Any) -> Response:
    return Response(msgspec.json.encode(value), content_type="application/json")


def _read(body: type[_Body], *, empty: bytes = b"") -> _Body:
    """The request's body as that type, `empty` in the place of none. Raises `InvalidRequest`."""
    try:
        return msgspec.json.decode(request.get_data() or empty, type=body)
    except (ValueError, RecursionError) as error:  # no JSON, of another form, no UTF-8, or nested too deep
        if body is schemas.IndexRequest and str(error).endswith("`$.ready`"):
            raise InvalidRequest("Invalid value for 'ready': expected a boolean") from error
        raise InvalidRequest(f"failed to parse the request JSON buffer: {error}") from error


def _weights(weights: dict[str, float]) -> dict[int, float]:
    wrong = [version for version in weights if not (version.isascii() and version.isdigit() and len(version) < 20)]
    if wrong:
        raise InvalidRequest(f"the keys of 'weights' are versions, got {wrong[0][:100]!r}")
    return {int(version): weight for version, weight in weights.items()}


def _shadow(shadow: schemas.ShadowVersion | None) -> Shadow | None:
    return Shadow(shadow.version, shadow.percent) if shadow else None


def _rollout(record: schemas.RolloutRecord) -> Rollout:
    return Rollout(
        version=record.version,
        state=record.state,
        steps=tuple(record.steps),
        step=record.step,
        promote_if=record.promote_if,
        every_s=record.every_s,
        weights_before=_weights(record.weights_before),
        shadow_before=_shadow(record.shadow_before),
        reason=record.reason,
    )


def _policy(policy: schemas.Policy) -> VersionPolicy:
    if sum(choice is not UNSET for choice in (policy.latest, policy.all, policy.specific)) != 1:
        raise InvalidRequest("a policy is one of 'latest', 'all' and 'specific'")
    if policy.latest:
        return VersionPolicy(latest=policy.latest.num_versions)
    return VersionPolicy(specific=tuple(policy.specific.versions)) if policy.specific else VersionPolicy(latest=0)


def _shown(control: DesiredState, labels: dict[str, int]) -> schemas.ModelTraffic:
    return schemas.ModelTraffic(
        is_loaded=control.is_loaded,
        generation=control.generation,
        labels=labels,
        weights=_shown_weights(control.weights),
        shadow=_shown_shadow(control.shadow),
        policy=_shown_policy(control.policy) if control.policy else None,
        rollout=_shown_rollout(control.rollout) if control.rollout else None,
    )


def _shown_weights(weights: dict[int, float]) -> dict[str, float]:
    return {str(version): weight for version, weight in weights.items()}


def _shown_shadow(shadow: Shadow | None) -> schemas.ShadowVersion | None:
    return schemas.ShadowVersion(shadow.version, shadow.percent) if shadow else None


def _shown_rollout(rollout: Rollout) -> schemas.RolloutRecord:
    return schemas.RolloutRecord(
        version=rollout.version,
        state=rollout.state,  # type: ignore[arg-type]  # it was written as one of these
        steps=list(rollout.steps),
        step=rollout.step,
        promote_if=rollout.promote_if,
        every_s=rollout.every_s,
        weights_before=_shown_weights(rollout.weights_before),
        shadow_before=_shown_shadow(rollout.shadow_before),
        reason=rollout.reason,
    )


def _shown_policy(policy: VersionPolicy) -> schemas.Policy:
    if policy.specific:
        return schemas.Policy(specific=schemas.SpecificVersions(list(policy.specific)))
    if policy.latest:
        return schemas.Policy(latest=schemas.LatestVersions(policy.latest))
    return schemas.Policy(all=schemas.AllVersions())
