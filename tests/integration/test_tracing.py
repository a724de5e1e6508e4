"""Traces: the W3C header taken, answered and passed on, and spans as a real OTLP receiver has them."""

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest

from millrace.broker.redis import RedisBroker
from serving.call import Call
from serving.tracing.context import TraceContext, read
from serving.tracing.ended import Ended
from serving.tracing.errors import TracingError
from serving.tracing.sampling import sampler_of
from serving.tracing.tracer import Tracer, tracer_of
from tests.support.api_process import ApiProcess
from tests.support.remotes import Described, floats_to_threes
from tests.support.running import RedisServer, free_port, until
from tests.support.workers import local_worker
from worker.settings import WorkerSettings

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = f"00-{TRACE}-{SPAN}-01"
STAGES = ["parse", "queue", "batch", "compute", "reply"]


@pytest.mark.parametrize(
    ("header", "found"),
    [
        (SAMPLED, (int(TRACE, 16), int(SPAN, 16), True)),
        (f"00-{TRACE}-{SPAN}-00", (int(TRACE, 16), int(SPAN, 16), False)),
        (f"cc-{TRACE}-{SPAN}-01-what-comes", (int(TRACE, 16), int(SPAN, 16), True)),
        (f"00-{TRACE}-{SPAN}-01-more", None),
        (f"ff-{TRACE}-{SPAN}-01", None),
        (f"00-{TRACE.upper()}-{SPAN}-01", None),
        (f"00-{'0' * 32}-{SPAN}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE}-{SPAN}", None),
        ("", None),
    ],
)
def test_the_header_is_read_as_the_recommendation_says(header: str, found: object) -> None:
    assert read(header.encode()) == found


@pytest.mark.parametrize(
    ("name", "argument", "alone", "below_sampled", "below_unsampled"),
    [
        ("", "", 1.0, 1.0, 0.0),
        ("always_on", "", 1.0, 1.0, 1.0),
        ("always_off", "", 0.0, 0.0, 0.0),
        ("parentbased_always_off", "", 0.0, 1.0, 0.0),
        ("traceidratio", "0.25", 0.25, 0.25, 0.25),
        ("parentbased_traceidratio", "0.25", 0.25, 1.0, 0.0),
    ],
)
def test_requests_are_sampled_as_the_variables_say(
    name: str, argument: str, alone: float, below_sampled: float, below_unsampled: float
) -> None:
    sampler = sampler_of({"OTEL_TRACES_SAMPLER": name, "OTEL_TRACES_SAMPLER_ARG": argument})
    ids = [(number << 54) + 1 for number in range(1024)]
    for header, share in ((None, alone), (SAMPLED, below_sampled), (f"00-{TRACE}-{SPAN}-00", below_unsampled)):
        parent = read(header.encode() if header else None)
        assert sum(sampler(trace_id, parent) for trace_id in ids) == share * len(ids)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OTEL_TRACES_SAMPLER", "sometimes"),
        ("OTEL_TRACES_SAMPLER_ARG", "2"),
        ("OTEL_BSP_SCHEDULE_DELAY", "soon"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
    ],
)
def test_a_variable_that_cannot_be_followed_is_named(variable: str, value: str) -> None:
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_TRACES_SAMPLER": "traceidratio", variable: value}
    with pytest.raises(TracingError, match=variable):
        tracer_of(environ, Kept)


@pytest.mark.parametrize("environ", [{}, {"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none"}])
def test_nothing_is_traced_where_nobody_asks_for_it(environ: dict[str, str]) -> None:
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"} if environ else {}
    assert tracer_of(environ | endpoint, Kept) is None


class Kept:
    """An exporter that keeps what it gets; it waits for `may_go` first, and fails while it is `broken`."""

    def __init__(self) -> None:
        self.traces: list[Ended] = []
        self.may_go = threading.Event()
        self.broken = False

    def export(self, traces: Sequence[Ended]) -> bool:
        self.may_go.wait(30)
        if self.broken:
            raise OSError("the collector is gone")
        self.traces += traces
        return True

    def close(self) -> None:
        """Nothing is held."""


