"""HTTP/2 on real connections: three protocols on a port, flow control, what waits and how long, and stopping."""

import asyncio
import json
import shutil
import subprocess
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from millrace import rpc
from millrace.protocol.errors import MillraceError
from serving.settings import ServingSettings
from serving.transport.budget import Budget
from serving.transport.handler import Done
from serving.transport.http2 import frames
from serving.transport.http2.exchange import SPARE_BYTES
from serving.transport.http2.frames import ErrorCode
from serving.transport.http_server import HttpServer
from serving.transport.request_head import RequestHead
from serving.transport.responses import HttpResponse
from tests.support.grpcbench import INFER, infer_request, infer_response, run, running
from tests.support.http2client import connected
from tests.support.http2frames import GRPC, HELLO, block, data, fields_in, headers, message
from tests.support.running import free_port
from tests.support.tls import Certificates

LIVE = "/inference.GRPCInferenceService/ServerLive"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
CALL = [(":path", INFER) if name == ":path" else (name, value) for name, value in GRPC]
MB = 1_000_000


def rest(method: str, path: str, *more: tuple[str, str]) -> list[tuple[str, str]]:
    return [(":method", method), (":scheme", "http"), (":path", path), (":authority", "localhost"), *more]


def infer_message(*values: float, **options: Any) -> bytes:
    return message(infer_request(*values, **options).SerializeToString())


def wide_request(rows: int, columns: int) -> Any:
    request = rpc.message("inference.ModelInferRequest")(model_name="wide")
    request.inputs.add(name="x", datatype="FP32", shape=[rows, columns])
    request.raw_input_contents.append(np.arange(rows * columns, dtype=np.float32).tobytes())
    return request


# Three protocols


@run
async def test_each_port_speaks_all_three_protocols() -> None:
    async with running() as b:
        for port in (b.settings.port, b.settings.grpc_port):
            async with httpx.AsyncClient() as http1:
                wish = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABkAAQ"}
                answer = await http1.get(f"http://127.0.0.1:{port}/v2/health/live", headers=wish)
                assert (answer.status_code, answer.http_version) == (200, "HTTP/1.1")
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                assert await channel.unary_unary(LIVE)(b"")
            async with connected(port) as client:
                client.send(headers(1, rest("GET", "/v2/health/live"), ends=True))
                head = await client.fields(1)
                assert (head[":status"], head["content-type"]) == ("200", "application/json")
                assert json.loads(await client.body(1)) == {"live": True}


@run
async def test_the_preface_may_come_byte_by_byte_but_not_behind_a_request() -> None:
    async with running() as b:
        async with connected(b.settings.port, b"") as client:
            for i in range(len(HELLO)):
                client.send(HELLO[i : i + 1])
                await asyncio.sleep(0)
            client.send(headers(1, ends=True))
            await client.fields(1)
        reader, writer = await asyncio.open_connection("127.0.0.1", b.settings.port)
        writer.write(b"GET /v2/health/live HTTP/1.1\r\nhost: localhost\r\n\r\n" + HELLO)
        answers = await asyncio.wait_for(reader.read(), 10)
        assert answers.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b'{"live":true}HTTP/1.1 400 Bad Request\r\n' in answers
        writer.close()


@pytest.mark.skipif(not shutil.which("curl"), reason="there is no curl")
def test_each_port_speaks_all_three_protocols_over_tls(certificates: Certificates) -> None:
    authority = certificates.file("ca.crt")
    files: dict[str, Any] = {
        "tls_cert": Path(certificates.file("server.crt")),
        "tls_key": Path(certificates.file("server.key")),
    }

    @run
    async def test() -> None:
        async with running(**files) as b:
            for port in (b.settings.port, b.settings.grpc_port):
                credentials = grpc.ssl_channel_credentials(Path(authority).read_bytes())
                async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials) as channel:
                    asked = infer_request(*range(2000)).SerializeToString()
                    answer = await b.answered(channel.unary_unary(INFER)(asked))
                    assert infer_response(answer)[1] == [2 * i for i in range(2000)]
                for wanted, version in (("--http2", b"2"), ("--http1.1", b"1.1")):
                    command = ["curl", "-s", "-m", "20", "--cacert", authority, wanted, "-w", " %{http_version}"]
                    url = f"https://127.0.0.1:{port}/v2/health/live"
                    process = await asyncio.create_subprocess_exec(*command, url, stdout=subprocess.PIPE)
                    assert (await process.communicate())[0] == b'{"live":true} ' + version

    test()


