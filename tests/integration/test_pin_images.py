"""`make pins`: each image's digest, as a registry says it, in the place where the image is named."""

import hashlib
import http.server
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.running import ROOT

pytestmark = pytest.mark.slow
FILES = ("Dockerfile", "docker-compose.yml", "deploy/chart/values.yaml")
_OURS = ("redis", "haproxy", "python", "prom/prometheus", "grafana/grafana", "valkey/valkey")


@pytest.fixture
def registry() -> Iterator[tuple[str, dict[str, bytes]]]:
    """A registry at HOST:PORT, and its manifests by image; it has all that are asked for but `none`."""
    if not shutil.which("docker") or subprocess.run(["docker", "buildx", "version"], capture_output=True).returncode:
        pytest.skip("docker buildx is not installed")
    manifests: dict[str, bytes] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name, _, tag = self.path.removeprefix("/v2/").partition("/manifests/")
            body = b'{"schemaVersion": 2, "mediaType": "%b", "manifests": [], "annotations": {"image": "%b"}}'
            kind = "application/vnd.oci.image.index.v1+json"
            if not tag.startswith("sha256:"):
                manifests[name] = body % (kind.encode(), f"{name}:{tag}".encode())
            self.send_response(404 if name == "none" else 200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(manifests[name])))
            self.send_header("Docker-Content-Digest", digest(manifests[name]))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(manifests[name])

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}", manifests
        server.shutdown()


def digest(manifest: bytes) -> str:
    return f"sha256:{hashlib.sha256(manifest).hexdigest()}"


def pin(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "deploy/pin_images.py"), str(folder)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.fixture
def checkout(tmp_path: Path, registry: tuple[str, dict[str, bytes]]) -> Path:
    """Its files, in which each image is at that registry."""
    for name in FILES:
        text = (ROOT / name).read_text()
        for image in _OURS:
            text = re.sub(rf"(?<=image: )(\$\{{\w+:-|){image}:", rf"\g<1>{registry[0]}/{image}:", text)
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_every_image_is_pinned_where_it_is_named(checkout: Path, registry: tuple[str, dict[str, bytes]]) -> None:
    address, manifests = registry
    python = checkout / "Dockerfile"
    assert "\nARG PYTHON=" in python.read_text()
    python.write_text("FROM scratch\n")  # its base is named without a registry
    compose = checkout / "docker-compose.yml"
    compose.write_text(re.sub(r"^  PYTHON: .*\n", "", compose.read_text(), flags=re.MULTILINE))
    done = pin(checkout)
    assert done.returncode == 0, done.stderr
    for name, manifest in manifests.items():
        (tag,) = set(re.findall(rf"{address}/{name}:([\w.-]+)@{digest(manifest)}", done.stdout))
        wanted = rf"{address}/{name}:(?:\$\{{\w+:-)?{tag}@{digest(manifest)}"
        assert re.search(wanted, "".join((checkout / file).read_text() for file in FILES)), name
    assert sorted(manifests) == sorted(_OURS)
    unpinned = [line for line in compose.read_text().splitlines() if " image: " in line and "@sha256:" not in line]
    assert unpinned == []
    before = [(checkout / file).read_text() for file in FILES]
    assert pin(checkout).returncode == 0
    assert [(checkout / file).read_text() for file in FILES] == before


def test_nothing_is_written_where_one_cannot_be_had(checkout: Path, registry: tuple[str, dict[str, bytes]]) -> None:
    values = checkout / "deploy/chart/values.yaml"
    values.write_text(f"image: {registry[0]}/none:1\n")
    (checkout / "Dockerfile").write_text("FROM scratch\n")
    compose = checkout / "docker-compose.yml"
    compose.write_text(f"image: {registry[0]}/redis:7\n")
    done = pin(checkout)
    assert (done.returncode, "none:1" in done.stderr) == (1, True)
    assert "@sha256" not in compose.read_text()
