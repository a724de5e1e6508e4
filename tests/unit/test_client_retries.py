"""Both clients against a real server with scripted answers: the same table of cases for `Client` and `AsyncClient`."""

import asyncio
import random
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import httpx2
import pytest
from millrace_client import (
    AsyncClient,
    Client,
    ConnectionFailed,
    DeadlineExceeded,
    InvalidRequest,
    InvalidResponse,
    MillraceError,
    NotFound,
    NotSupported,
    Overloaded,
    PayloadTooLarge,
    ServerError,
    Unavailable,
)
from millrace_client.endpoint import endpoint
from millrace_client.testing import Answer, ScriptedServer

METADATA = "GET /v2/models/half"
INFER = "POST /v2/models/half/infer"
KNOWN = Answer(
    200,
    {
        "name": "half",
        "versions": ["3"],
        "platform": "test",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}],
    },
)
HALVED = Answer(
    200,
    {
        "model_name": "half",
        "model_version": "3",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [0.5, 1.0]}],
    },
    {"X-Request-Id": "r-1", "Server-Timing": 'queue;dur=1.5, compute;desc="a, b";dur=0.25, cache'},
)


class Clock:
    """Time that passes only when somebody waits."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.waits: list[float] = []

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now_s += seconds

    async def asleep(self, seconds: float) -> None:
        self.sleep(seconds)


class Asked:
    """One of the two clients, used for one call."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.clock = Clock()

    def __call__(self, url: str, method: str, *args: Any, client: dict[str, Any] | None = None, **options: Any) -> Any:
        settings: dict[str, Any] = {"clock": self.clock, "rng": random.Random(1), **(client or {})}
        if self.kind == "sync":
            with Client(url, **{"sleep": self.clock.sleep, **settings}) as asked:
                return getattr(asked, method)(*args, **options)
        return asyncio.run(self._later(url, settings, lambda asked: getattr(asked, method)(*args, **options)))

    async def _later(self, url: str, settings: dict[str, Any], ask: Callable[[AsyncClient], Awaitable[Any]]) -> Any:
        async with AsyncClient(url, **{"sleep": self.clock.asleep, **settings}) as asked:
            return await ask(asked)


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Asked:
    return Asked(request.param)


def test_a_prediction_carries_outputs_version_request_id_and_timings(ask: Asked) -> None:
    with ScriptedServer({METADATA: [KNOWN], INFER: [HALVED]}) as server:
        answer = ask(server.url, "predict", "half", [1.0, 2.0])
    assert answer.outputs["y"].tolist() == [[0.5, 1.0]]
    assert (answer.model, answer.version, answer.request_id) == ("half", "3", "r-1")
    assert answer.timings == {"queue": 1.5, "compute": 0.25}
    sent = server.received[-1].json()
    assert sent == {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1.0, 2.0]}]}


def test_the_deadline_and_one_request_id_travel_with_all_requests_of_a_call(ask: Asked) -> None:
    refused = Answer(429, {"error": "full"}, {"Retry-After": "0.5"})
    with ScriptedServer({METADATA: [KNOWN], INFER: [refused, HALVED]}) as server:
        ask(server.url, "predict", "half", [1.0, 2.0], timeout_s=2.0)
    left_ms = [float(request.headers["x-request-timeout-ms"]) for request in server.received]
    assert left_ms == [2000, 2000, 1500]
    assert len({request.headers["x-request-id"] for request in server.received}) == 1


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, InvalidRequest),
        (404, NotFound),
        (405, InvalidRequest),
        (413, PayloadTooLarge),
        (500, ServerError),
        (501, NotSupported),
        (502, ServerError),
        (504, DeadlineExceeded),
        (302, InvalidResponse),
    ],
)
def test_a_status_becomes_its_error_with_the_servers_message_and_is_not_tried_again(
    ask: Asked, status: int, expected: type[MillraceError]
) -> None:
    failure = Answer(status, {"error": "no such luck"}, {"X-Request-Id": "r-9"})
    with ScriptedServer({METADATA: [KNOWN], INFER: [failure]}) as server, pytest.raises(expected) as caught:
        ask(server.url, "predict", "half", [1.0, 2.0])
    assert type(caught.value) is expected
    assert (str(caught.value), caught.value.status, caught.value.request_id) == ("no such luck", status, "r-9")
    assert len(server.received) == 2
    assert ask.clock.waits == []


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({"Retry-After": "2"}, 2.0),
        ({"Retry-After": "0.25"}, 0.25),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:04 GMT", "Date": "Wed, 21 Oct 2015 07:28:00 GMT"}, 4.0),
        ({"Retry-After": "Wed, 21 Oct 2015 07:27:00 GMT", "Date": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
    ],
)
def test_retry_after_is_obeyed(ask: Asked, status: int, headers: dict[str, str], wait_s: float) -> None:
    refused = Answer(status, {"error": "later"}, headers)
    with ScriptedServer({METADATA: [KNOWN], INFER: [refused, HALVED]}) as server:
        answer = ask(server.url, "predict", "half", [1.0, 2.0])
    assert answer.version == "3"
    assert ask.clock.waits == [wait_s]


