"""The routes of background jobs, `/v1/jobs`: submit, watch, cancel, retry, fetch."""

import queue
from collections.abc import Iterator
from typing import Any, get_args

import orjson
from flask import Flask, Response, request
from werkzeug.wsgi import wrap_file

from millrace.jobs.documents import read_document
from millrace.jobs.records import JobRecord, State
from millrace.protocol.errors import InvalidRequest, MillraceError
from serving.access.gate import current, visible
from serving.access.pages import page_error
from serving.jobs.access import check_document, check_record, model_of
from serving.jobs.events import BEAT, BEAT_S, MEDIA, last_words
from serving.jobs.form import JobForm
from serving.jobs.shown import event, path_of, show
from serving.service import Service
from serving.web.flask_threads import RECEIVED

_PIECE_BYTES = 64 * 1024
_MOST_LISTED = 1000


def add_routes(app: Flask, service: Service) -> None:
    """Add the routes."""
    _add_submission(app, service)
    _add_reading(app, service)
    _add_changes(app, service)


def _add_submission(app: Flask, service: Service) -> None:
    @app.post("/v1/jobs")
    def _submit_job() -> Response:
        return _submit(service, None)

    @app.put("/v1/jobs/<job>")
    def _put_job(job: str) -> Response:
        return _submit(service, job)


def _add_reading(app: Flask, service: Service) -> None:
    @app.get("/v1/jobs")
    def _list_jobs() -> Response:
        found = visible(service.jobs.store.list(limit=_limit(), states=_states()), model_of)
        return _json({"jobs": [show(record) for record in found]})

    @app.get("/v1/jobs/<job>")
    def _show_job(job: str) -> Response:
        if MEDIA in request.headers.get("Accept", ""):
            return _watch(service, job)
        _own(service, job)
        return _json(show(service.jobs.store.get(job)))

    @app.get("/v1/jobs/<job>/events")
    def _job_events(job: str) -> Response:
        return _watch(service, job)

    @app.get("/v1/jobs/<job>/logs")
    def _job_logs(job: str) -> Response:
        _own(service, job)
        lines = service.jobs.store.logs(job)
        return _json({"lines": [{"time_s": line.time_s, "text": line.text} for line in lines]})

    @app.get("/v1/jobs/<job>/result")
    def _job_result(job: str) -> Response:
        _own(service, job)
        result = service.jobs.store.open_result(job, request.args.get("name"))
        response = Response(wrap_file(request.environ, result.path.open("rb")), direct_passthrough=True)
        response.content_length = result.size
        response.content_type = "application/octet-stream"
        response.headers.set("Content-Disposition", "attachment", filename=result.name)
        return response


def _add_changes(app: Flask, service: Service) -> None:
    def check_page() -> None:
        headers = {name.lower().encode("latin-1"): value.encode("latin-1") for name, value in request.headers.items()}
        if refusal := page_error(headers, service.settings.cors_origin, "jobs"):
            raise refusal

    @app.post("/v1/jobs/<job>/cancel")
    def _cancel_job(job: str) -> Response:
        check_page()
        _own(service, job)
        return _json(show(service.jobs.store.cancel(job)))

    @app.post("/v1/jobs/<job>/retry")
    def _retry_job(job: str) -> Response:
        check_page()
        _own(service, job)
        return _json(show(service.jobs.store.retry(job)), 202)

    @app.delete("/v1/jobs/<job>")
    def _delete_job(job: str) -> Response:
        check_page()
        _own(service, job)
        store = service.jobs.store
        if not store.get(job).is_final:
            return _json(show(store.cancel(job)))
        store.delete(job)
        return Response(status=204)


def _own(service: Service, job: str) -> None:
    """Raises `NotAllowed` where the caller's key is not good for the job, and `NotFound`."""
    if key := current.get():
        check_record(key, service.jobs.store.get(job))


def _submit(service: Service, job: str | None) -> Response:
    """Make a job of the body. What was uploaded goes where the job does, and away with a job that is refused."""
    headers = {name.lower().encode("latin-1"): value.encode("latin-1") for name, value in request.headers.items()}
    if refusal := page_error(headers, service.settings.cors_origin, "jobs"):
        raise refusal
    store = service.jobs.store
    form = request.environ.get(RECEIVED) or _receive(service)
    try:
        document = read_document(form.document(), store.kinds())
        check_document(current.get(), document)
        record = store.submit(document, id=job, upload=form.upload())
    finally:
        form.close()
    response = _json(show(record), 202)
    response.headers["Location"] = path_of(record.id)
    return response


def _receive(service: Service) -> JobForm:
    request.max_content_length = service.jobs.max_body_bytes
    form = service.jobs.form(request.headers.get("Content-Type", ""))
    try:
        while piece := request.stream.read(_PIECE_BYTES):
            form.write(piece)
    except BaseException:
        form.close()
        raise
    return form


def _watch(service: Service, job: str) -> Response:
    """Events for other WSGI servers; our own sends them without a thread (`serving.jobs.events`)."""
    _own(service, job)
    service.jobs.store.get(job)
    return Response(_events(service, job), content_type=MEDIA, headers={"Cache-Control": "no-store"})


def _events(service: Service, job: str) -> Iterator[bytes]:
    told: queue.SimpleQueue[JobRecord | MillraceError] = queue.SimpleQueue()
    watching = service.jobs.watching
    if watching is None:
        return
    watcher = watching.watch(job, told.put)
    try:
        while True:
            try:
                found = told.get(timeout=BEAT_S)
            except queue.Empty:
                yield BEAT
                continue
            if isinstance(found, MillraceError):
                yield last_words(found)
                return
            yield event(found)
            if found.is_final:
                return
    finally:
        watching.leave(watcher)


def _json(value: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(value), status, content_type="application/json")


def _limit() -> int:
    given = request.args.get("limit", "100")
    if not given.isdigit() or not 1 <= int(given) <= _MOST_LISTED:
        raise InvalidRequest(f"limit: must be a number from 1 to {_MOST_LISTED}")
    return int(given)


def _states() -> list[State]:
    given = [state for part in request.args.getlist("state") for state in part.split(",")]
    for state in given:
        if state not in get_args(State):
            raise InvalidRequest(f"state: {state[:100]!r} is none of {', '.join(get_args(State))}")
    return given  # type: ignore[return-value]