def test_what_finds_no_room_is_dropped_and_counted_and_nobody_waits() -> None:
    exporter = Kept()
    tracer = Tracer(sampler_of({}), exporter, most=4, together=2, delay_s=0.01)
    tracer.start()
    context = tracer.begin(SAMPLED.encode())
    for number in range(20):
        tracer.end(context, Call("oip", str(number), 0.0))
    exporter.may_go.set()
    tracer.stop(30)
    assert tracer.counts["exported"] == len(exporter.traces) < 20
    assert tracer.counts["dropped"] == 20 - len(exporter.traces) > 0


def test_a_collector_that_fails_stops_nothing() -> None:
    exporter = Kept()
    exporter.broken = True
    exporter.may_go.set()
    tracer = Tracer(sampler_of({}), exporter, delay_s=0.01)
    tracer.start()
    tracer.end(tracer.begin(None), Call("oip", "1", 0.0))
    until(lambda: tracer.counts["failed"] == 1)
    exporter.broken = False
    tracer.end(tracer.begin(None), Call("oip", "2", 0.0))
    until(lambda: tracer.counts["exported"] == 1)
    tracer.stop(30)


def test_what_travels_with_a_request_is_its_id_and_the_header_of_its_own_span() -> None:
    context = TraceContext(int(TRACE, 16), 0, 5, is_sampled=True, received_at=0.0)
    assert context.beside("id") == f"id 00-{TRACE}-0000000000000005-01"
    unsampled = TraceContext(int(TRACE, 16), 0, 5, is_sampled=False, received_at=0.0)
    assert unsampled.beside("id") == "id"
    assert unsampled.traceparent == f"00-{TRACE}-0000000000000005-00"


# A real receiver


