"""Flask beside the event loop: its requests are answered in a few threads, and a bounded number of them waits."""

import asyncio
import io
import logging
import os
import queue
import sys
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO

from flask import Flask
from werkzeug.test import run_wsgi_app

from millrace.protocol.errors import Unavailable
from serving.transport.handler import Done, Withdraw
from serving.transport.intake import Body
from serving.transport.request_head import RequestHead
from serving.transport.responses import HttpResponse, error_response
from serving.transport.spooled_body import SpooledBody
from serving.transport.streamed_body import Receiver
from serving.web.route_access import PEER

_log = logging.getLogger(__name__)
RECEIVED = "millrace.received"  # in the environment: what has received the request's body as it came, or None
_THREADS = 4
_MOST_WAITING = 64


@dataclass(slots=True)
class _Job:
    """One request. `is_gone` says that its caller has left."""

    head: RequestHead
    body: Body
    peer: str
    done: Done
    received: Receiver | None = None
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

    def handle(
        self, head: RequestHead, body: Body, peer: str, done: Done, received: Receiver | None = None
    ) -> Withdraw:
        """Answer the request by calling `done` on the event loop. Raises `Unavailable` where too many wait.

        What has `received` the body, in the place of `body`, is in the environment as `RECEIVED`, and is closed after.
        """
        if not self.has_room:
            raise Unavailable("too many requests wait to be answered; try again")
        self._open += 1
        job = _Job(head, body, peer, done, received)
        self._waiting.put(job)
        return job.withdraw

    def _work(self) -> None:
        while True:
            job = self._waiting.get()
            response = None if job.is_gone else self._answer(job)
            if job.received:
                job.received.close()
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
        files = _Files()
        environ = _environ(job.head, body, job.peer) | {RECEIVED: job.received, "wsgi.file_wrapper": files}
        parts, status, headers = run_wsgi_app(self._app.wsgi_app, environ, buffered=True)
        is_head = job.head.method == "HEAD"
        kept = [(name, value) for name, value in headers if name.lower() != "content-length" or is_head]
        spooled = None if is_head else files.take()
        return HttpResponse(int(status.split()[0]), b"".join(parts), tuple(kept), spooled=spooled)

    def _deliver(self, job: _Job, response: HttpResponse | None) -> None:
        self._open -= 1
        if response and not job.is_gone:
            job.done(response)
        elif response and response.spooled:
            response.spooled.close()


class _Files:
    """What PEP 3333 calls a file wrapper: an application that answers with a file hands it over, unread."""

    def __init__(self) -> None:
        self._file: BinaryIO | None = None

    def __call__(self, file: BinaryIO, _bytes: int = 0) -> Iterable[bytes]:
        self._file = file
        return ()

    def take(self) -> SpooledBody | None:
        """The file as a body; None where there is none."""
        if self._file is None:
            return None
        with self._file as file:
            fd = os.dup(file.fileno())
        return SpooledBody.of_file(fd, os.fstat(fd).st_size)


def _environ(head: RequestHead, body: bytes, peer: str) -> dict[str, object]:
    """The request as PEP 3333 wants it."""
    host, _, port = head.headers.get(b"host", b"localhost").decode("latin-1").rpartition(":")
    environ: dict[str, object] = {
        PEER: peer,
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
        if b"_" in name:
            continue  # it would be taken for the header with dashes, as other servers know, too
        if key == "CONTENT_TYPE":
            environ[key] = value.decode("latin-1")
        elif key not in ("CONTENT_LENGTH", "TRANSFER_ENCODING"):
            environ[f"HTTP_{key}"] = value.decode("latin-1")
    return environ
