"""The HTTP server on real connections: framing, limits, time, callers that leave, and stopping."""

import asyncio
import contextlib
import socket

import pytest

from serving.transport import http_connection, http_server
from serving.transport.head_errors import RequestHeadError
from serving.transport.request_head import MAX_HEAD_BYTES, RequestHead, read_head
from serving.transport.responses import HttpResponse
from tests.support.echo_server import CHUNKED, GET, HUGE, post, running, served, slow_reader, the_rest

# Framing


@served
async def test_a_connection_serves_one_request_after_the_other() -> None:
    async with running() as r:
        caller = await r.asked(GET)
        for body in (b"", b"one", b"x" * 300_000):
            status, headers, answer = await caller.answer()
            assert (status, headers["content-length"]) == (200, str(len(answer)))
            assert "gmt" in headers["date"]
            caller.send(post(body))
        assert (await caller.answer())[2] == b"POST /a " + b"x" * 300_000
        assert [body for _, body in r.echo.seen] == [b"", b"", b"one", b"x" * 300_000]


@served
async def test_requests_that_come_together_are_answered_in_order() -> None:
    async with running() as r:
        caller = await r.asked(post(b"1") + post(b"2", path="/held") + post(b"3") + GET[:9])
        assert (await caller.answer())[2] == b"POST /a 1"
        await r.until(lambda: r.echo.held)
        assert len(r.echo.seen) == 2
        r.echo.held.pop()(HttpResponse(200, b"late"))
        assert (await caller.answer())[2] == b"late"
        assert (await caller.answer())[2] == b"POST /a 3"
        caller.send(GET[9:])
        assert (await caller.answer())[2] == b"GET /a "


@served
async def test_a_request_may_come_byte_by_byte() -> None:
    async with running() as r:
        caller = await r.connect()
        for data in (post(b"body"), CHUNKED):
            for i in range(len(data)):
                caller.send(data[i : i + 1])
                await caller.writer.drain()
                await asyncio.sleep(0)
            assert (await caller.answer())[0] == 200
        assert [body for _, body in r.echo.seen] == [b"body", b"hello world"]


@served
async def test_chunks_are_put_together_and_what_follows_is_answered() -> None:
    async with running() as r:
        caller = await r.asked(CHUNKED)
        assert (await caller.answer())[2] == b"POST /a hello world"
        caller.send(GET)
        assert (await caller.answer())[2] == b"GET /a "
        caller.send(CHUNKED + GET + CHUNKED)
        for body in (b"POST /a hello world", b"GET /a ", b"POST /a hello world"):
            assert (await caller.answer())[2] == body


@served
async def test_a_caller_that_asks_first_is_told_to_go_on() -> None:
    async with running(max_body_bytes=2000) as r:
        head, body = post(b"x" * 2000, "expect: 100-continue")[:-2000], b"x" * 2000
        caller = await r.asked(head)
        assert await caller.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        caller.send(body)
        assert (await caller.answer())[2] == b"POST /a " + body
        caller = await r.asked(post(b"x" * 2001, "expect: 100-continue")[:-2001])
        assert (await caller.answer())[0] == 413
        assert await caller.is_closed()


@pytest.mark.parametrize(
    ("head", "stays"),
    [
        (b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", True),
        (b"GET / HTTP/1.1\r\nhost: x\r\nConnection: close\r\n\r\n", False),
        (b"GET / HTTP/1.0\r\n\r\n", False),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", True),
    ],
)
def test_a_connection_stays_open_as_the_caller_wishes(head: bytes, stays: bool) -> None:
    @served
    async def test() -> None:
        async with running() as r:
            caller = await r.asked(head)
            _, headers, _ = await caller.answer()
            if stays:
                assert headers.get("connection", "keep-alive") == "keep-alive"
                caller.send(GET)
                await caller.answer()
            else:
                assert headers["connection"] == "close"
                assert await caller.is_closed()

    test()


@served
async def test_the_answer_to_head_has_no_body() -> None:
    async with running() as r:
        caller = await r.asked(b"HEAD /a HTTP/1.1\r\nhost: x\r\n\r\n" + GET)
        assert (await caller.answer(has_body=False))[0] == 200
        assert (await caller.answer())[2] == b"GET /a "


# What cannot be served


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"hello\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\n\r\n", 400),
        (b"GET /\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: x\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip, chunked\r\n\r\n", 501),
        (b"GET / HTTP/1.1\r\nhost: x\r\nbad header: 1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"y" * MAX_HEAD_BYTES + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"y" * MAX_HEAD_BYTES, 431),
    ],
)
def test_what_is_not_http_is_refused_and_the_connection_closed(data: bytes, status: int) -> None:
    @served
    async def test() -> None:
        async with running() as r:
            caller = await r.asked(data)
            answered, headers, body = await caller.answer()
            assert (answered, headers["connection"]) == (status, "close")
            assert b"error" in body
            assert await caller.is_closed()
            assert not r.echo.seen

    test()


