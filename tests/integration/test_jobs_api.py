"""`/v1/jobs` of an API process, over HTTP, on a real Redis; no jobs program runs unless a test starts one."""

import http.client
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from millrace.jobs.store import JobLimits, JobStore
from tests.support.api_process import MB, ApiProcess
from tests.support.running import RedisServer, until

SCORE = {"kind": "score", "model": "tiny"}
FORM = "multipart/form-data; boundary=b"


@pytest.fixture(scope="module")
def redis_for_jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis") / "redis.sock")
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("jobs")


def start(redis_for_jobs: RedisServer, folder: Path, log: Path) -> ApiProcess:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MILLRACE_JOBS_REDIS_URL", redis_for_jobs.url)
        patch.setenv("MILLRACE_JOBS_FOLDER", str(folder))
        patch.setenv("MILLRACE_JOBS_MAX_UPLOAD_BYTES", str(200 * MB))
        return ApiProcess(redis_for_jobs.url, log, max_buffered_bytes=64 * MB)


@pytest.fixture(scope="module")
def api(redis_for_jobs: RedisServer, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiProcess]:
    process = start(redis_for_jobs, folder, tmp_path_factory.mktemp("log") / "log")
    yield process
    process.stop()


@pytest.fixture
def url(api: ApiProcess) -> str:
    return f"http://127.0.0.1:{api.port}/v1/jobs"


@pytest.fixture
def store(redis_for_jobs: RedisServer, folder: Path) -> JobStore:
    return JobStore(redis_for_jobs.url, folder, JobLimits())


def submit(url: str, **more: Any) -> dict[str, Any]:
    answer = httpx.post(url, json=SCORE | {"input": "rows.csv"} | more)
    assert answer.status_code == 202, answer.text
    assert answer.headers["Location"] == f"/v1/jobs/{answer.json()['id']}"
    found: dict[str, Any] = answer.json()
    return found


def part(name: str, data: bytes, filename: str = "") -> bytes:
    file = f'; filename="{filename}"' if filename else ""
    return f'--b\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + data + b"\r\n"


def form(upload: bytes, document: dict[str, Any] | None = None, name: str = "rows.csv") -> bytes:
    return part("job", json.dumps(document or SCORE).encode()) + part("input", upload, name) + b"--b--\r\n"


def uploaded(folder: Path) -> list[Path]:
    # Walked, not globbed: a folder that is removed meanwhile is no error.
    return [Path(within, name) for within, _, names in os.walk(folder / "uploads") for name in names]


def test_a_job_is_submitted_shown_listed_canceled_and_forgotten(url: str) -> None:
    job = submit(url)
    assert (job["state"], job["rows_done"], job["errors"], job["eta_s"]) == ("queued", 0, 0, None)
    assert job["document"] == SCORE | {"input": "rows.csv"}
    own = f"{url}/{job['id']}"
    assert httpx.get(own).json() == job
    assert job["id"] in [each["id"] for each in httpx.get(url, params={"state": "queued", "limit": 5}).json()["jobs"]]
    assert httpx.get(f"{own}/result").status_code == 409
    assert httpx.delete(own).json()["state"] == "canceled"
    assert httpx.get(f"{own}/logs").json()["lines"][-1]["text"] == "canceled"
    assert httpx.post(f"{own}/retry").json()["state"] == "queued"
    assert httpx.post(f"{own}/cancel").json()["state"] == "canceled"
    assert httpx.delete(own).status_code == 204
    assert httpx.get(own).status_code == 404


def test_an_id_of_the_callers_own_makes_one_job(url: str) -> None:
    first = httpx.put(f"{url}/mine", json=SCORE | {"input": "a.csv"})
    again = httpx.put(f"{url}/mine", json=SCORE | {"input": "a.csv"})
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json() == again.json()
    assert httpx.put(f"{url}/mine", json=SCORE | {"input": "b.csv"}).status_code == 409