@pytest.mark.skipif(not shutil.which("curl"), reason="there is no curl")
@run
async def test_curl_speaks_http2_to_the_rest_api() -> None:
    async with running() as b:

        async def curl(*arguments: str) -> tuple[str, str]:
            command = ["curl", "-s", "-m", "20", "--http2-prior-knowledge", "-w", "\n%{http_code} %{http_version}"]
            process = await asyncio.create_subprocess_exec(*command, *arguments, stdout=subprocess.PIPE)
            output, _ = await process.communicate()
            body, _, status = output.decode().rpartition("\n")
            return body, status

        url = f"http://127.0.0.1:{b.settings.port}"
        asked = asyncio.ensure_future(curl("-d", '{"instances":[1,2]}', f"{url}/v1/models/m:predict"))
        await b.taken()
        body, status = await asked
        assert (json.loads(body), status) == ({"predictions": [2.0, 4.0]}, "200 2")
        body, status = await curl("-d", "no JSON", f"{url}/v1/models/m:predict")
        assert status == "400 2"
        body, status = await curl("-I", f"{url}/v2")
        assert status == "200 2"


# Requests of the REST API


@run
async def test_a_rest_request_has_the_limits_and_refusals_that_it_has_over_http1() -> None:
    predict = "/v1/models/m:predict"
    async with running(max_body_bytes=60_000) as b, connected(b.settings.port) as client:
        cases = {
            1: (rest("POST", predict, ("content-length", "300000")), "413"),
            3: (rest("POST", predict, ("content-encoding", "br")), "415"),
            5: (rest("POST", "/v2/repository/models/m/load", ("origin", "http://page")), "403"),
            7: (rest("GET", "/nowhere"), "404"),
            9: (rest("GET", "/%zz"), "400"),
            11: (rest("GET", "/v2", ("host", "other")), "400"),
            13: (rest("GET", "http://localhost/v2"), "400"),
            15: (rest("GET", "/v2#x"), "400"),
            17: (rest("get", "/v2"), "501"),
        }
        for stream, (fields, status) in cases.items():
            client.send(headers(stream, fields, ends=status not in ("413", "415", "403")))
            assert (await client.fields(stream))[":status"] == status, fields
        client.send(headers(21, rest("POST", predict, ("content-length", "5"))), data(21, b"{}"))
        assert (await client.fields(21))[":status"] == "400"
        client.send(headers(23, rest("POST", predict)), *[data(23, bytes(16_000), ends=False) for _ in range(4)])
        assert (await client.fields(23))[":status"] == "413"
        await b.until(lambda: not b.service.budget.used and not b.server.open_calls)


@run
async def test_a_body_in_pieces_is_put_together_and_a_large_one_gets_room_as_it_comes() -> None:
    body = json.dumps({"instances": [[float(i)] * 1000 for i in range(100)]}).encode()
    assert len(body) > 8 * frames.DEFAULT_WINDOW
    async with running() as b:
        for length in ([("content-length", str(len(body)))], []):
            async with connected(b.settings.port) as client:
                client.send(headers(1, rest("POST", "/v1/models/wide:predict", *length)))
                sent, window = 0, frames.DEFAULT_WINDOW
                while sent < len(body):
                    size = min(window, frames.MAX_FRAME_BYTES, len(body) - sent)
                    if size:
                        client.send(data(1, body[sent : sent + size], ends=sent + size == len(body)))
                        sent, window = sent + size, window - size
                        continue
                    update = await client.until(lambda f: f.kind == frames.WINDOW_UPDATE and f.stream == 1)
                    client.frames.remove(update)
                    window += frames.number(update.payload)
                client.send(frames.window_update(0, 2**30), frames.window_update(1, 2**30))
                answer = json.loads(await b.answered(client.body(1)))
                assert [row[0] for row in answer["predictions"]] == [2.0 * i for i in range(100)]


