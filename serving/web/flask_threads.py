"""Flask beside the event loop: its requests are answered in a few threads."""

import asyncio
import io
import logging
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from flask import Flask
from werkzeug.test import run_wsgi_app

from serving.transport.http_server import Done
from serving.transport.request_head import RequestHead
from serving.transport.responses import HttpResponse, error_response

_log = logging.getLogger(__name__)
_THREADS = 4


class FlaskThreads:
    """Runs a Flask application for an event loop."""

    def __init__(self, app: Flask, loop: asyncio.AbstractEventLoop) -> None:
        self._app = app
        self._loop = loop
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="flask")

    def handle(self, head: RequestHead, body: bytes, done: Done) -> None:
        """Answer the request by calling `done` on the event loop."""
        self._loop.run_in_executor(self._pool, self._run, head, body).add_done_callback(partial(_deliver, done))

    def stop(self) -> None:
        """Let the threads end, once no request is left."""
        self._pool.shutdown()

    def _run(self, head: RequestHead, body: bytes) -> HttpResponse:
        parts, status, headers = run_wsgi_app(self._app.wsgi_app, _environ(head, body), buffered=True)
        kept = [(name, value) for name, value in headers if name.lower() != "content-length" or head.method == "HEAD"]
        return HttpResponse(int(status.split()[0]), b"".join(parts), tuple(kept))


def _deliver(done: Done, future: "asyncio.Future[HttpResponse]") -> None:
    if error := future.exception():
        _log.error("a request failed", exc_info=error)
        done(error_response(500, "internal error; the server's log has it"))
    else:
        done(future.result())


def _environ(head: RequestHead, body: bytes) -> dict[str, object]:
    """The request as PEP 3333 wants it."""
    host, _, port = head.headers.get(b"host", b"localhost").decode("latin-1").rpartition(":")
    environ: dict[str, object] = {
        "REQUEST_METHOD": head.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": head.path.encode().decode("latin-1"),
        "QUERY_STRING": head.query,
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
