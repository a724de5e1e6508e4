"""Stores of models on loopback: an S3 server (moto) and a web server of a folder's files."""

import contextlib
import functools
import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


class S3:
    """A bucket called `models` of a real S3 server, which can be stopped and started again with all it held."""

    def __init__(self) -> None:
        self._moto: Any = pytest.importorskip("moto.server", reason="moto[server] is not installed")
        pytest.importorskip("s3fs", reason="s3fs is not installed")
        self._server: Any = self._moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        self._server.start()
        self.host, self.port = self._server.get_host_and_port()

    @property
    def environment(self) -> dict[str, str]:
        """The variables with which its clients find it, and their credentials."""
        return {
            "AWS_ENDPOINT_URL": f"http://{self.host}:{self.port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_MAX_ATTEMPTS": "1",
        }

    def client(self) -> Any:
        """A client of AWS's own library."""
        return pytest.importorskip("boto3").client("s3")

    def put(self, folder: Path, prefix: str) -> None:
        """Upload a folder's files, in order of their names."""
        client = self.client()
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            client.upload_file(str(path), "models", f"{prefix}/{path.relative_to(folder).as_posix()}")

    def stop(self) -> None:
        self._server.stop()

    def start(self) -> None:
        self._server = self._moto.ThreadedMotoServer("127.0.0.1", self.port, verbose=False)
        self._server.start()


@contextlib.contextmanager
def web_server(
    folder: Path, refuses: Callable[[str], bool] = lambda path: False, *, says_lengths: bool = True
) -> Iterator[str]:
    """The URL of a server of a folder's files; it answers 503 to the paths that it `refuses`."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def send_head(self) -> Any:
            if refuses(self.path):
                self.send_error(503)
                return None
            return super().send_head()

        def send_header(self, keyword: str, value: str) -> None:
            if says_lengths or keyword != "Content-Length":
                super().send_header(keyword, value)

        def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002

    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
