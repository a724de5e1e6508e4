"""An API process under callers that mean no good: it stays within the memory that it printed, answers health, tells
every caller why, and stops in time."""

import contextlib
import gzip
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.api_process import MB, ApiProcess
from tests.support.running import ROOT, RedisServer, until

LIVE = "/v2/health/live"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, make_onnx: Callable[..., Path]) -> Iterator[ApiProcess]:
    """An API process with a budget of 50 MB and a worker with the model `tiny`; no test breaks them."""
    folder = tmp_path_factory.mktemp("api")
    make_onnx(folder / "models")
    server = RedisServer(folder / "redis.sock")
    server.start()
    worker = start_worker(server.url, folder)
    try:
        with ApiProcess(server.url, folder / "log", max_buffered_bytes=50 * MB, request_timeout_ms=4000) as process:
            until(lambda: process.ask("GET", "/v2/models/tiny/ready")[0] == 200, 60, "the model")
            yield process
    finally:
        worker.terminate()
        worker.wait(60)
        server.kill()


def start_worker(redis_url: str, folder: Path) -> "subprocess.Popen[bytes]":
    """A worker with the models in the folder."""
    environment = os.environ | {"MILLRACE_REDIS_URL": redis_url, "MILLRACE_WORKER_MODELS": str(folder / "models")}
    command = [sys.executable, "-m", "worker"]
    with (folder / "worker").open("wb") as log:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)


# Memory


def test_the_memory_that_it_may_take_is_printed_with_its_parts(api: ApiProcess) -> None:
    (line,) = (line for line in api.lines if "memory_limit_bytes" in line)
    said = re.fullmatch(
        r"serving with at most (\d+) MiB of memory: (\d+) program \+ 50 requests and responses \+ (\d+) connections"
        r" \+ (\d+) offload processes",
        line["event"],
    )
    assert said, line
    total, program, connections, offload = map(int, said.groups())
    assert abs(total - (program + 50 + connections + offload)) <= 2
    assert total == round(api.memory_limit_bytes / MB)
    assert api.memory_bytes < program * MB