# Calls of gRPC


@run
async def test_calls_that_come_together_leave_in_one_block_and_their_answers_in_one_write() -> None:
    async with running() as b, connected(b.settings.grpc_port) as client:
        calls = [headers(i, CALL) + data(i, infer_message(i)) for i in range(1, 17, 2)]
        client.send(*calls)
        blocks = await b.taken(8)
        assert [len(block.items) for block in blocks] == [8]
        for i in range(1, 17, 2):
            assert infer_response((await client.body(i))[5:])[1] == [2 * i]
        kinds = [frame.kind for frame in client.frames if frame.stream]
        assert kinds == [frames.HEADERS, frames.DATA, frames.HEADERS] * 8


@run
async def test_twenty_megabytes_go_both_ways() -> None:
    async with running(max_queue_bytes=100 * MB) as b:
        request = wide_request(8, 625_000)
        answer = rpc.message("inference.ModelInferResponse").FromString(await b.answered(b.call(INFER, request)))
        expected = np.arange(5 * MB, dtype=np.float32) * 2
        np.testing.assert_array_equal(np.frombuffer(answer.raw_output_contents[0], np.float32), expected)
        stream = b.channel.stream_stream(STREAM)()
        await stream.write(request.SerializeToString())
        reading = asyncio.ensure_future(stream.read())
        in_stream = rpc.message("inference.ModelStreamInferResponse").FromString(await b.answered(reading))
        raw = in_stream.infer_response.raw_output_contents[0]
        np.testing.assert_array_equal(np.frombuffer(raw, np.float32), expected)
        stream.cancel()
        await b.until(lambda: not b.service.budget.used)


@run
async def test_a_message_and_its_end_may_come_apart_and_two_messages_are_one_too_many() -> None:
    async with running() as b, connected(b.settings.grpc_port) as client:
        whole = infer_message(1)
        client.send(headers(1, CALL), *[data(1, whole[i : i + 1], ends=False) for i in range(len(whole))], data(1, b""))
        answer = await b.answered(client.body(1))
        assert infer_response(answer[5:])[1] == [2]
        broken = {
            3: (whole + whole, "more came"),
            5: (whole[:-1], "ends too early"),
            7: (b"", "no message"),
            9: (b"\2" + whole[1:], "prefix"),
        }
        for stream, (content, words) in broken.items():
            client.send(headers(stream, CALL), data(stream, content))
            fields = await client.fields(stream)
            assert fields["grpc-status"] == str(grpc.StatusCode.INVALID_ARGUMENT.value[0])
            assert words in fields["grpc-message"]
        await b.until(lambda: not b.service.budget.used and not b.server.open_calls)


@run
async def test_errors_are_trailers_alone_and_their_text_is_percent_encoded() -> None:
    async with running() as b, connected(b.settings.grpc_port) as client:
        client.send(headers(1, CALL), data(1, infer_message(1, name="größe 100%\n")))
        (head,) = [await client.until(lambda f: f.stream == 1 and f.kind == frames.HEADERS)]
        assert head.flags & frames.END_STREAM
        fields = dict(fields_in(head.payload))
        assert (fields[":status"], fields["grpc-status"]) == ("200", "5")
        assert "gr%C3%B6%C3%9Fe 100%25%0A" in fields["grpc-message"]
        wrong = [*CALL, ("grpc-timeout", "soon")]
        client.send(headers(3, wrong), data(3, infer_message(1)))
        assert (await client.fields(3))["grpc-status"] == "3"
        packed = b"\1" + infer_message(1)[1:]
        client.send(headers(5, [*CALL, ("grpc-encoding", "snappy")]), data(5, packed))
        assert (await client.fields(5))["grpc-status"] == "12"


