"""No request, legal or not, holds the event loop for long: not by its size, its chunks, its coding, nor its response.

What is measured is the processor time that the loop's thread takes between two beats of a clock on the loop, while
callers in another process do their worst. Other load on the machine does not count that way.
"""

import asyncio
import gc
import gzip
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop

from tests.support.echo_server import CHUNKED, post, running

pytestmark = pytest.mark.alone

MB = 2**20
CHUNKED_HEAD = CHUNKED[: CHUNKED.index(b"5;ext")]
LONGEST_S = 0.05
CALLERS = """
import asyncio, pathlib, sys
port, count, data = int(sys.argv[1]), int(sys.argv[2]), pathlib.Path(sys.argv[3]).read_bytes()
async def call():
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        writer.write_eof()
        while await reader.read(1 << 20):
            pass
    except ConnectionError:
        pass
    writer.close()
async def main():
    await asyncio.gather(*(call() for _ in range(count)))
asyncio.run(main())
"""

CASES: dict[str, tuple[int, Callable[[], bytes]]] = {
    "one large body": (1, lambda: post(bytes(60 * MB))),
    "many large bodies": (64, lambda: post(bytes(4 * MB))),
    "a body in tiny chunks": (1, lambda: CHUNKED_HEAD + b"1\r\nx\r\n" * 300_000 + b"0\r\n\r\n"),
    "many bodies in tiny chunks": (64, lambda: CHUNKED_HEAD + b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n"),
    "chunks with extensions": (16, lambda: CHUNKED_HEAD + b"1;aaaaaaaaaa\r\nx\r\n" * 20_000 + b"0\r\n\r\n"),
    "a packed body": (1, lambda: post(gzip.compress(os.urandom(MB) * 40, 1), "content-encoding: gzip")),
    "many packed bodies": (64, lambda: post(gzip.compress(bytes(3 * MB)), "content-encoding: gzip")),
    "many small packed bodies": (64, lambda: post(gzip.compress(bytes(200_000)), "content-encoding: gzip") * 20),
    "bombs": (64, lambda: post(gzip.compress(bytes(50 * MB), 9), "content-encoding: gzip")),
    "large responses": (16, lambda: post(b"", path="/huge") * 2),
    "many requests at once": (64, lambda: post(b"x", path="/a") * 300),
    "heads with many fields": (64, lambda: (b"GET /a HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 250 + b"\r\n") * 50),
    "large heads": (64, lambda: (b"GET /a HTTP/1.1\r\nhost: x\r\na: " + b"b" * 60_000 + b"\r\n\r\n") * 20),
    "empty lines": (64, lambda: b"\r\n" * 200_000 + post(b"")),
}


@pytest.mark.parametrize("case", CASES)
def test_no_request_holds_the_event_loop(case: str, tmp_path: Path) -> None:
    count, data = CASES[case]
    (tmp_path / "data").write_bytes(data())

    async def test() -> None:
        async with running() as r:
            r.echo.keeps_nothing = True
            command = [sys.executable, "-c", CALLERS, str(r.server.settings.port), str(count), str(tmp_path / "data")]
            callers = await asyncio.create_subprocess_exec(*command)
            leaving = asyncio.ensure_future(callers.wait())
            longest_s, last = 0.0, time.thread_time()
            while not leaving.done():
                await asyncio.sleep(0.001)
                longest_s, last = max(longest_s, time.thread_time() - last), time.thread_time()
            assert r.server.connections.accepted >= count
        assert longest_s < LONGEST_S

    gc.collect()
    gc.disable()  # a collection of all that pytest has is no request's fault
    try:
        uvloop.run(asyncio.wait_for(test(), 60))
    finally:
        gc.enable()