def test_thirty_bodies_of_ten_megabytes_stay_within_the_printed_sum(api: ApiProcess) -> None:
    body = b'{"instances":[[' + b",".join([b"0.5"] * (10 * MB // 4)) + b"]]}"
    statuses: Counter[int] = Counter()

    def ask() -> None:
        try:
            status, _, text = api.ask("POST", "/v1/models/tiny:predict", body)
        except ConnectionError:  # of one that sends on for long after it was refused
            statuses[0] += 1
        else:
            statuses[status] += 1
            assert status == 400 or (status == 503 and b"as many bytes of requests" in text) or status == 504, text

    with api.watched() as peak:
        threads = [threading.Thread(target=ask) for _ in range(30)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sum(statuses.values()) == 30
    assert statuses[400] >= 1
    assert peak[0] < api.own_limit_bytes


def wrong_bodies() -> dict[str, tuple[bytes, str]]:
    noise = os.urandom(3_000_000)
    return {
        "a bomb": (gzip.compress(bytes(60_000_000)), "gzip"),
        "no gzip": (noise, "gzip"),
        "gzip that is cut": (gzip.compress(noise)[:-9], "gzip"),
        "gzip with more behind it": (gzip.compress(noise) + noise, "gzip"),
        "another coding": (noise, "br"),
        "too large": (bytes(65 * MB), ""),
    }


@pytest.mark.parametrize("case", wrong_bodies())
def test_memory_is_back_when_wrong_large_bodies_are_answered(api: ApiProcess, case: str) -> None:
    body, coding = wrong_bodies()[case]
    headers = {"Content-Encoding": coding} if coding else {}
    before = api.memory_bytes
    for number in range(50):
        with contextlib.suppress(ConnectionError):  # told before the end of the body
            status, _, text = api.ask("POST", "/v2/models/tiny/infer", body, headers)
            assert status in (400, 413, 415), (number, text)
    until(lambda: api.memory_bytes < before + 8 * MB, 10, "memory to come back")


@pytest.mark.parametrize(
    ("count", "data"),
    [
        (400, b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n" * 5000),
        (2000, b"GET / HTTP/1.1\r\na: " + b"b" * 60_000),
    ],
    ids=["pipelined and not read", "unfinished heads"],
)
def test_what_connections_hold_stays_within_the_printed_sum(api: ApiProcess, count: int, data: bytes) -> None:
    with api.watched() as peak, contextlib.ExitStack() as open_:
        for _ in range(count):
            open_.enter_context(api.connect(data))
        time.sleep(1.1)  # the second that each of them has
        assert api.ask("GET", LIVE)[0] == 200
        assert api.ask("POST", "/v1/models/tiny:predict", b'{"instances": [[1, 2, 3]]}')[0] == 200
    assert peak[0] < api.own_limit_bytes


# Health


def test_health_does_not_wait_behind_pages_whose_callers_have_left(api: ApiProcess) -> None:
    waits, done = [], threading.Event()

    def ask_for_health() -> None:
        while not done.is_set():
            started = time.perf_counter()
            assert api.ask("GET", LIVE)[0] == 200
            waits.append(time.perf_counter() - started)

    asking = threading.Thread(target=ask_for_health)
    asking.start()
    for path in ("/docs", "/metrics", "/v2"):
        for _ in range(1000 if path == "/docs" else 200):
            api.connect(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode()).close()
    until(lambda: api.ask("GET", "/v2")[0] == 200)
    done.set()
    asking.join()
    waits.sort()
    assert waits[int(len(waits) * 0.99)] < 1.0  # 16 s where health waits in one line with the pages


def test_silent_connections_do_not_starve_anybody(redis_server: RedisServer, tmp_path: Path) -> None:
    with ApiProcess(redis_server.url, tmp_path / "log", descriptors=300) as api, contextlib.ExitStack() as open_:
        kept = socket.create_connection(("127.0.0.1", api.port), timeout=60)
        for _ in range(400):
            open_.enter_context(api.connect())
            assert api.process.poll() is None
        for _ in range(20):
            assert api.ask("GET", LIVE)[0] == 200
        kept.close()


# HTTP on every route


ROUTES = {
    "/v2": "GET, HEAD, OPTIONS",
    LIVE: "GET, HEAD, OPTIONS",
    "/v1/models/m": "GET, HEAD, OPTIONS",
    "/v1/models/m/metadata": "GET, HEAD, OPTIONS",
    "/v1/models/m:predict": "POST, OPTIONS",
    "/V1/models/m/versions/1:classify": "POST, OPTIONS",
    "/v1/models/m/traffic": "GET, HEAD, PUT, OPTIONS",
    "/v1/models/m/labels/l": None,
    "/v2/models/m/infer": "POST, OPTIONS",
    "/v2/models/m/versions/1/infer": "POST, OPTIONS",
    "/v2/repository/models/m/load": "POST, OPTIONS",
    "/v2/repository/index": "POST, OPTIONS",
    "/metrics": "GET, HEAD, OPTIONS",
}


@pytest.mark.parametrize("path", ROUTES)
def test_allow_tells_the_truth(api: ApiProcess, path: str) -> None:
    allowed = set(api.ask("OPTIONS", path)[1]["allow"].split(", "))
    if ROUTES[path]:
        assert allowed == set(ROUTES[path].split(", "))  # type: ignore[union-attr]
    for method in ("GET", "HEAD", "POST", "PUT", "DELETE"):
        status, headers, text = api.ask(method, path, b"" if method in ("POST", "PUT") else None)
        assert (status == 405 or text.startswith(b'{"error":"Malformed request')) == (method not in allowed) or (
            method == "HEAD" and status in (400, 405)
        )
        if status == 405:
            assert set(headers["allow"].split(", ")) == allowed


def test_the_server_as_a_whole_has_options(api: ApiProcess) -> None:
    answer = api.raw(b"OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nallow: GET, HEAD, OPTIONS, POST, PUT, DELETE\r\n" in answer


@pytest.mark.parametrize(
    "path", ["//v2", "/v2//", "/v2//health/live", "/v2%2Fhealth/live", "/v1//models/m", "/docs//", "/./v2", "/v2/../v2"]
)
def test_no_path_is_another_and_none_is_redirected(api: ApiProcess, path: str) -> None:
    answer = api.raw(b"GET " + path.encode() + b" HTTP/1.1\r\nhost: evil.example\r\n\r\n")
    assert answer.split()[1] in (b"404", b"400" if path.startswith("/v1") else b"404")
    assert b"evil" not in answer
    assert b"location" not in answer.lower()


def test_an_escaped_letter_is_that_letter(api: ApiProcess) -> None:
    assert api.ask("GET", "/v2/%68ealth/liv%65")[2] == b'{"live":true}'
    assert b"nowhere" in api.ask("POST", "/v1/models/no%77here:p%72edict", b"{}")[2]


@pytest.mark.parametrize("path", ["/v2/repository/index", "/v1/models/tiny:predict", "/v2/models/tiny/infer"])
def test_content_codings_work_on_every_route(api: ApiProcess, path: str) -> None:
    plain = api.ask("POST", path, b"{}")
    packed = api.ask("POST", path, gzip.compress(b"{}"), {"Content-Encoding": "gzip"})
    assert (packed[0], packed[2]) == (plain[0], plain[2])
    status, headers, text = api.ask("POST", path, b"{}", {"Content-Encoding": "br"})
    assert (status, headers["accept-encoding"]) == (415, "gzip, deflate")
    assert b"'br' is not supported" in text
    assert api.ask("POST", path, b"no gzip", {"Content-Encoding": "gzip"})[0] == 400


def test_only_the_hot_verbs_take_large_bodies(api: ApiProcess) -> None:
    status, _, text = api.ask("POST", "/v2/repository/index", b" " * 65_537)
    assert (status, b"larger than the 65536 bytes" in text) == (413, True)
    assert api.ask("POST", "/v2/models/tiny/infer", b" " * 65_537)[0] == 400


def test_refusals_before_any_route_have_an_id_and_few_lines_in_the_log(api: ApiProcess) -> None:
    ids = []
    for _ in range(50):
        answer = api.raw(b"GET / HTTP/1.1\r\n\r\n")
        match = re.search(rb"\r\nx-request-id: (\S+)\r\n", answer)
        assert match, answer
        assert answer.endswith(b'{"error":"the request has no Host header"}')
        ids.append(match[1].decode())
    assert len(set(ids)) == 50
    time.sleep(1.1)
    last = re.search(rb"\r\nx-request-id: (\S+)\r\n", api.raw(b"GET / HTTP/1.1\r\n\r\n"))
    assert last
    until(lambda: any(line.get("request_id") == last[1].decode() for line in api.lines))
    lines = [line for line in api.lines if line.get("error") == "the request has no Host header"]
    assert {line["status"] for line in lines} == {400}
    assert len(lines) < 40
    assert len(lines) + sum(line.get("left_out", 0) for line in lines) >= 51


@pytest.mark.skipif(not shutil.which("curl"), reason="there is no curl")
def test_a_client_that_offers_http_2_is_answered_over_http_1_1(api: ApiProcess) -> None:
    command = ["curl", "--silent", "--http2", "--write-out", " %{http_version} %{http_code}"]
    url = f"http://127.0.0.1:{api.port}"
    ran = subprocess.run([*command, f"{url}{LIVE}"], capture_output=True, text=True, timeout=30, check=True)
    assert ran.stdout == '{"live":true} 1.1 200'
    sent = [*command, "--data", "{}", f"{url}/v2/repository/index"]
    ran = subprocess.run(sent, capture_output=True, text=True, timeout=30, check=True)
    assert ran.stdout.startswith('[{"name":"tiny"')
    assert ran.stdout.endswith(" 1.1 200")


JAVA = """
import java.net.URI; import java.net.http.*;
public class Client { public static void main(String[] a) throws Exception {
  var client = HttpClient.newHttpClient();
  for (var body : new String[] {"", "{}"}) {
    var path = body.isEmpty() ? "/v2/health/live" : "/v2/repository/index";
    var request = HttpRequest.newBuilder(URI.create(a[0] + path));
    if (!body.isEmpty()) request.POST(HttpRequest.BodyPublishers.ofString(body));
    var response = client.send(request.build(), HttpResponse.BodyHandlers.ofString());
    System.out.println(response.statusCode() + " " + response.version() + " " + response.body());
  } } }
"""


@pytest.mark.skipif(not shutil.which("javac"), reason="there is no Java")
def test_the_client_of_java_is_answered(api: ApiProcess, tmp_path: Path) -> None:
    (tmp_path / "Client.java").write_text(JAVA)
    command = ["java", str(tmp_path / "Client.java"), f"http://127.0.0.1:{api.port}"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    live, index = ran.stdout.splitlines()
    assert live == '200 HTTP_1_1 {"live":true}'
    assert index.startswith('200 HTTP_1_1 [{"name":"tiny"')


# Stopping


def test_stopping_takes_no_longer_than_the_drain_whatever_is_open(redis_server: RedisServer, tmp_path: Path) -> None:
    with ApiProcess(redis_server.url, tmp_path / "log", drain_timeout_s=1) as api, contextlib.ExitStack() as open_:
        for data in (
            b"GET / HTTP/1.1\r\na: ",
            b"POST /v2/models/m/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n{",
            b"POST /v2/models/m/infer HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5",
            b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n" * 5000,
            b"",
        ):
            open_.enter_context(api.connect(data))
        assert api.ask("GET", LIVE)[0] == 200
        assert api.stop() < 1 + 3
        assert api.process.returncode == 0