@pytest.mark.parametrize("value", ["", "soon", "-1", "inf", "nan"])
def test_without_a_usable_retry_after_the_waits_are_random_and_bounded_by_a_doubling_time(
    ask: Asked, value: str
) -> None:
    refused = Answer(503, {"error": "no worker"}, {"Retry-After": value})
    with ScriptedServer({METADATA: [refused]}) as server, pytest.raises(Unavailable, match="no worker"):
        ask(server.url, "predict", "half", [1.0, 2.0], client={"retries": 4})
    assert len(server.received) == 5
    assert len(ask.clock.waits) == 4
    assert all(0 <= wait <= 0.1 * 2**n for n, wait in enumerate(ask.clock.waits))
    assert len(set(ask.clock.waits)) == 4


def test_retries_end_with_the_last_error_and_say_when_to_come_again(ask: Asked) -> None:
    refused = Answer(429, {"error": "the queue is full"}, {"Retry-After": "1.5"})
    with ScriptedServer({METADATA: [KNOWN], INFER: [refused]}) as server, pytest.raises(Overloaded) as caught:
        ask(server.url, "predict", "half", [1.0, 2.0], client={"retries": 2})
    assert len(server.received) == 4
    assert caught.value.retry_after_s == 1.5
    assert caught.value.status == 429


def test_no_wait_is_begun_that_would_end_after_the_deadline(ask: Asked) -> None:
    refused = Answer(429, {"error": "full"}, {"Retry-After": "3"})
    with ScriptedServer({METADATA: [KNOWN], INFER: [refused]}) as server, pytest.raises(Overloaded):
        ask(server.url, "predict", "half", [1.0, 2.0], timeout_s=5.0)
    assert ask.clock.waits == [3.0]


def test_a_deadline_that_has_passed_sends_nothing(ask: Asked) -> None:
    with ScriptedServer({}) as server, pytest.raises(DeadlineExceeded) as caught:
        ask(server.url, "predict", "half", [1.0, 2.0], timeout_s=0.0)
    assert server.received == []
    assert caught.value.status is None


def test_a_refused_connection_is_tried_again_and_then_named(ask: Asked) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # not listening, so that connecting is refused
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(ConnectionFailed, match=url) as caught:
            ask(url, "predict", "half", [1.0, 2.0])
        assert ask(url, "is_ready") is False
    assert len(ask.clock.waits) == 3
    assert caught.value.status is None
    assert caught.value.request_id is not None


def test_an_answer_that_breaks_off_is_asked_for_again(ask: Asked) -> None:
    cut = Answer(200, HALVED.document, is_cut=True)
    with ScriptedServer({METADATA: [KNOWN], INFER: [cut, HALVED]}) as server:
        assert ask(server.url, "predict", "half", [1.0, 2.0]).version == "3"
    assert len(ask.clock.waits) == 1


