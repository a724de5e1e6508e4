"""What the HTTP server holds is counted and bounded: bodies, packed and plain, responses that nobody reads, pipelined
bytes, unfinished heads; and what callers do not finish does not lock out the others."""

import asyncio
import contextlib
import gzip
import os
import zlib
from collections.abc import Callable

import pytest

from tests.support.echo_server import CHUNKED, GET, HUGE, post, running, served, slow_reader

MB = 2**20
CHUNKED_HEAD = CHUNKED[: CHUNKED.index(b"5;ext")]


def chunked(body: bytes, size: int, *lines: bytes) -> bytes:
    head = CHUNKED_HEAD.replace(b"host: x\r\n", b"host: x\r\n" + b"".join(line + b"\r\n" for line in lines))
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    return head + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


# Large bodies


@pytest.mark.parametrize("size", [65_536, 262_144, 262_145, 5_000_000])
@pytest.mark.parametrize("how", ["whole", "chunked", "gzip", "deflate", "chunked gzip"])
def test_a_body_of_any_size_comes_whole_and_is_given_back(size: int, how: str) -> None:
    body = os.urandom(size // 2) * 2
    body += bytes(size - len(body))
    requests = {
        "whole": lambda: post(body),
        "chunked": lambda: chunked(body, 100_000),
        "gzip": lambda: post(gzip.compress(body, 1), "content-encoding: gzip"),
        "deflate": lambda: post(zlib.compress(body, 1), "Content-Encoding: Deflate "),
        "chunked gzip": lambda: chunked(gzip.compress(body, 1), 100_000, b"content-encoding: gzip"),
    }

    @served
    async def test() -> None:
        async with running() as r:
            caller = await r.asked(requests[how]() + GET)
            assert (await caller.answer())[2] == b"POST /a " + body
            assert (await caller.answer())[2] == b"GET /a "
            assert [len(seen) for _, seen in r.echo.seen] == [size, 0]
            assert b"content-encoding" not in r.echo.seen[0][0].headers
            await r.until(lambda: r.budget.used == 0)
            assert r.budget.peak >= size

    test()


@pytest.mark.parametrize("coding", ["gzip", "identity"])
def test_a_small_body_is_unpacked_at_once(coding: str) -> None:
    @served
    async def test() -> None:
        async with running() as r:
            body = b"hello" * 1000
            caller = await r.asked(
                post(gzip.compress(body) if coding == "gzip" else body, f"content-encoding: {coding}")
            )
            assert (await caller.answer())[2] == b"POST /a " + body
            assert r.echo.seen[0][1] == body

    test()


BOMB = gzip.compress(bytes(60_000_000))
NOISE = os.urandom(1_000_000)
WRONG = {
    "a bomb": (BOMB, "gzip", 413, b"unpacks to more than"),
    "a small bomb": (gzip.compress(bytes(5_000_000)), "gzip", 413, b"unpacks to more than"),
    "no gzip": (NOISE, "gzip", 400, b"is not gzip"),
    "no gzip, small": (b"hello", "gzip", 400, b"is not gzip"),
    "cut": (gzip.compress(NOISE)[:-4], "gzip", 400, b"ends too early"),
    "more behind it": (gzip.compress(NOISE) + b"more", "gzip", 400, b"has more behind its end"),
    "more behind it, large": (gzip.compress(b"hello" * 100) + NOISE, "gzip", 400, b"has more behind its end"),
    "no deflate": (gzip.compress(NOISE), "deflate", 400, b"is not deflate"),
    "another coding": (NOISE, "br", 415, b"'br' is not supported; use gzip or deflate"),
    "two codings": (NOISE, "gzip, deflate", 415, b"is not supported"),
    "larger than the limit": (gzip.compress(os.urandom(11_000_000), 0)[:-8], "gzip", 413, b"larger than"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_body_that_cannot_be_unpacked_is_refused_and_its_memory_comes_back(case: str) -> None:
    body, coding, status, text = WRONG[case]

    @served
    async def test() -> None:
        async with running(max_body_bytes=10_000_000) as r:
            for _ in range(3):
                caller = await r.asked(post(body, f"content-encoding: {coding}"))
                answered, headers, answer = await caller.answer()
                assert answered == status
                assert text in answer
                assert headers.get("accept-encoding") == ("gzip, deflate" if status == 415 else None)
                caller.writer.close()
            assert not r.echo.seen
            await r.until(lambda: r.budget.used == 0)
            assert r.budget.peak < 16 * MB

    test()


@served
async def test_a_caller_that_leaves_while_its_body_is_unpacked_is_forgotten() -> None:
    async with running() as r:
        caller = await r.asked(post(gzip.compress(os.urandom(20_000_000), 1), "content-encoding: gzip"))
        await r.until(lambda: r.budget.used > 20_100_000)
        caller.writer.transport.abort()
        await r.until(lambda: r.budget.used == 0 and not r.server.connections)
        assert not r.echo.seen


# Callers that do not read


@served
async def test_responses_are_counted_until_they_are_read_and_cut_off_when_they_are_not() -> None:
    async with running(request_timeout_ms=700, max_buffered_bytes=50_000_000) as r:
        unread = [slow_reader(r, post(b"", path="/huge")) for _ in range(2)]
        await r.until(lambda: r.budget.used == 2 * HUGE)
        caller = await r.asked(post(b"", path="/huge"))
        status, headers, body = await caller.answer()
        assert (status, headers["retry-after"]) == (503, "1")
        assert b"as many bytes of requests and responses as it may" in body
        small = await r.asked(GET)
        assert (await small.answer())[0] == 200
        await r.until(lambda: r.budget.used == 0)
        caller = await r.asked(post(b"", path="/huge"))
        assert len((await caller.answer())[2]) == HUGE
        for each in unread:
            each.close()


@served
async def test_a_response_that_is_read_slowly_comes_whole() -> None:
    async with running(request_timeout_ms=500) as r:
        caller = await r.asked(post(b"", path="/huge"))
        count = 0
        while count < HUGE:
            count += len(await caller.reader.readexactly(min(400_000, HUGE - count)))
            await asyncio.sleep(0.025)  # for twice the time that a caller may not read
        await r.until(lambda: r.budget.used == 0)


@served
async def test_what_is_pipelined_by_a_caller_that_does_not_read_is_bounded_and_counted() -> None:
    async with running() as r:
        callers = [slow_reader(r, b"") for _ in range(50)]
        for _ in range(20):
            for caller in callers:
                with contextlib.suppress(BlockingIOError):
                    caller.send(post(b"x" * 3000, path="/large") * 100)
            await asyncio.sleep(0.005)
        await r.until(lambda: r.budget.used > 50 * 2_000_000)
        assert r.budget.used <= 50 * (2_000_000 + 400_000)
        for caller in callers:
            caller.close()


# Callers that do not send


ATTACKS: dict[str, tuple[int, int, Callable[[], bytes]]] = {  # the budget, the callers, what each sends
    "bodies that are announced": (12 * MB, 8, lambda: post(bytes(2 * MB))[: -2 * MB]),
    "bodies that are begun": (12 * MB, 8, lambda: post(bytes(2 * MB))[:-MB]),
    "chunks that are begun": (12 * MB, 8, lambda: CHUNKED_HEAD + b"%x\r\n" % (4 * MB) + bytes(2 * MB)),
    "small bodies that are begun": (12 * MB, 400, lambda: post(bytes(60_000))[:-1]),
    "heads that are begun": (12 * MB, 400, lambda: b"GET / HTTP/1.1\r\na: " + b"b" * 60_000),
    "responses that nobody reads": (48 * MB, 4, lambda: post(b"", path="/huge")),
}


@pytest.mark.parametrize("case", ATTACKS)
def test_callers_that_stop_midway_do_not_lock_out_the_others(case: str) -> None:
    limit, count, request = ATTACKS[case]

    @served
    async def test() -> None:
        async with running(max_buffered_bytes=limit) as r:
            data = request()
            attackers = [slow_reader(r, b"") for _ in range(count)]
            loop = asyncio.get_running_loop()
            sending = [asyncio.ensure_future(loop.sock_sendall(attacker, data)) for attacker in attackers]
            await r.until(lambda: r.budget.used > limit * 0.6)
            await asyncio.sleep(1.1)  # the second that each of them has
            for body in (b"x" * 3000, b"x" * (limit // 2)):
                neighbour = await r.asked(post(body))
                assert (await neighbour.answer())[0] == 200
            assert r.server.connections.reclaimed > 0
            for task in sending:
                task.cancel()
            for attacker in attackers:
                attacker.close()

    test()
