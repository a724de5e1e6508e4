"""The page for browsers, without a browser: its headers, its size, what it may load, and what it asks of the API."""

import asyncio
import re
from collections.abc import Iterator

import msgspec
import pytest
from flask.testing import FlaskClient

from millrace.broker.memory import MemoryBroker
from millrace.protocol.errors import Unavailable
from millrace.protocol.messages import ModelAnnouncement, WorkerAnnouncement
from serving.call import Call
from serving.monitoring.counts import MOST_SLOW, Counts, Present
from serving.monitoring.slow import SlowRequests
from serving.monitoring.stack import Stack, StackFeed
from serving.service import Service
from serving.settings import ServingSettings
from serving.web import openapi
from serving.web.page_files import page_files
from serving.web.wsgi import run

BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


def _client(settings: ServingSettings) -> Iterator[FlaskClient]:
    app, stop = run(Service(settings, MemoryBroker()))
    yield app.test_client()
    stop()


@pytest.fixture(scope="module")
def client() -> Iterator[FlaskClient]:
    yield from _client(ServingSettings())


@pytest.fixture
def without_page() -> Iterator[FlaskClient]:
    yield from _client(ServingSettings(playground=False))


def test_browsers_get_the_page_and_api_clients_the_json(client: FlaskClient) -> None:
    assert client.get("/", headers=BROWSER).content_type == "text/html; charset=utf-8"
    for accept in ({}, {"Accept": "*/*"}, {"Accept": "application/json"}):
        answer = client.get("/", headers=accept)
        assert answer.get_json()["status"] == "alive"
        assert answer.get_json()["docs"] == "/docs"
        assert answer.headers["Vary"] == "Accept"


def test_without_the_playground_browsers_get_the_json_too(without_page: FlaskClient) -> None:
    assert without_page.get("/", headers=BROWSER).get_json()["status"] == "alive"
    assert without_page.get("/page/index.html").status_code == 404
    assert without_page.get("/docs").status_code == without_page.get("/page/docs.js").status_code == 200


@pytest.mark.parametrize("path", ["/", "/docs", "/page/main.js", "/page/page.css", "/page/icon.svg"])
def test_no_page_runs_what_is_not_its_own(client: FlaskClient, path: str) -> None:
    headers = client.get(path, headers=BROWSER).headers
    policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_the_pages_have_no_inline_script_or_style(client: FlaskClient, path: str) -> None:
    text = client.get(path, headers=BROWSER).text
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:|<script(?![^>]*\ssrc=)", text)
    for where in re.findall(r'(?:src|href)="([^"#]+)"', text):
        assert client.get(where).status_code == 200, where


def test_the_page_is_small_and_makes_no_html_of_data() -> None:
    files = page_files()
    assert sum(len(page.body) for page in files.values()) < 300_000
    for path, page in files.items():
        if path.endswith(".js"):
            text = page.body.decode()
            assert not re.search(
                r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text
            ), path
            assert not re.search(r"localStorage|sessionStorage|document\.cookie|indexedDB", text), path
            assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text), path
            for module in re.findall(r'from "\./([\w.]+)"', text):
                assert f"/page/{module}" in files, f"{path} imports {module}"


def test_the_page_uses_the_documented_api_alone() -> None:
    documented = [re.compile(re.sub(r"\{\w+\}", "[^/:]+", operation.path)) for operation in openapi.OPERATIONS]
    beginnings = tuple(re.sub(r"\{\w+\}", "x", operation.path) for operation in openapi.OPERATIONS)
    found = set()
    for path, page in page_files().items():
        if path.endswith(".js"):
            text = re.sub(r"\$\{[^}]*\}", "x", page.body.decode())
            found |= {(path, each) for each in re.findall(r'["`](/v[12][^"`?\s]*)', text)}
    assert len(found) > 10
    for path, used in found:
        is_begun = any(each.startswith(f"{used}/") for each in beginnings)
        assert is_begun or any(each.fullmatch(used) for each in documented), f"{path} uses {used}"


# The stack's document


def _slow(requests: SlowRequests, seconds: float) -> None:
    if seconds > requests.least_s:
        requests.add(Call("http", f"after {seconds}", 0.0, seconds=seconds, status=200))


def test_the_slowest_requests_of_the_last_minute_are_kept() -> None:
    now = [1000.0]
    requests = SlowRequests(lambda: now[0])
    for seconds in (0.1, 0.5, *[0.2] * 20, 0.9):
        _slow(requests, seconds)
    kept = [request.duration_ms for request in requests.recent()]
    assert kept == [900.0, 500.0, *[200.0] * (MOST_SLOW - 2)]
    assert requests.least_s == 0.2
    now[0] += 61
    assert requests.recent() == []
    assert requests.least_s == 0.0


def test_what_several_processes_found_slow_is_merged_and_their_open_requests_added() -> None:
    first, second = SlowRequests(), SlowRequests()
    for number in range(MOST_SLOW):
        _slow(first, 0.1 + number)
        _slow(second, 0.2 + number)
    counts = Counts(present=Present(in_flight={("m", 1): (2, 2)}), slow=first.recent())
    counts.add(Counts(present=Present(in_flight={("n", 1): (3, 9)}), slow=second.recent()))
    assert counts.open_requests == 5
    assert [request.duration_ms for request in counts.slow[:3]] == [7200.0, 7100.0, 6200.0]
    assert len(counts.slow) == MOST_SLOW


def _feed(clock: list[float], asked: list[int]) -> StackFeed:
    async def total() -> Counts:
        asked.append(1)
        counts = Counts(queue_up=True)
        counts.of("a", 1).ended["http", 200] = counts.of("b", 1).ended["grpc", 503] = 2
        return counts

    models = tuple(ModelAnnouncement(name=name, version=1, state="AVAILABLE") for name in "ab")
    workers = [WorkerAnnouncement(worker="w", expires_ms=1, models=models)]
    return StackFeed(total, lambda: workers, lambda: clock[0])


def test_however_many_watch_what_was_counted_is_read_once_a_second() -> None:
    async def watch() -> None:
        clock, asked = [0.0], list[int]()
        feed = _feed(clock, asked)
        await asyncio.gather(*(feed.latest() for _ in range(50)))
        assert len(asked) == 1
        clock[0] = 1.0
        await asyncio.gather(*(feed.latest() for _ in range(50)))
        assert len(asked) == 2

    asyncio.run(watch())


def test_a_caller_sees_of_the_stack_the_models_that_its_key_is_good_for() -> None:
    async def look() -> None:
        feed = _feed([0.0], [])
        everything = msgspec.json.decode(await feed.latest(), type=Stack)
        assert [(model.name, model.requests) for model in everything.models] == [("a", {"200": 2}), ("b", {"503": 2})]
        seen = msgspec.json.decode(await feed.latest(lambda name: name == "a"), type=Stack)
        assert [model.name for model in seen.models] == ["a"]
        assert [model.name for worker in seen.workers for model in worker.models] == ["a"]

    asyncio.run(look())


def test_too_many_watchers_are_told_to_ask_instead() -> None:
    feed = _feed([0.0], [])
    for _ in range(64):
        feed.enter()
    with pytest.raises(Unavailable, match="ask for /v1/stack"):
        feed.enter()
    feed.leave()
    feed.enter()