def test_an_answer_that_does_not_come_in_time_is_a_deadline_exceeded_without_status(ask: Asked) -> None:
    with (
        ScriptedServer({METADATA: [KNOWN], INFER: [Answer(is_late=True)]}) as server,
        pytest.raises(DeadlineExceeded, match="no answer from http") as caught,
    ):
        ask(server.url, "predict", "half", [1.0, 2.0], timeout_s=0.1)
    assert caught.value.status is None
    assert caught.value.request_id == server.received[-1].headers["x-request-id"]
    assert ask.clock.waits == []


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Answer(raw=b"<html>a proxy's page</html>"), "not JSON: .*a proxy's page"),
        (Answer(raw=b""), "not JSON: an empty body"),
        (Answer(raw=b"[]"), "no Open Inference response"),
        (
            Answer(document={"outputs": [{"name": "y", "datatype": "FP32", "shape": [3], "data": [1]}]}),
            "no Open Inference",
        ),
        (Answer(document={"outputs": [{"name": "y", "datatype": "FP31", "shape": [1], "data": [1]}]}), "FP31"),
        (Answer(document={"outputs": [{"name": "y", "datatype": "UINT8", "shape": [1], "data": [999]}]}), "UINT8"),
        (Answer(raw=b"no gzip at all", headers={"Content-Encoding": "gzip"}), "cannot be decompressed"),
    ],
)
def test_an_answer_outside_the_protocol_is_an_invalid_response(ask: Asked, answer: Answer, message: str) -> None:
    with ScriptedServer({METADATA: [KNOWN], INFER: [answer]}) as server, pytest.raises(InvalidResponse, match=message):
        ask(server.url, "predict", "half", [1.0, 2.0])
    assert len(server.received) == 2


def test_an_error_whose_body_is_not_json_says_so(ask: Asked) -> None:
    page = Answer(502, raw=b"<h1>Bad\n Gateway</h1>")
    with ScriptedServer({METADATA: [page]}) as server, pytest.raises(ServerError) as caught:
        ask(server.url, "predict", "half", [1.0, 2.0])
    assert str(caught.value) == "the server answered 502 without a JSON error: '<h1>Bad Gateway</h1>'"


@pytest.mark.parametrize("document", [[], {"name": "half", "inputs": [{"name": "x"}]}, {"inputs": 3, "name": "half"}])
def test_metadata_outside_the_protocol_are_an_invalid_response(ask: Asked, document: Any) -> None:
    with (
        ScriptedServer({METADATA: [Answer(200, document)]}) as server,
        pytest.raises(InvalidResponse, match="metadata") as caught,
    ):
        ask(server.url, "metadata", "half")
    assert caught.value.status == 200


@pytest.mark.parametrize(
    ("answers", "expected"), [([Answer(200)], True), ([Answer(400)], False), ([Answer(503), Answer(200)], False)]
)
def test_readiness_is_asked_once_and_is_the_status(ask: Asked, answers: list[Answer], expected: bool) -> None:
    routes = {"GET /v2/health/ready": answers, "GET /v2/models/a%2Fb/ready": answers}
    with ScriptedServer(routes) as server:
        assert ask(server.url, "is_ready") is expected
    with ScriptedServer(routes) as server:
        assert ask(server.url, "is_ready", "a/b") is expected
    assert ask.clock.waits == []


def test_the_models_are_listed_with_the_state_of_each_version(ask: Asked) -> None:
    listing = {
        "models": [
            {
                "name": "digits",
                "versions": [
                    {"version": "2", "state": "LOADING", "error_message": ""},
                    {"version": "1", "state": "AVAILABLE"},
                ],
                "labels": ["0", "1"],
            }
        ]
    }
    with ScriptedServer({"GET /v1/models": [Answer(200, listing)]}) as server:
        (model,) = ask(server.url, "models")
    assert (model.name, model.labels, model.description) == ("digits", ("0", "1"), "")
    assert [(version.version, version.state) for version in model.versions] == [("2", "LOADING"), ("1", "AVAILABLE")]


@pytest.mark.parametrize("document", [[], {}, {"models": [{}]}])
def test_a_listing_outside_the_protocol_is_an_invalid_response(ask: Asked, document: Any) -> None:
    with (
        ScriptedServer({"GET /v1/models": [Answer(200, document)]}) as server,
        pytest.raises(InvalidResponse, match="list of models"),
    ):
        ask(server.url, "models")


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://example.org", "http://", ""])
@pytest.mark.parametrize("client", [Client, AsyncClient])
def test_a_url_of_no_server_is_refused_at_once(client: type[Client | AsyncClient], url: str) -> None:
    with pytest.raises(ValueError, match="http:// or https://"):
        client(url)


@pytest.mark.parametrize(
    ("url", "transport", "expected"),
    [
        (None, None, ("http://127.0.0.1:8000", "json")),
        (None, "binary", ("http://127.0.0.1:8000", "binary")),
        (None, "grpc", ("grpc://127.0.0.1:8001", "grpc")),
        ("https://models.example/", None, ("https://models.example", "json")),
        ("grpcs://models.example:443", None, ("grpcs://models.example:443", "grpc")),
        ("http://models.example", "json", ("http://models.example", "json")),
    ],
)
@pytest.mark.parametrize("client", [Client, AsyncClient])
def test_url_and_transport_follow_from_each_other(
    client: type[Client | AsyncClient], url: str | None, transport: Any, expected: tuple[str, str]
) -> None:
    made = client(url, transport=transport)
    assert (made.url, made.transport) == expected