@run
async def test_a_call_whose_headers_are_too_large_is_refused_and_the_connection_goes_on() -> None:
    async with running() as b:
        call = b.channel.unary_unary(LIVE)(b"", metadata=[("a", "b" * 20_000)])
        assert await call
        async with connected(b.settings.grpc_port) as client:
            many = [*CALL, *((f"n{i}", "v") for i in range(300))]
            client.send(headers(1, many, ends=True), headers(3, ends=True))
            assert (await client.fields(1))[":status"] == "431"
            assert (await client.fields(3))["grpc-status"] == "3"


@run
async def test_grpcio_serves_in_its_place_where_it_is_asked_for() -> None:
    async with running(grpc_server="grpcio") as b:
        assert infer_response(await b.answered(b.infer(1, 2)))[1] == [2, 4]
        with pytest.raises(grpc.aio.AioRpcError, match="is not found"):
            await b.call(INFER, infer_request(1, name="other"))


# Uploads, and responses without an end


class Kept:
    """A receiver that keeps what came; it waits before each part until it may go on."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.may_go_on = threading.Event()

    def write(self, data: bytes) -> None:
        self.may_go_on.wait(20)
        self.parts.append(data)

    def close(self) -> None:
        """Nothing is open."""


class Ticks:
    """Pieces that come one by one."""

    def __init__(self) -> None:
        self.is_cancelled = False

    def begin(self, write: Callable[[bytes], None], end: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        for piece in (b"one", b"two"):
            loop.call_soon(write, piece)
        loop.call_soon(end)

    def cancel(self) -> None:
        self.is_cancelled = True


class Other:
    """A handler, and what takes its uploads."""

    def __init__(self) -> None:
        self.kept = Kept()

    def check(self, head: RequestHead, peer: str) -> MillraceError | None:
        return None

    def body_limit(self, head: RequestHead) -> int:
        return 10 * MB

    def receiver(self, head: RequestHead) -> Kept:
        return self.kept

    def handle(self, head: RequestHead, body: Any, peer: str, reservation: Any, done: Done) -> None:
        reservation.release()
        if head.path == "/pieces":
            done(HttpResponse(200, b"", pieces=Ticks()))
        else:
            done(HttpResponse(200, b"%d" % sum(map(len, self.kept.parts))))

    def refused(self, head: RequestHead | None, error: MillraceError) -> HttpResponse:
        return HttpResponse(error.status, b"")


@asynccontextmanager
async def serving_other() -> AsyncIterator[tuple[Other, HttpServer, Budget]]:
    other, budget = Other(), Budget(64 * MB)
    server = HttpServer(ServingSettings(port=free_port()), other, budget, None, other)
    await server.start()
    try:
        yield other, server, budget
    finally:
        await server.stop(1.0)


@run
async def test_an_upload_waits_for_its_receiver_and_is_whole() -> None:
    size, part = 3 * MB, bytes(16_000)
    async with serving_other() as (other, server, budget), connected(server.port) as client:
        client.send(headers(1, rest("POST", "/", ("content-length", str(size)))))
        sent, window = 0, frames.DEFAULT_WINDOW
        while sent < size:
            count = min(window, len(part), size - sent)
            if count:
                client.send(data(1, part[:count], ends=sent + count == size))
                sent, window = sent + count, window - count
                continue
            if window + sent > MB:  # more than waits for a receiver
                other.kept.may_go_on.set()
            update = await client.until(lambda f: f.kind == frames.WINDOW_UPDATE and f.stream == 1)
            client.frames.remove(update)
            window += frames.number(update.payload)
            if not other.kept.may_go_on.is_set():
                assert sent + window < 2 * MB
                other.kept.may_go_on.set()
        assert await client.body(1) == b"%d" % size
        assert budget.used == 0
        for stream, fields in {3: [], 5: [("content-length", str(size))]}.items():
            client.send(headers(stream, rest("POST", "/", *fields)), data(stream, b"short"))
            assert (await client.fields(stream))[":status"] == ("400" if fields else "411")
        assert budget.used == 0


@run
async def test_pieces_are_sent_as_they_come() -> None:
    async with serving_other() as (_, server, _), connected(server.port) as client:
        client.send(headers(1, rest("GET", "/pieces"), ends=True))
        assert await client.body(1) == b"onetwo"


# What waits


@run
async def test_a_caller_that_does_not_read_is_cut_off_and_its_answer_counted_until_then() -> None:
    hello = frames.PREFACE + frames.settings({frames.INITIAL_WINDOW_SIZE: 100})
    async with running(request_timeout_ms=1000) as b, connected(b.settings.grpc_port, hello) as client:
        client.send(headers(1, CALL), data(1, infer_message(*range(300))))
        await b.taken(1)
        await b.until(lambda: b.service.budget.used > 1200)
        reset = await client.until(lambda f: f.kind == frames.RST_STREAM)
        assert frames.number(reset.payload) == ErrorCode.CANCEL
        assert b.service.budget.used == 0


@run
async def test_answers_behind_a_full_socket_wait_counted_and_go_on() -> None:
    hello = frames.PREFACE + frames.settings({frames.INITIAL_WINDOW_SIZE: 2**31 - 1})
    async with running(max_queue_bytes=100 * MB) as b, connected(b.settings.grpc_port, hello, 65_536) as client:
        client.send(frames.window_update(0, 2**30))
        request = message(wide_request(1, 16_000).SerializeToString())
        parts = [request[at : at + 16_000] for at in range(0, len(request), 16_000)]
        for stream in range(1, 200, 2):
            client.send(headers(stream, CALL), *[data(stream, part, ends=part is parts[-1]) for part in parts])
        await b.until(lambda: b.queued("wide") and b.server.open_calls == 100)
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await b.taken(100)
        await b.until(lambda: b.service.budget.used > MB)
        assert b.service.budget.used < 10 * MB
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        for stream in range(1, 200, 2):
            assert len(await client.body(stream)) > 64_000
        await b.until(lambda: b.service.budget.used == 0)


@run
async def test_the_end_of_a_body_finds_an_open_window() -> None:
    hello = frames.PREFACE + frames.settings({frames.INITIAL_WINDOW_SIZE: MB}) + frames.window_update(0, 2**30)
    async with running() as b, connected(b.settings.port, hello) as client:
        call = message(wide_request(1, 50_000).SerializeToString())
        exact = wide_request(1, 16_370)  # all that a window holds that is not opened
        exact.id = "x" * (frames.DEFAULT_WINDOW - 5 - 2 - exact.ByteSize())
        assert len(message(exact.SerializeToString())) == frames.DEFAULT_WINDOW
        document = json.dumps({"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}]}).encode()
        for stream, fields, body in (
            (1, CALL, call),
            (3, CALL, message(exact.SerializeToString())),
            (5, rest("POST", "/v2/models/m/infer", ("content-length", "100000")), document.ljust(100_000)),
        ):
            client.send(headers(stream, fields))
            sent, window = 0, frames.DEFAULT_WINDOW
            while sent < len(body) or not window:
                if count := min(window, frames.MAX_FRAME_BYTES, len(body) - sent):
                    client.send(data(stream, body[sent : sent + count], ends=False))
                    sent, window = sent + count, window - count
                if not window:
                    update = await client.until(lambda f, s=stream: f.kind == frames.WINDOW_UPDATE and f.stream == s)  # type: ignore[misc]
                    client.frames.remove(update)
                    window += frames.number(update.payload)
            client.send(data(stream, b""))
            assert await b.answered(client.body(stream))


@run
async def test_what_a_message_announces_is_counted_and_a_slow_one_is_given_up() -> None:
    async with running(request_timeout_ms=700) as b, connected(b.settings.grpc_port) as client:
        client.send(headers(1, CALL), data(1, b"\0" + (5 * MB).to_bytes(4, "big") + b"x", ends=False))
        opened = await client.until(lambda f: f.kind == frames.WINDOW_UPDATE and f.stream == 1)
        assert frames.number(opened.payload) + frames.DEFAULT_WINDOW == 5 * MB + 5 + SPARE_BYTES
        assert b.service.budget.used == 5 * MB
        assert (await client.fields(1))["grpc-status"] == "4"
        assert b.service.budget.used == 0


@run
async def test_slow_messages_give_their_room_to_others() -> None:
    settings: dict[str, Any] = {"max_buffered_bytes": 4 * MB, "request_timeout_ms": 60_000}
    async with running(**settings) as b, connected(b.settings.grpc_port) as client:
        client.send(headers(1, CALL), data(1, b"\0" + (3 * MB).to_bytes(4, "big") + b"x", ends=False))
        await b.until(lambda: b.service.budget.used == 3 * MB)
        await asyncio.sleep(1.2)  # the second that each has
        assert await b.answered(b.call(INFER, wide_request(8, 62_500)))
        fields = await client.fields(1)
        assert fields["grpc-status"] == "8"
        assert "slowly" in fields["grpc-message"]


@run
async def test_small_answers_that_nobody_takes_are_counted_as_what_they_take() -> None:
    hello = frames.PREFACE + frames.settings({frames.INITIAL_WINDOW_SIZE: 0})
    async with running() as b:
        async with connected(b.settings.port, hello) as client:
            client.send(*[headers(1 + 2 * i, rest("GET", "/v2/health/live"), ends=True) for i in range(500)])
            await client.fields(999)
            assert b.service.budget.used > 500_000
        await b.until(lambda: b.service.budget.used == 0)


@run
async def test_a_call_that_is_refused_lets_go_of_the_message_that_nobody_took() -> None:
    hello = frames.PREFACE + frames.settings({frames.INITIAL_WINDOW_SIZE: 0})
    async with running() as b, connected(b.settings.grpc_port, hello) as client:
        stream = [(":path", STREAM) if name == ":path" else (name, value) for name, value in GRPC]
        client.send(headers(1, stream), data(1, message(wide_request(1, 1000).SerializeToString()), ends=False))
        await b.taken(1)
        await client.fields(1)
        assert b.service.budget.used > 4000
        client.send(data(1, b"\5\0\0\0\0", ends=False))
        assert (await client.fields(1, 1))["grpc-status"] == "3"
        assert b.service.budget.used == 0


@run
async def test_large_heads_are_counted_while_their_requests_are_open() -> None:
    async with running(max_buffered_bytes=4 * MB) as b, connected(b.settings.grpc_port) as client:
        raw = block([*CALL, ("x-large", "v" * 8000)])
        client.send(*[frames.frame(frames.HEADERS, frames.END_HEADERS, 1 + 2 * i, raw) for i in range(100)])
        await b.until(lambda: b.server.open_calls == 100)
        assert 800_000 < b.service.budget.used < 1_000_000
        client.send(*[frames.rst_stream(1 + 2 * i, ErrorCode.CANCEL) for i in range(100)])
        await b.until(lambda: b.server.open_calls == 0)
        assert b.service.budget.used == 0


@run
async def test_streams_are_read_no_faster_than_their_method_takes_them() -> None:
    async with running() as b, connected(b.settings.grpc_port) as client:
        stream = [(":path", STREAM) if name == ":path" else (name, value) for name, value in GRPC]
        each = infer_message(*range(50))
        client.send(headers(1, stream))
        sent, window = 0, frames.DEFAULT_WINDOW
        while window > len(each) and sent < 1000:
            client.send(data(1, each, ends=False))
            sent, window = sent + 1, window - len(each)
            for update in [f for f in client.frames if f.kind == frames.WINDOW_UPDATE and f.stream == 1]:
                client.frames.remove(update)
                window += frames.number(update.payload)
            client.send(frames.frame(frames.PING, 0, 0, sent.to_bytes(8, "big")))
            await client.until(lambda f, last=sent: f.kind == frames.PING and f.payload == last.to_bytes(8, "big"))  # type: ignore[misc]
        assert 256 < sent < 256 + 2 * frames.DEFAULT_WINDOW // len(each)


# The end


@run
async def test_stopping_says_so_twice_and_answers_what_came() -> None:
    async with running() as b, connected(b.settings.grpc_port) as client:
        client.send(headers(1, CALL), data(1, infer_message(1)))
        await b.until(lambda: b.queued() == 1)
        stopping = asyncio.ensure_future(b.stop())
        first = await client.until(lambda f: f.kind == frames.GOAWAY)
        assert frames.number(first.payload) == 2**31 - 1
        ping = await client.until(lambda f: f.kind == frames.PING)
        client.send(headers(3, ends=True), frames.frame(frames.PING, frames.ACK, 0, ping.payload))
        last = await client.until(lambda f: f.kind == frames.GOAWAY and f is not first)
        assert (frames.number(last.payload), frames.number(last.payload[4:])) == (3, ErrorCode.NO_ERROR)
        client.send(headers(5, ends=True))
        assert (await client.fields(3))["grpc-status"] == "3"
        assert not stopping.done()
        answer = await b.answered(client.body(1))
        assert infer_response(answer[5:])[1] == [2]
        await client.end()
        client.writer.close()
        await stopping
        assert not [frame for frame in client.frames if frame.stream == 5]


@run
async def test_an_idle_connection_is_told_and_closed() -> None:
    async with running(keep_alive_timeout_s=0.5) as b, connected(b.settings.grpc_port) as client:
        client.send(headers(1, ends=True))
        await client.fields(1)
        last = await client.until(lambda f: f.kind == frames.GOAWAY)
        assert (frames.number(last.payload), frames.number(last.payload[4:])) == (1, ErrorCode.NO_ERROR)
        await client.end()


@run
async def test_a_caller_that_closes_its_socket_is_found_out_and_its_calls_withdrawn() -> None:
    async with running() as b:
        async with connected(b.settings.grpc_port) as client:
            client.send(headers(1, CALL), data(1, infer_message(1)))
            await b.until(lambda: b.queued() == 1)
        await b.until(lambda: b.counted(499))
        await b.until(lambda: not b.server.open_calls)


@run
async def test_a_fault_ends_its_connection_and_hurts_no_other() -> None:
    async with running() as b, connected(b.settings.grpc_port) as other:
        for fault, code in {
            frames.window_update(0, 0): ErrorCode.PROTOCOL_ERROR,
            frames.frame(frames.PING, 0, 0, bytes(8)) * 5000: ErrorCode.ENHANCE_YOUR_CALM,
            frames.frame(frames.HEADERS, 4, 3, b"\xff" * 6): ErrorCode.COMPRESSION_ERROR,
        }.items():
            async with connected(b.settings.grpc_port) as client:
                client.send(headers(1, CALL), data(1, infer_message(1)))
                await b.until(lambda: b.server.open_calls == 1)
                client.send(fault)
                last = await client.until(lambda f: f.kind == frames.GOAWAY)
                assert frames.number(last.payload[4:]) == code
                await client.end()
            await b.until(lambda: not b.server.open_calls and not b.service.budget.used)
        other.send(headers(1, ends=True))
        assert (await other.fields(1))["grpc-status"] == "3"