@pytest.mark.parametrize(
    ("body", "kind", "status", "text"),
    [
        (b"{", "application/json", 400, "the job is not JSON"),
        (b'{"kind": "score", "modle": 1}', "application/json", 400, "modle"),
        (b'{"kind": "score", "model": "m"}', "application/json", 400, "input"),
        (b"x", "text/csv", 415, "multipart/form-data"),
        (b"x", "multipart/form-data", 400, "boundary"),
        (b"--b\r\n", FORM, 400, "has no end"),
        (part("input", b"x", "a.csv") + b"--b--", FORM, 400, "no part 'job'"),
        (part("other", b"x") + b"--b--", FORM, 400, "'other'"),
        (part("job", b"{}") + part("job", b"{}") + b"--b--", FORM, 400, "one part 'job'"),
        (form(b"x" * 100_000, {"kind": "nothing"}), FORM, 400, "kind"),
    ],
)
def test_what_is_no_job_is_refused_in_words(
    url: str, folder: Path, body: bytes, kind: str, status: int, text: str
) -> None:
    before = uploaded(folder)
    answer = httpx.post(url, content=body, headers={"Content-Type": kind})
    assert answer.status_code == status
    assert text in answer.json()["error"]
    until(lambda: uploaded(folder) == before, what="the end of the upload")


def test_other_questions_that_cannot_be_answered(url: str) -> None:
    assert httpx.get(url, params={"limit": "0"}).status_code == 400
    assert httpx.get(url, params={"state": "gone"}).status_code == 400
    for path in ("", "/logs", "/result", "/events"):
        assert httpx.get(f"{url}/nothing{path}").status_code == 404
    assert httpx.patch(url).status_code == 405


