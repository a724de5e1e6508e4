"""Flask beside the event loop: its requests are answered in a few threads, and a bounded number of them waits."""

import asyncio
import io
import logging
import queue
import sys
import threading
from dataclasses import dataclass

from flask import Flask
from werkzeug.test import run_wsgi_app

from millrace.protocol.errors import Unavailable
from serving.transport.handler import Done, Withdraw
from serving.transport.intake import Body
from serving.transport.request_head import RequestHead
from serving.transport.responses import HttpResponse, error_response

_log = logging.getLogger(__name__)
_THREADS = 4
_MOST_WAITING = 64


@dataclass(slots=True)
class _Job:
    """One request. `is_gone` says that its caller has left."""

    head: RequestHead
    body: Body
    peer: str
    done: Done
    is_gone: bool = False

    def withdraw(self) -> None:
        """The caller has left: the request is not begun any more, and its response goes nowhere."""
        self.is_gone = True


class FlaskThreads:
    """Runs a Flask application for an event loop. Its threads end with the process, whatever they wait for."""

    def __init__(self, app: Flask, loop: asyncio.AbstractEventLoop) -> None:
        self._app = app
        self._loop = loop
        self._waiting: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._open = 0
        for number in range(_THREADS):
            threading.Thread(target=self._work, name=f"flask-{number}", daemon=True).start()

    @property
    def has_room(self) -> bool:
        """Whether another request may come."""
        return self._open < _THREADS + _MOST_WAITING

    def handle(self, head: RequestHead, body: Body, peer: str, done: Done) -> Withdraw:
        """Answer the request by calling `done` on the event loop. Raises `Unavailable` where too many wait."""
        if not self.has_room:
            raise Unavailable("too many requests wait to be answered; try again")
        self._open += 1
        job = _Job(head, body, peer, done)
        self._waiting.put(job)
        return job.withdraw

    def _work(self) -> None:
        while True:
            job = self._waiting.get()
            response = None if job.is_gone else self._answer(job)
            try:
                self._loop.call_soon_threadsafe(self._deliver, job, response)
            except RuntimeError:  # the loop is closed: the process ends
                return
            del job, response

    def _answer(self, job: _Job) -> HttpResponse:
        try:
            return self._run(job)
        except Exception:
            _log.exception("a request failed")
            return error_response(500, "internal error; the server's log has it")

    def _run(self, job: _Job) -> HttpResponse:
        body = job.body if isinstance(job.body, bytes) else job.body.read()
        environ = _environ(job.head, body, job.peer)
        parts, status, headers = run_wsgi_app(self._app.wsgi_app, environ, buffered=True)
        is_head = job.head.method == "HEAD"
        kept = [(name, value) for name, value in headers if name.lower() != "content-length" or is_head]
        return HttpResponse(int(status.split()[0]), b"".join(parts), tuple(kept))

    def _deliver(self, job: _Job, response: HttpResponse | None) -> None:
        self._open -= 1
        if response and not job.is_gone:
            job.done(response)


def _environ(head: RequestHead, body: bytes, peer: str) -> dict[str, object]:
    """The request as PEP 3333 wants it."""
    host, _, port = head.headers.get(b"host", b"localhost").decode("latin-1").rpartition(":")
    environ: dict[str, object] = {
        "REQUEST_METHOD": head.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": head.path.encode().decode("latin-1"),
        "QUERY_STRING": head.query,
        "REMOTE_ADDR": peer,
        "SERVER_NAME": host or port,
        "SERVER_PORT": port if host else "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    for name, value in head.headers.items():
        key = name.decode("latin-1").upper().replace("-", "_")
        if key == "CONTENT_TYPE":
            environ[key] = value.decode("latin-1")
        elif key not in ("CONTENT_LENGTH", "TRANSFER_ENCODING"):
            environ[f"HTTP_{key}"] = value.decode("latin-1")
    return environ
