"""HTTP/1.1 as RFC 9110 and 9112 have it, case by case on real connections: what is answered, what is refused, and how
soon; what follows on the connection is never read as something else."""

import asyncio

import pytest

from serving.transport.request_head import MAX_HEAD_BYTES
from tests.support.echo_server import CHUNKED, GET, post, running, served

HOST = b"host: x\r\n"
CHUNKED_HEAD = b"POST /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"


def with_lines(*lines: bytes, version: bytes = b"1.1", line: bytes = b"GET /a HTTP/") -> bytes:
    return line + version + b"\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


REFUSED = {
    # The request line
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64), 400),
    "HTTP/0.9": (b"GET /\r\n", 400),
    "HTTP/0.9, bare": (b"GET /\n", 400),
    "HTTP/2.0 in words": (b"GET / HTTP/2.0\r\n" + HOST + b"\r\n", 400),
    "RTSP": (b"DESCRIBE / RTSP/1.0\r\n" + HOST + b"\r\n", 400),
    "RTSP with a method of ours": (b"GET / RTSP/1.0\r\n" + HOST + b"\r\n", 400),
    "a version in lower case": (b"GET / http/1.1\r\n" + HOST + b"\r\n", 400),
    "words": (b"hello\r\n", 400),
    "two blanks": (b"GET  / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "a blank in the target": (b"GET /a b HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "a blank behind the version": (b"GET / HTTP/1.1 \r\n" + HOST + b"\r\n", 400),
    "a tab": (b"GET\t/ HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "a control character in the target": (b"GET /\x01 HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "eight bits in the target": (b"GET /\xc3\xa9 HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "a fragment": (b"GET /a#b HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "no slash": (b"GET a HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "an asterisk for another method": (b"GET * HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "a URL of another scheme": (b"GET ftp://x/a HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "a URL with a user": (b"GET http://u:p@x/a HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "half an escape": (b"GET /a%2 HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "no escape": (b"GET /a%zz HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "an escape that is not UTF-8": (b"GET /a%ff HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "CONNECT": (b"CONNECT x:80 HTTP/1.1\r\n" + HOST + b"\r\n", 501),
    "an unknown method": (b"BREW / HTTP/1.1\r\n" + HOST + b"\r\n", 501),
    "a method in lower case": (b"get / HTTP/1.1\r\n" + HOST + b"\r\n", 501),
    # Lines
    "bare line feeds": (b"GET / HTTP/1.1\nhost: x\n\n", 400),
    "one bare line feed": (b"GET / HTTP/1.1\r\nhost: x\na: b\r\n\r\n", 400),
    "a bare line feed in an unfinished head": (b"GET / HTTP/1.1\r\nhost: x\na: b", 400),
    "a bare carriage return": (with_lines(b"host: x", b"a: b\rc: d"), 400),
    "a folded line": (with_lines(b"host: x", b"a: b", b" c"), 400),
    "a folded line, by a tab": (with_lines(b"host: x", b"a: b", b"\tc"), 400),
    "a blank before the first field": (with_lines(b" host: x"), 400),
    # Fields
    "no host": (with_lines(b"a: b"), 400),
    "two hosts": (with_lines(b"host: x", b"host: x"), 400),
    "two hosts in HTTP/1.0": (with_lines(b"host: x", b"Host: y", version=b"1.0"), 400),
    "an empty host": (with_lines(b"host:"), 400),
    "a host with a path": (with_lines(b"host: x/y"), 400),
    "a host with a user": (with_lines(b"host: u@x"), 400),
    "a host with a blank": (with_lines(b"host: x y"), 400),
    "two hosts in one field": (with_lines(b"host: x, y"), 400),
    "a host with a wrong port": (with_lines(b"host: x:http"), 400),
    "a host with a large port": (with_lines(b"host: x:65536"), 400),
    "a host with two ports": (with_lines(b"host: x:1:2"), 400),
    "an open bracket": (with_lines(b"host: [::1"), 400),
    "no host beside a URL": (with_lines(line=b"GET http://x/a HTTP/"), 400),
    "a name with a blank behind it": (with_lines(b"host: x", b"a : b"), 400),
    "no name": (with_lines(b"host: x", b": b"), 400),
    "a name with eight bits": (with_lines(b"host: x", b"a\xc3\xa9: b"), 400),
    "a name with a NUL": (with_lines(b"host: x", b"a\0: b"), 400),
    "a value with a NUL": (with_lines(b"host: x", b"a: b\0c"), 400),
    "no colon": (with_lines(b"host: x", b"ab"), 400),
    "too many fields": (with_lines(b"host: x", *[b"a: b"] * 300), 431),
    "a head that is too large": (with_lines(b"host: x", b"a: " + b"b" * MAX_HEAD_BYTES), 431),
    "an unfinished head that is too large": (b"GET / HTTP/1.1\r\na: " + b"b" * MAX_HEAD_BYTES, 431),
    # Framing
    "a length with a sign": (with_lines(b"host: x", b"content-length: +5"), 400),
    "a negative length": (with_lines(b"host: x", b"content-length: -5"), 400),
    "a length in words": (with_lines(b"host: x", b"content-length: five"), 400),
    "an empty length": (with_lines(b"host: x", b"content-length:"), 400),
    "a length in hexadecimal": (with_lines(b"host: x", b"content-length: 0x5"), 400),
    "a length with a blank": (with_lines(b"host: x", b"content-length: 5 0"), 400),
    "a length beyond all numbers": (with_lines(b"host: x", b"content-length: " + b"9" * 40), 400),
    "two lengths": (with_lines(b"host: x", b"content-length: 5", b"content-length: 6"), 400),
    "two equal lengths": (with_lines(b"host: x", b"content-length: 5", b"content-length: 5"), 400),
    "two lengths in one field": (with_lines(b"host: x", b"content-length: 5, 5"), 400),
    "a length and chunks": (with_lines(b"host: x", b"content-length: 5", b"transfer-encoding: chunked"), 400),
    "chunks and a length": (with_lines(b"host: x", b"transfer-encoding: chunked", b"content-length: 5"), 400),
    "chunks twice": (with_lines(b"host: x", b"transfer-encoding: chunked", b"transfer-encoding: chunked"), 400),
    "chunks and then another coding": (with_lines(b"host: x", b"transfer-encoding: chunked, gzip"), 400),
    "another coding before chunks": (with_lines(b"host: x", b"transfer-encoding: gzip, chunked"), 501),
    "another coding": (with_lines(b"host: x", b"transfer-encoding: identity"), 400),
    "a coding in quotes": (with_lines(b"host: x", b'transfer-encoding: "chunked"'), 400),
    "a coding behind a vertical tab": (with_lines(b"host: x", b"transfer-encoding: \x0bchunked"), 400),
    "no coding": (with_lines(b"host: x", b"transfer-encoding:"), 400),
    # Chunks
    "a size in words": (CHUNKED_HEAD + b"zz\r\n", 400),
    "a negative size": (CHUNKED_HEAD + b"-1\r\n", 400),
    "a size with a prefix": (CHUNKED_HEAD + b"0x5\r\nhello\r\n0\r\n\r\n", 400),
    "an empty size": (CHUNKED_HEAD + b"\r\nhello\r\n0\r\n\r\n", 400),
    "a size behind a blank": (CHUNKED_HEAD + b" 5\r\nhello\r\n0\r\n\r\n", 400),
    "a size beyond all numbers": (CHUNKED_HEAD + b"1" * 17 + b"\r\n", 400),
    "a size beyond the limit": (CHUNKED_HEAD + b"7fffffffffffffff\r\n", 413),
    "a bare line feed behind a size": (CHUNKED_HEAD + b"5\nhello\r\n0\r\n\r\n", 400),
    "a bare line feed behind a chunk": (CHUNKED_HEAD + b"5\r\nhello\n0\r\n\r\n", 400),
    "a chunk that is longer than its size": (CHUNKED_HEAD + b"4\r\nhello\r\n0\r\n\r\n", 400),
    "an extension with a carriage return": (CHUNKED_HEAD + b"5;a\rb\r\nhello\r\n0\r\n\r\n", 400),
    "a long extension": (CHUNKED_HEAD + b"5;" + b"a" * 5000, 400),
    "many extensions": (CHUNKED_HEAD + (b"1;" + b"a" * 100 + b"\r\nx\r\n") * 300, 400),
    "a trailer that is none": (CHUNKED_HEAD + b"0\r\nGET / HTTP/1.1\r\n\r\n", 400),
    "a folded trailer": (CHUNKED_HEAD + b"0\r\na: b\r\n c\r\n\r\n", 400),
    "many trailers": (CHUNKED_HEAD + b"0\r\n" + b"a: b\r\n" * 4000, 400),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_request_is_refused_at_once_and_the_connection_closed(case: str) -> None:
    data, status = REFUSED[case]

    @served
    async def test() -> None:
        async with running(max_body_bytes=100_000) as r:
            caller = await r.asked(data)
            async with asyncio.timeout(2):  # a fifth of the time that a head may take
                answered, headers, body = await caller.answer()
            assert (answered, headers["connection"]) == (status, "close")
            assert body.startswith(b'{"error":')
            assert await caller.is_closed()
            assert not r.echo.seen

    test()


@pytest.mark.parametrize("case", [case for case in REFUSED if "too large" not in case])
def test_it_is_refused_as_well_byte_by_byte(case: str) -> None:
    data, status = REFUSED[case]

    @served
    async def test() -> None:
        async with running(max_body_bytes=100_000) as r:
            caller = await r.connect()
            for start in range(0, min(len(data), 8000), 7):
                caller.send(data[start : start + 7])
                await asyncio.sleep(0)
            caller.send(data[8000 - 8000 % 7 :] if len(data) > 8000 else b"")
            assert (await caller.answer())[0] == status
            assert not r.echo.seen

    test()


TAKEN = {
    "an empty line before": (b"\r\n" + GET, b"GET /a "),
    "several empty lines before": (b"\r\n\r\n\r\n" + GET, b"GET /a "),
    "a host with a port": (with_lines(b"host: x:8000"), b"GET /a "),
    "a host with an empty port": (with_lines(b"host: x:"), b"GET /a "),
    "a host by number": (with_lines(b"host: [::1]:8000"), b"GET /a "),
    "a name with an underscore": (with_lines(b"host: my_host.local"), b"GET /a "),
    "no host in HTTP/1.0": (with_lines(version=b"1.0"), b"GET /a "),
    "a URL": (with_lines(b"host: y", line=b"GET http://x:1/a HTTP/"), b"GET /a "),
    "a URL without a path": (with_lines(b"host: y", line=b"GET http://x HTTP/"), b"GET / "),
    "the whole server": (with_lines(b"host: x", line=b"OPTIONS * HTTP/"), b"OPTIONS * "),
    "an escape of a plain letter": (with_lines(b"host: x", line=b"GET /%61 HTTP/"), b"GET /a "),
    "an escaped slash": (with_lines(b"host: x", line=b"GET /a%2fb HTTP/"), b"GET /a%2Fb "),
    "an escaped percent": (with_lines(b"host: x", line=b"GET /a%252fb HTTP/"), b"GET /a%2fb "),
    "two slashes": (with_lines(b"host: x", line=b"GET //a HTTP/"), b"GET //a "),
    "a value with eight bits": (with_lines(b"host: x", b"a: \xe9"), b"GET /a "),
    "whitespace around a value": (with_lines(b"host:\t x \t", b"a:b"), b"GET /a "),
    "an offer of HTTP/2": (
        with_lines(
            b"host: x", b"upgrade: h2c", b"connection: Upgrade, HTTP2-Settings", b"http2-settings: AAMAAABkAAQAAP"
        ),
        b"GET /a ",
    ),
    "an offer of HTTP/2 with a body": (
        post(b"hello", "upgrade: h2c", "connection: Upgrade, HTTP2-Settings", "http2-settings: AAMAAABk"),
        b"POST /a hello",
    ),
    "an offer of HTTP/2 with chunks": (
        CHUNKED.replace(b"transfer", b"upgrade: h2c\r\nconnection: upgrade\r\ntransfer", 1),
        b"POST /a hello world",
    ),
    "an offer of a web socket": (with_lines(b"host: x", b"upgrade: websocket", b"connection: upgrade"), b"GET /a "),
    "a blank behind chunked": (CHUNKED.replace(b": chunked", b": chunked "), b"POST /a hello world"),
    "tabs around chunked": (CHUNKED.replace(b": chunked", b":\tchunked\t"), b"POST /a hello world"),
    "chunked in capitals": (CHUNKED.replace(b": chunked", b": Chunked"), b"POST /a hello world"),
    "an extension": (CHUNKED_HEAD + b'5 ; a="b c"\r\nhello\r\n00;last\r\nt: r\r\nu:\r\n\r\n', b"POST /a hello"),
    "a size in capitals": (CHUNKED_HEAD + b"A\r\n0123456789\r\n0\r\n\r\n", b"POST /a 0123456789"),
    "a size with zeros": (CHUNKED_HEAD + b"0005\r\nhello\r\n0\r\n\r\n", b"POST /a hello"),
    "no chunk": (CHUNKED_HEAD + b"0\r\n\r\n", b"POST /a "),
    "an expectation that nobody knows": (post(b"hello", "expect: tea"), b"POST /a hello"),
}


@pytest.mark.parametrize("case", TAKEN)
@pytest.mark.parametrize("by", [1, 7, 1_000_000])
def test_what_the_rfc_allows_is_answered_and_so_is_what_follows(case: str, by: int) -> None:
    data, body = TAKEN[case]

    @served
    async def test() -> None:
        async with running() as r:
            caller = await r.connect()
            whole = data + b"\r\n" + CHUNKED + GET
            for start in range(0, len(whole), by):
                caller.send(whole[start : start + by])
                await asyncio.sleep(0)
            assert (await caller.answer())[2] == body
            if b"HTTP/1.0" in data:
                assert await caller.is_closed()
            else:
                assert (await caller.answer())[2] == b"POST /a hello world"
                assert (await caller.answer())[2] == b"GET /a "

    test()


@served
async def test_the_host_of_a_url_goes_before_the_header() -> None:
    async with running() as r:
        caller = await r.asked(with_lines(b"host: y", line=b"GET http://x:1/a HTTP/"))
        await caller.answer()
        ((head, _),) = r.echo.seen
        assert head.headers[b"host"] == b"x:1"


@served
async def test_a_caller_whose_body_is_here_is_not_told_to_go_on() -> None:
    async with running() as r:
        for request in (post(b"hello", "expect: 100-continue"), post(b"hello" * 99, "expect: 100-continue")[:-1]):
            caller = await r.asked(request)
            if request.endswith(b"hell"):
                await r.until(lambda: r.budget.used)
                caller.send(b"o")
            assert (await caller.answer())[2].startswith(b"POST /a hello")


# HTTP/1.0


@served
async def test_chunks_in_http_1_0_are_answered_and_the_connection_closed() -> None:
    async with running() as r:
        caller = await r.asked(
            CHUNKED.replace(b"HTTP/1.1", b"HTTP/1.0").replace(b"host: x", b"connection: keep-alive") + GET
        )
        status, headers, _ = await caller.answer()
        assert (status, headers["connection"]) == (200, "close")
        assert await caller.is_closed()
        assert len(r.echo.seen) == 1


@served
async def test_a_caller_of_http_1_0_is_not_told_to_go_on() -> None:
    async with running() as r:
        request = post(b"hello", "expect: 100-continue").replace(b"HTTP/1.1", b"HTTP/1.0")
        caller = await r.asked(request[:-5])
        await r.until(lambda: r.budget.used == 5)
        caller.send(b"hello")
        assert (await caller.answer())[2] == b"POST /a hello"


# Callers that end their side


@pytest.mark.parametrize("request_", [post(b"", path="/held"), CHUNKED.replace(b"/a", b"/held")])
def test_a_caller_that_has_ended_its_side_gets_its_answer(request_: bytes) -> None:
    @served
    async def test() -> None:
        async with running() as r:
            caller = await r.asked(request_ + post(b"2"))
            await r.until(lambda: r.echo.held)
            caller.writer.write_eof()
            await asyncio.sleep(0.05)  # longer than it is looked for
            r.echo.answer(b"late")
            assert (await caller.answer())[2] == b"late"
            assert (await caller.answer())[2] == b"POST /a 2"
            assert await caller.is_closed()
            assert r.echo.withdrawn == 0

    test()


@served
async def test_a_caller_that_ends_its_side_with_its_request_gets_its_answer() -> None:
    async with running() as r:
        caller = await r.connect()
        caller.send(GET)
        caller.writer.write_eof()
        assert (await caller.answer())[2] == b"GET /a "
        assert await caller.is_closed()


@pytest.mark.parametrize("data", [b"", GET[:9], post(b"hello")[:-1], CHUNKED[:-4], GET + b"\r\n"])
def test_a_caller_that_ends_its_side_too_early_is_closed(data: bytes) -> None:
    @served
    async def test() -> None:
        async with running() as r:
            caller = await r.connect()
            caller.send(data)
            caller.writer.write_eof()
            if data.startswith(GET):
                await caller.answer()
            assert await caller.is_closed()
            await r.until(lambda: not r.server.connections)

    test()


# Bodies that are not taken


@pytest.mark.parametrize("expects", [(), ("expect: 100-continue",)])
def test_a_body_that_is_announced_too_large_is_refused_before_it_comes(expects: tuple[str, ...]) -> None:
    @served
    async def test() -> None:
        async with running(max_body_bytes=2000) as r:
            caller = await r.asked(post(b"x" * 2001, *expects)[:-2001])
            async with asyncio.timeout(2):
                status, headers, _ = await caller.answer()
            assert (status, headers["connection"]) == (413, "close")

    test()


@served
async def test_who_may_not_is_told_before_the_body_comes() -> None:
    async with running() as r:
        caller = await r.asked(post(b"x" * 1_000_000, path="/forbidden")[:-999_000])
        status, headers, body = await caller.answer()
        assert (status, headers["connection"], body) == (403, "close", b'{"error":"not you"}')
        assert r.budget.used == 0
        caller = await r.asked(post(b"all of it", path="/forbidden") + GET)
        assert (await caller.answer())[0] == 403
        assert (await caller.answer())[0] == 200  # there is nothing left of the first to wait for
        assert r.echo.peers == ["127.0.0.1"] * 3


@served
async def test_each_route_has_its_own_limit() -> None:
    async with running() as r:
        for size, status in ((65_536, 200), (65_537, 413)):
            caller = await r.asked(post(b"x" * size, path="/small"))
            assert (await caller.answer())[0] == status
            caller = await r.asked(CHUNKED_HEAD.replace(b"/a", b"/small") + b"%x\r\n" % size + b"x" * 10)
            if status == 413:
                assert (await caller.answer())[0] == 413


@served
async def test_a_caller_that_sends_on_hears_why_its_body_is_refused() -> None:
    async with running(max_body_bytes=2000) as r:
        caller = await r.asked(post(b"x" * 20_000_000))
        await caller.writer.drain()
        assert (await caller.answer())[0] == 413
        assert r.budget.peak < 300_000
