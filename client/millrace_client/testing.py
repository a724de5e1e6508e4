"""A server for tests: real HTTP on 127.0.0.1, with the answers that the test wrote down beforehand.

    with ScriptedServer({"GET /v2/health/ready": [Answer(503), Answer(200)]}) as server:
        assert not Client(server.url).is_ready()
        assert Client(server.url).is_ready()

A route's answers are given in turn and the last one again and again; a route without answers is a 404.
"""

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server sends: `document` as JSON, or `raw` as it is.

    A `is_cut` answer ends in the middle of its body; a `is_late` one comes only when the server closes.
    """

    status: int = 200
    document: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    is_cut: bool = False
    is_late: bool = False

    def body(self) -> bytes:
        """The bytes of the body."""
        return json.dumps(self.document).encode() if self.raw is None else self.raw


@dataclass(frozen=True, slots=True)
class Received:
    """A request that the server got; header names are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as a JSON document."""
        return json.loads(self.body)


class ScriptedServer:
    """Runs in a thread while in its `with`; `received` holds the requests in their order."""

    def __init__(self, script: Mapping[str, Sequence[Answer]]) -> None:
        self.received: list[Received] = []
        self._script = {route: list(answers) for route, answers in script.items()}
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._http: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Where it listens, without a slash at the end."""
        if self._http is None:
            raise RuntimeError("the server runs only inside its with")
        return f"http://127.0.0.1:{self._http.server_port}"

    def take(self, received: Received) -> Answer:
        """Note the request and return the answer that is due."""
        with self._lock:
            self.received.append(received)
            answers = self._script.get(f"{received.method} {received.path}")
            if not answers:
                return Answer(404, {"error": f"no route {received.method} {received.path}"})
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if answer.is_late:
            self._closing.wait()
        return answer

    def __enter__(self) -> Self:
        self._http = _Server(self)
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        if self._http is not None and self._thread is not None:
            self._http.shutdown()
            self._thread.join()
            self._http.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True  # a connection that a client keeps open must not keep the server

    def __init__(self, script: ScriptedServer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script = script

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client that gave up and went away is part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:
        """Answer from the script."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.server.script.take(Received(self.command, self.path, headers, body))
        self._send(answer, answer.body())

    do_POST = do_GET  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is http.server's
        """Keep quiet."""

    def _send(self, answer: Answer, body: bytes) -> None:
        self.send_response_only(answer.status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            **answer.headers,
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if answer.is_cut else body)
        self.close_connection = self.close_connection or answer.is_cut