class Receiver:
    """An OTLP receiver over HTTP, which decodes with the official messages."""

    def __init__(self) -> None:
        messages = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
        self.spans: list[tuple[dict[str, Any], Any]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.path == "/v1/traces"
                body = self.rfile.read(int(self.headers["content-length"]))
                request = messages.ExportTraceServiceRequest.FromString(body)
                for resource in request.resource_spans:
                    of = values(resource.resource.attributes)
                    receiver.spans += [(of, span) for scope in resource.scope_spans for span in scope.spans]
                self.send_response(200)
                self.send_header("content-type", "application/x-protobuf")
                self.end_headers()
                self.wfile.write(messages.ExportTraceServiceResponse().SerializeToString())

            def log_message(self, *_: object) -> None:
                """It says nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def of(self, request_id: str) -> dict[str, Any]:
        """The spans of a request, by name, once all are there."""

        def found() -> dict[str, Any]:
            spans = [span for _, span in list(self.spans)]
            return {s.name: s for s in spans if values(s.attributes).get("millrace.request_id") == request_id}

        until(found, what="the spans")
        return found()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def values(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture(scope="module")
def remote() -> Iterator[tuple[Described, int]]:
    """A TensorFlow Serving elsewhere, and its port."""
    described = floats_to_threes()
    with described as port:
        yield described, port


@pytest.fixture(scope="module")
def api(
    receiver: Receiver,
    remote: tuple[Described, int],
    tmp_path_factory: pytest.TempPathFactory,
    make_onnx: Callable[..., Path],
) -> Iterator[ApiProcess]:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    folder = tmp_path_factory.mktemp("traced")
    make_onnx(folder / "models")
    there = folder / "models" / "remote" / "1"
    there.mkdir(parents=True)
    (there / "tfserving.json").write_text(json.dumps({"address": f"127.0.0.1:{remote[1]}", "model": "m"}))
    redis = RedisServer(folder / "redis.sock")
    redis.start()
    patch = pytest.MonkeyPatch()
    patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
    patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    patch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
    settings = WorkerSettings(models=folder / "models", redis_url=redis.url)
    worker = local_worker(settings, RedisBroker(settings.redis_url))
    try:
        with (
            ThreadPoolExecutor() as pool,
            ApiProcess(redis.url, folder / "log", grpc_port=free_port()) as process,
        ):
            running = pool.submit(worker.run)
            try:
                paths = [f"/v2/models/{model}/ready" for model in ("tiny", "remote")]
                until(lambda: all(process.ask("GET", path)[0] == 200 for path in paths), 60, "the models")
                yield process
            finally:
                worker.stop()
                running.result(30)
    finally:
        patch.undo()
        redis.kill()


def predict(api: ApiProcess, body: bytes = b'{"instances": [[1, 2, 3]]}', **headers: str) -> Any:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return api.ask("POST", "/v1/models/tiny:predict", body, named)


def test_a_request_becomes_a_span_and_one_for_each_stage_below_the_callers_own(
    api: ApiProcess, receiver: Receiver
) -> None:
    status, headers, body = predict(api, x_request_id="mine", traceparent=SAMPLED)
    assert status == 200, body
    spans = receiver.of("mine")
    root = spans.pop("infer tiny")
    assert (root.trace_id.hex(), root.parent_span_id.hex()) == (TRACE, SPAN)
    assert headers["traceparent"] == f"00-{TRACE}-{root.span_id.hex()}-01"
    assert [name for name in spans if name != "receive"] == STAGES  # the body may come a moment after the head
    assert {span.parent_span_id for span in spans.values()} == {root.span_id}
    ordered = [root.start_time_unix_nano, *(s.end_time_unix_nano for s in spans.values()), root.end_time_unix_nano]
    assert ordered == sorted(ordered)
    said = values(spans["compute"].attributes)
    assert (said["millrace.model.name"], said["millrace.model.version"], said["millrace.batch.rows"]) == ("tiny", 1, 1)
    assert values(root.attributes)["http.response.status_code"] == 200
    of = next(of for of, span in receiver.spans if span.span_id == root.span_id)
    assert (of["service.name"], of["deployment.environment"]) == ("millrace", "test")


def test_a_large_body_has_a_span_for_its_arrival_and_a_failed_call_says_why(
    api: ApiProcess, receiver: Receiver
) -> None:
    with api.connect(b"POST /v1/models/tiny:predict HTTP/1.1\r\nHost: x\r\nX-Request-Id: slow\r\n") as connection:
        connection.sendall(b"traceparent: %b\r\nContent-Length: 2\r\n\r\n{" % SAMPLED.encode())
        assert not threading.Event().wait(0.1)
        connection.sendall(b"}")
        connection.setblocking(True)
        assert b"400" in connection.recv(4096).split(b"\r\n")[0]
    spans = receiver.of("slow")
    arrival = spans["receive"]
    assert arrival.end_time_unix_nano - arrival.start_time_unix_nano > 50_000_000
    assert values(spans["infer tiny"].attributes)["error.type"] == "INVALID_ARGUMENT"


def test_what_the_caller_does_not_sample_is_answered_and_not_sent(api: ApiProcess, receiver: Receiver) -> None:
    _, headers, _ = predict(api, x_request_id="unsampled", traceparent=f"00-{TRACE}-{SPAN}-00")
    assert headers["traceparent"].startswith(f"00-{TRACE}-")
    assert headers["traceparent"].endswith("-00")
    predict(api, x_request_id="after")
    assert receiver.of("after")
    assert not [s for _, s in receiver.spans if values(s.attributes)["millrace.request_id"] == "unsampled"]


def test_grpc_calls_are_traced_too(api: ApiProcess, receiver: Receiver) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{api.grpc_port}") as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError):
            call(b"\x0a\x04tiny", metadata=(("traceparent", SAMPLED), ("x-request-id", "rpc")), timeout=30)
    root = receiver.of("rpc")["infer tiny"]
    assert (root.trace_id.hex(), root.parent_span_id.hex()) == (TRACE, SPAN)


def test_a_remote_tensorflow_serving_is_told_the_span_of_the_request(
    api: ApiProcess, receiver: Receiver, remote: tuple[Described, int]
) -> None:
    def ask(request_id: str, **headers: str) -> str:
        named = {"x-request-id": request_id, **headers}
        status, _, body = api.ask("POST", "/v1/models/remote:predict", b'{"instances": [[1, 2, 3]]}', named)
        assert status == 200, body
        return dict(remote[0].metadata[-1]).get("traceparent", "")

    told = ask("through", traceparent=SAMPLED)
    root = receiver.of("through")["infer remote"]
    assert told == f"00-{TRACE}-{root.span_id.hex()}-01"
    assert ask("alone", traceparent=f"00-{TRACE}-{SPAN}-00") == ""


def test_how_many_were_sent_is_counted(api: ApiProcess, receiver: Receiver) -> None:
    predict(api, x_request_id="counted")
    assert receiver.of("counted")
    until(lambda: b'millrace_traces_total{outcome="exported"}' in api.ask("GET", "/metrics")[2])
    assert b'millrace_traces_total{outcome="dropped"} 0.0' in api.ask("GET", "/metrics")[2]