@pytest.mark.parametrize(
    ("url", "transport", "variable", "expected"),
    [
        (None, None, "https://models.example/", ("https://models.example", "json")),
        (None, "binary", "https://models.example", ("https://models.example", "binary")),
        (None, None, "grpc://models.example:8001", ("grpc://models.example:8001", "grpc")),
        (None, None, "", ("http://127.0.0.1:8000", "json")),
        ("http://other.example", None, "https://models.example", ("http://other.example", "json")),
        ("http://other.example", None, "nonsense", ("http://other.example", "json")),
    ],
)
def test_where_no_url_is_given_a_variable_names_the_server(
    url: str | None, transport: Any, variable: str, expected: tuple[str, str]
) -> None:
    found = endpoint(url, transport, {"MILLRACE_URL": variable})
    assert (found.url, found.transport) == expected


@pytest.mark.parametrize(
    ("variable", "transport"), [("http://models.example", "grpc"), ("grpc://h", "json"), ("models.example:8000", None)]
)
def test_a_variable_that_cannot_be_followed_is_named(variable: str, transport: Any) -> None:
    with pytest.raises(ValueError, match=f"'{variable}' in MILLRACE_URL"):
        endpoint(None, transport, {"MILLRACE_URL": variable})


@pytest.mark.parametrize(
    ("url", "transport"),
    [("http://models.example", "grpc"), ("grpc://models.example", "binary"), ("http://models.example", "pigeon")],
)
def test_a_url_and_a_transport_that_contradict_each_other_are_refused_at_once(url: str, transport: Any) -> None:
    with pytest.raises(ValueError, match=transport):
        Client(url, transport=transport)


def test_every_error_of_the_http_library_becomes_one_of_ours() -> None:
    def kinds(base: type[httpx2.RequestError]) -> list[type[httpx2.RequestError]]:
        return [base, *(kind for child in base.__subclasses__() for kind in kinds(child))]

    for kind in kinds(httpx2.RequestError):

        def broken(request: httpx2.Request, kind: type[httpx2.RequestError] = kind) -> httpx2.Response:
            raise kind("the wire is cut", request=request)

        with Client(network=httpx2.MockTransport(broken), retries=0) as client, pytest.raises(MillraceError):
            client.models()


def test_a_sync_call_ends_soon_after_its_deadline_even_if_the_answer_drips() -> None:
    clock = Clock()

    class Drip(httpx2.SyncByteStream):
        def __iter__(self):  # type: ignore[no-untyped-def]
            for _ in range(1000):
                clock.now_s += 0.3
                yield b" "

    drip = httpx2.MockTransport(lambda request: httpx2.Response(200, stream=Drip()))
    with Client(network=drip, clock=clock, timeout_s=1.0) as client, pytest.raises(DeadlineExceeded):
        client.models()
    assert clock.now_s < 102


def test_metadata_are_read_once_a_minute_and_again_after_a_refused_request() -> None:
    clock = Clock()
    with ScriptedServer({METADATA: [KNOWN], INFER: [HALVED]}) as server, Client(server.url, clock=clock) as client:

        def metadata_requests() -> int:
            return sum(request.method == "GET" for request in server.received)

        client.predict("half", [1.0, 2.0])
        client.predict("half", [1.0, 2.0])
        assert metadata_requests() == 1
        clock.now_s += 61
        client.predict("half", [1.0, 2.0])
        assert metadata_requests() == 2
        with pytest.raises(InvalidRequest):
            client.predict("half", [1.0, 2.0, 3.0])
        client.predict("half", [1.0, 2.0])
        assert metadata_requests() == 3


def test_an_async_client_serves_many_tasks_at_once() -> None:
    async def gather(url: str) -> list[Any]:
        async with AsyncClient(url) as client:
            return await asyncio.gather(*(client.predict("half", [1.0, 2.0]) for _ in range(20)))

    with ScriptedServer({METADATA: [KNOWN], INFER: [HALVED]}) as server:
        answers = asyncio.run(gather(server.url))
    assert [answer.version for answer in answers] == ["3"] * 20