@pytest.mark.parametrize("size", [10, 60_000, 200_000, 5 * MB])
@pytest.mark.parametrize("chunked", [False, True])
def test_an_upload_is_in_the_store_as_it_was_sent(url: str, store: JobStore, size: int, chunked: bool) -> None:
    rows = bytes(range(256)) * (size // 256) + b"\r\n--" * (size % 256)
    body = form(rows, name="../../r\u00f6ws.csv")
    pieces = (body[at : at + 70_000] for at in range(0, len(body), 70_000)) if chunked else body
    answer = httpx.post(url, content=pieces, headers={"Content-Type": FORM})
    assert answer.status_code == 202, answer.text
    upload = store.get(answer.json()["id"]).upload
    assert (store.folder / "uploads" / upload).read_bytes() == rows


def test_a_large_upload_takes_a_window_of_memory_and_keeps_nobody_waiting(url: str, api: ApiProcess) -> None:
    size = 150 * MB
    body = form(b"")
    start, end = body[: -len(b"\r\n--b--\r\n")], body[-len(b"\r\n--b--\r\n") :]
    before = api.memory_bytes
    stops, slowest = threading.Event(), [0.0]

    def ask() -> None:
        with httpx.Client() as client:
            while not stops.is_set():
                slowest.append(client.get(url.replace("/v1/jobs", "/v2/health/live")).elapsed.total_seconds())

    asking = threading.Thread(target=ask)
    asking.start()
    pieces = iter([start, *[bytes(MB)] * (size // MB), end])
    with api.watched() as peak:
        answer = httpx.post(url, content=pieces, headers={"Content-Type": FORM}, timeout=60)
    stops.set()
    asking.join()
    assert answer.status_code == 202, answer.text
    assert peak[0] - before < 40 * MB
    assert max(slowest) < 2


def test_an_upload_that_is_too_large_is_refused_on_its_way_and_leaves_nothing(url: str, folder: Path) -> None:
    before = uploaded(folder)
    pieces = iter([form(b"")[:-9], *[bytes(MB)] * 220])
    try:
        answer = httpx.post(url, content=pieces, headers={"Content-Type": FORM}, timeout=60)
    except (httpx.WriteError, httpx.ReadError):
        pass  # the connection was closed while we sent
    else:
        assert answer.status_code == 413
    until(lambda: uploaded(folder) == before, what="the end of the upload")


def test_a_caller_who_leaves_in_the_middle_leaves_nothing(url: str, api: ApiProcess, folder: Path) -> None:
    before = uploaded(folder)
    with socket.create_connection(("127.0.0.1", api.port)) as caller:
        head = f"POST /v1/jobs HTTP/1.1\r\nhost: x\r\ncontent-type: {FORM}\r\ncontent-length: 10000000\r\n\r\n"
        caller.sendall(head.encode() + form(b"x" * 500_000)[:-20])
        until(lambda: len(uploaded(folder)) > len(before), what="the upload's beginning")
    until(lambda: uploaded(folder) == before, what="the end of the upload")


def test_web_pages_submit_and_cancel_nothing(url: str) -> None:
    job = submit(url)
    for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        assert httpx.post(url, json=SCORE | {"input": "a"}, headers=headers).status_code == 403
        assert httpx.delete(f"{url}/{job['id']}", headers=headers).status_code == 403
        large = form(b"x" * 300_000)
        assert httpx.post(url, content=large, headers=headers | {"Content-Type": FORM}).status_code == 403


def events_of(connection: http.client.HTTPConnection, path: str, **headers: str) -> http.client.HTTPResponse:
    connection.request("GET", path, headers=headers)
    return connection.getresponse()


@pytest.mark.parametrize("ending", ["/events", ""])
def test_changes_are_told_as_they_come_until_the_job_ends(url: str, api: ApiProcess, ending: str) -> None:
    job = submit(url)["id"]
    accept = {} if ending else {"Accept": "text/event-stream"}
    connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=20)
    answer = events_of(connection, f"/v1/jobs/{job}{ending}", **accept)
    assert answer.getheader("Content-Type") == "text/event-stream"
    assert answer.readline() == b"event: progress\n"
    assert json.loads(answer.readline().removeprefix(b"data: "))["state"] == "queued"
    httpx.delete(f"{url}/{job}")
    rest = answer.read()
    assert rest.startswith(b"\nevent: end\n")
    assert b'"state": "canceled"' in rest


def test_many_who_watch_keep_nobody_waiting_and_are_let_go(url: str, api: ApiProcess) -> None:
    job = submit(url)["id"]
    connections = [http.client.HTTPConnection("127.0.0.1", api.port, timeout=20) for _ in range(100)]
    answers = [events_of(connection, f"/v1/jobs/{job}/events") for connection in connections]
    assert httpx.get(f"{url}/{job}").status_code == 200
    for answer, connection in zip(answers, connections, strict=True):
        answer.close()
        connection.close()
    httpx.delete(f"{url}/{job}")


def test_a_server_that_stops_lets_go_of_those_who_watch(
    redis_for_jobs: RedisServer, folder: Path, tmp_path: Path
) -> None:
    api = start(redis_for_jobs, folder, tmp_path / "log")
    job = submit(f"http://127.0.0.1:{api.port}/v1/jobs")["id"]
    connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=20)
    answer = events_of(connection, f"/v1/jobs/{job}/events")
    assert answer.readline() == b"event: progress\n"
    assert api.stop() < 15
    answer.read()
    connection.close()


def test_a_result_is_sent_from_the_disk(url: str, store: JobStore, api: ApiProcess) -> None:
    job = submit(url)["id"]
    outputs = store.job_folder(job) / "outputs"
    outputs.mkdir(parents=True)
    data = bytes(range(256)) * (100 * MB // 256)
    (outputs / "scored.csv").write_bytes(data)
    (outputs / "small.md").write_bytes(b"# small")
    store.transition(job, ("queued",), "finished", outputs='["scored.csv", "small.md"]')
    assert httpx.get(f"{url}/{job}").json()["links"]["result"] == f"/v1/jobs/{job}/result"
    before = api.memory_bytes
    with api.watched() as peak:
        answer = httpx.get(f"{url}/{job}/result", timeout=60)
    assert answer.content == data
    assert "filename=scored.csv" in answer.headers["Content-Disposition"]
    assert peak[0] - before < 40 * MB
    assert httpx.get(f"{url}/{job}/result", params={"name": "small.md"}).content == b"# small"
    assert httpx.head(f"{url}/{job}/result").headers["Content-Length"] == str(len(data))
    assert httpx.get(f"{url}/{job}/result", params={"name": "../../x"}).status_code == 404