@served
async def test_a_body_that_is_too_large_is_taken_to_its_end_and_refused() -> None:
    async with running(max_body_bytes=2000) as r:
        for request in (
            post(b"x" * 2001),
            post(b"x" * 3_000_000),
            CHUNKED.replace(b"5;ext=1\r\nhello", b"9C4\r\n" + b"x" * 2500),
        ):
            caller = await r.asked(request)
            await caller.writer.drain()
            status, _, body = await caller.answer()
            assert status == 413
            assert b"larger than the 2000 bytes" in body
        assert not r.echo.seen
        assert r.budget.used == 0


@served
async def test_a_body_in_many_small_chunks_takes_no_more_memory_than_its_bytes() -> None:
    async with running() as r:
        chunks = b"2\r\nxx\r\n" * 20_000
        caller = await r.asked(CHUNKED[: CHUNKED.index(b"5;ext")] + chunks)
        await r.until(lambda: r.budget.used == 40_000)
        caller.send(b"0\r\n\r\n")
        assert (await caller.answer())[2] == b"POST /a " + b"x" * 40_000


@served
async def test_bodies_share_a_budget_from_their_heads_on_and_give_it_back() -> None:
    async with running(max_buffered_bytes=3_000_000) as r:
        slow = await r.asked(post(b"x" * 2_500_000)[:-500])
        await r.until(lambda: r.budget.used == 2_500_000)
        refused = await r.asked(post(b"y" * 2_500_000)[:-2_000_000])
        status, headers, body = await refused.answer()
        assert (status, headers["retry-after"]) == (503, "1")
        assert b"as many bytes of requests and responses as it may" in body
        small = await r.asked(post(b"z"))
        assert (await small.answer())[0] == 200
        slow.send(b"x" * 500)
        assert (await slow.answer())[0] == 200
        third = await r.asked(post(b"z" * 2_500_000)[:-500])
        await r.until(lambda: r.budget.used == 2_500_000)
        third.writer.close()
        await r.until(lambda: r.budget.used == 0)


@served
async def test_chunked_bodies_are_counted_as_they_come() -> None:
    async with running(max_buffered_bytes=3_000_000) as r:
        head = CHUNKED[: CHUNKED.index(b"5;ext")]
        slow = await r.asked(head + b"200000\r\n" + b"x" * 0x200000)
        await r.until(lambda: r.budget.used == 0x200000)
        refused = await r.asked(head + b"200000\r\n" + b"x" * 0x200000)
        assert (await refused.answer())[0] == 503
        slow.send(b"\r\n0\r\n\r\n")
        assert (await slow.answer())[0] == 200


@served
async def test_the_longest_idle_connection_makes_room_for_a_new_one() -> None:
    async with running(max_connections=3) as r:
        idle, silent = await r.asked(GET), await r.connect()
        await idle.answer()
        busy = await r.asked(post(b"", path="/held"))
        await r.until(lambda: r.echo.held and len(r.server.connections) == 3)
        newer = await r.asked(GET)
        assert (await newer.answer())[0] == 200
        newest = await r.asked(GET)
        assert (await newest.answer())[0] == 200
        assert await idle.is_closed()
        assert await silent.is_closed()
        r.echo.held.pop()(HttpResponse(200, b"at last"))
        assert (await busy.answer())[2] == b"at last"


@served
async def test_a_connection_is_refused_where_all_others_have_requests() -> None:
    async with running(max_connections=2) as r:
        busy = [await r.asked(post(b"", path="/held")) for _ in range(2)]
        await r.until(lambda: len(r.echo.held) == 2)
        third = await r.connect()
        status, headers, _ = await third.answer()
        assert (status, headers["retry-after"]) == (503, "1")
        for done in r.echo.held:
            done(HttpResponse(200, b""))
        r.echo.held.clear()
        assert [(await caller.answer())[0] for caller in busy] == [200, 200]


# Time


@served
async def test_what_does_not_come_in_time_is_given_up() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(http_connection, "_HEAD_S", 0.1)
        async with running(request_timeout_ms=100, keep_alive_timeout_s=0.4) as r:
            head, body, idle = await r.asked(GET[:9]), await r.asked(post(b"xyz")[:-1]), await r.asked(GET)
            silent = await r.connect()
            assert (await idle.answer())[0] == 200
            assert (await head.answer())[0] == 408
            status, _, text = await body.answer()
            assert status == 504
            assert b"did not arrive within 100 ms" in text
            assert await silent.is_closed()  # before its keep-alive time
            assert len(r.server.connections) >= 1
            for caller in (head, body, idle):
                assert await caller.is_closed()


