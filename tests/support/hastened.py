"""A server before the stack that passes everything on, but sends the stack's events many times as fast."""

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import httpx


@contextmanager
def hastened(stack: str, *, times: float, events: int) -> Iterator[tuple[str, Callable[[], int]]]:
    """Its URL, and how many events it has sent. Each event is the stack's own document, a second later each time.

    Requests are counted up in them, as under load. After so many events the last one is said again, once a second.
    """
    sent = 0
    ending = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if "text/event-stream" in self.headers.get("Accept", ""):
                self._events()
                return
            answer = httpx.get(stack + self.path, headers={"Accept": self.headers.get("Accept", "*/*")}, timeout=30)
            self.send_response(answer.status_code)
            for name, value in answer.headers.items():
                if name.lower() not in ("connection", "content-encoding", "content-length", "transfer-encoding"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        def _events(self) -> None:
            nonlocal sent
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            document = httpx.get(f"{stack}/v1/stack", timeout=30).json()
            with suppress(OSError):  # the page has gone
                while not ending.wait(1 / times if sent < events else 1):
                    if sent < events:
                        sent += 1
                        document["time_ms"] += 1000
                        for model in document["models"]:
                            model["requests"]["200"] = model["requests"].get("200", 0) + 90 + sent % 20
                    self.wfile.write(f"data: {json.dumps(document)}\n\n".encode())
                    self.wfile.flush()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """It says nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", lambda: sent
        ending.set()
        server.shutdown()
