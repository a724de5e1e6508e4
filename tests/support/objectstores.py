"""Other stores on loopback: Google's (an emulator of pip's), Azure's (Azurite of npm's), and a hub of ours."""

import contextlib
import hashlib
import http.server
import importlib
import json
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from tests.support.running import ended, free_port, until

# The key of Azurite's one account is the same for everybody, and public.
_AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
HUB_REPOSITORY = "organisation/repository"


@contextlib.contextmanager
def google(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """A server that speaks Google's storage API, with a bucket called `files`."""
    patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # which asks Google itself, whatever the host
    gcsfs = pytest.importorskip("gcsfs", reason="gcsfs is not installed")
    emulator = pytest.importorskip("gcp_storage_emulator.server", reason="gcp-storage-emulator is not installed")
    port = free_port()
    server = emulator.create_server("127.0.0.1", port, in_memory=True, default_bucket="files")
    server.start()
    patch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    patch.setitem(importlib.import_module("fsspec.config").conf, "gs", {"token": "anon"})
    gcsfs.GCSFileSystem.clear_instance_cache()
    yield
    gcsfs.GCSFileSystem.clear_instance_cache()
    server.stop()


@contextlib.contextmanager
def azure(patch: pytest.MonkeyPatch, folder: Path) -> Iterator[None]:
    """A server that speaks Azure's blob API and writes below the folder, with a container called `files`."""
    adlfs = pytest.importorskip("adlfs", reason="adlfs is not installed")
    program = shutil.which("azurite-blob")
    if program is None:
        pytest.skip("azurite-blob is not on the path")
    port = free_port()
    where = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder / "azurite")]
    options = [*where, "--silent", "--skipApiVersionCheck", "--disableTelemetry"]
    with ended(subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)):
        until(lambda: _listens(port), what="Azurite")
        account = f"DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey={_AZURITE_KEY}"
        endpoint = f"BlobEndpoint=http://127.0.0.1:{port}/devstoreaccount1"
        patch.setenv("AZURE_STORAGE_CONNECTION_STRING", f"{account};{endpoint};")
        adlfs.AzureBlobFileSystem(skip_instance_cache=True).mkdir("files")
        yield
        adlfs.AzureBlobFileSystem.clear_instance_cache()


@contextlib.contextmanager
def hub(patch: pytest.MonkeyPatch, folder: Path) -> Iterator[None]:
    """A server of the shape of the Hugging Face Hub, whose one repository has the folder's files."""
    library = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")

    class Handler(_Hub):
        files = folder

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        there = {"endpoint": f"http://127.0.0.1:{server.server_port}", "token": False}
        patch.setitem(importlib.import_module("fsspec.config").conf, "hf", there)
        library.HfFileSystem.clear_instance_cache()
        yield
        library.HfFileSystem.clear_instance_cache()
        server.shutdown()


class _Hub(http.server.BaseHTTPRequestHandler):
    """What a reader asks for: the repository, its tree, facts of paths, and files."""

    files: Path

    def do_GET(self) -> None:
        """The repository at one revision, a folder's entries, or a file's bytes."""
        url = urlsplit(self.path)
        path, query = unquote(url.path), parse_qs(url.query)
        api = f"/api/models/{HUB_REPOSITORY}"
        if path.startswith(f"/{HUB_REPOSITORY}/resolve/main/"):
            self._send_file(self.files / path.partition("/resolve/main/")[2])
        elif path in (api, f"{api}/revision/main"):
            self._send_json({"id": HUB_REPOSITORY, "sha": "0" * 40, "siblings": []})
        elif path.startswith(f"{api}/tree/main"):
            folder = self.files / path.removeprefix(f"{api}/tree/main").strip("/")
            found = folder.rglob("*") if query.get("recursive") in (["true"], ["True"]) else folder.iterdir()
            self._send_json([self._entry(each) for each in sorted(found)] if folder.is_dir() else None)
        else:
            self._send_json(None)

    def do_HEAD(self) -> None:
        """As GET, without the bytes."""
        self.do_GET()

    def do_POST(self) -> None:
        """Facts of the paths that are named; those that there are not are left out."""
        asked = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        paths = [self.files / path for path in asked.get("paths", ())]
        self._send_json([self._entry(path) for path in paths if path.exists()])

    def _entry(self, path: Path) -> dict[str, Any]:
        found = {"path": path.relative_to(self.files).as_posix(), "type": "directory", "oid": "0" * 40, "size": 0}
        if path.is_file():
            content = path.read_bytes()
            found |= {"type": "file", "oid": hashlib.sha1(content).hexdigest(), "size": len(content)}
        return found

    def _send_file(self, path: Path) -> None:
        if path.is_file():
            self._send(200, path.read_bytes(), {"ETag": f'"{self._entry(path)["oid"]}"', "X-Repo-Commit": "0" * 40})
        else:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})

    def _send_json(self, document: Any) -> None:
        """None is what there is not."""
        if document is None:
            self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
        else:
            self._send(200, json.dumps(document).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """It says nothing."""


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False