@served
async def test_a_caller_that_does_not_read_is_not_read_either_and_cut_off_at_last() -> None:
    async with running(request_timeout_ms=300) as r:
        caller = await r.asked(post(b"", path="/large") * 50)
        await r.until(lambda: r.echo.seen)
        caller.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await r.until(lambda: not r.server.connections)
        assert len(r.echo.seen) < 50


@served
async def test_a_caller_that_goes_away_withdraws_its_request() -> None:
    async with running() as r:
        caller = await r.asked(post(b"", path="/held"))
        await r.until(lambda: r.echo.held)
        caller.writer.close()
        await r.until(lambda: r.echo.withdrawn)
        r.echo.held.pop()(HttpResponse(200, b"nobody is there"))
        assert r.echo.withdrawn == 1
        await r.until(lambda: not r.server.connections)


# Stopping


@served
async def test_stopping_lets_a_slow_caller_read_its_answer_to_the_end() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(http_connection, "_LINGER_S", 0.01)
        patch.setattr(http_server, "_SWEEP_S", 0.01)
        async with running() as r:
            with slow_reader(r, post(b"", path="/huge")) as caller:
                await r.until(lambda: r.echo.seen)
                stopping = asyncio.create_task(r.server.stop())
                await asyncio.wait([stopping], timeout=0.1)
                assert await the_rest(caller) > HUGE
                await stopping


@served
async def test_stopping_answers_what_is_open_and_what_is_on_its_way() -> None:
    async with running() as r:
        busy, idle, late = await r.asked(post(b"", path="/held")), await r.asked(GET), await r.asked(GET)
        for caller in (idle, late):
            await caller.answer()
        await r.until(lambda: r.echo.held)
        with socket.create_connection(("127.0.0.1", r.server.settings.port)) as waiting:  # accepted by nobody yet
            waiting.sendall(GET)
            stopping = asyncio.create_task(r.server.stop())
            await r.until(lambda: r.server.is_stopping)
            late.send(GET)
            _, headers, _ = await late.answer()
            assert headers["connection"] == "close"
            assert await late.is_closed()
            assert await idle.is_closed()
            loop = asyncio.get_running_loop()
            waiting.setblocking(False)
            assert b"connection: close" in await loop.sock_recv(waiting, 1000)
        assert not stopping.done()
        r.echo.held.pop()(HttpResponse(200, b"at last"))
        status, headers, body = await busy.answer()
        assert (status, headers["connection"], body) == (200, "close", b"at last")
        busy.writer.close()
        await stopping
        with pytest.raises(OSError, match=r"[Cc]onnect"):
            await r.connect()


@served
async def test_stopping_answers_those_whom_only_the_system_has_accepted() -> None:
    async with running() as r:
        waiting = [socket.create_connection(("127.0.0.1", r.server.settings.port)) for _ in range(20)]
        for caller in waiting:
            caller.sendall(GET)
        assert not r.server.connections
        await r.server.stop()  # before the event loop has had a turn in which to accept them
        for caller in waiting:
            with caller:
                caller.settimeout(5)
                assert caller.recv(1000).startswith(b"HTTP/1.1 200 OK")


@served
async def test_stopping_does_not_wait_for_ever() -> None:
    async with running(drain_timeout_s=0.1) as r:
        caller = await r.asked(post(b"", path="/held"))
        await r.until(lambda: r.echo.held)
        await r.server.stop()
        with contextlib.suppress(ConnectionError):
            assert await caller.is_closed()
        assert r.echo.withdrawn == 1


# Heads


def test_a_head_is_read() -> None:
    raw = b"POST /v1/m%C3%A9?a=%20b HTTP/1.1\r\nHost: x\r\nX-A: 1\r\nx-a: 2\r\nContent-Length: 7\r\n\r\n"
    head = read_head(raw)
    assert head == RequestHead(
        "POST", "/v1/mé", "a=%20b", {b"host": b"x", b"x-a": b"1,2", b"content-length": b"7"}, 7, True
    )
    assert read_head(raw) is head
    assert read_head(b"GET http://host?a=1 HTTP/1.1\r\nhost: y\r\n\r\n").path == "/"
    with pytest.raises(RequestHeadError):
        read_head(b"GET /\xff\xfe HTTP/1.1\r\nx\r\n\r\n")


@served
async def test_a_response_that_cannot_be_written_ends_the_connection() -> None:
    async with running() as r:
        caller = await r.asked(post(b"", path="/held"))
        await r.until(lambda: r.echo.held)
        with pytest.raises(UnicodeEncodeError):
            r.echo.held.pop()(HttpResponse(200, b"", (("x-name", "\N{SNOWMAN}"),)))
        assert await caller.is_closed()
