"""A server of one Open Inference model, as a process: it answers at once, but for the stalls that it is told to make.

    python tests/support/paced_server.py PORT [--stall-s 0.5 --every-s 5] [--status 429 --of 10] [--wrong-of 10]

Everything stands still in a stall, as in a pause of a garbage collector. Standard library alone.
"""

import argparse
import asyncio
import json
import struct
import time
from typing import cast

METADATA = {
    "name": "image",
    "versions": ["1"],
    "platform": "test",
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 28, 28, 1]}],
    "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 10]}],
}
VALUES = [0.1] * 10


def response(body: bytes, status: int = 200, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *headers, "\r\n"]
    return "\r\n".join(lines).encode() + body


def answers() -> tuple[bytes, bytes, bytes]:
    """In JSON, in binary, and a wrong one."""
    output = {"name": "y", "datatype": "FP32", "shape": [1, 10]}
    timing = "Server-Timing: parse;dur=0.010, queue;dur=0.020, compute;dur=0.030"
    head = json.dumps({"model_name": "image", "outputs": [output | {"parameters": {"binary_data_size": 40}}]}).encode()
    binary = response(head + struct.pack("<10f", *VALUES), 200, timing, f"Inference-Header-Content-Length: {len(head)}")
    right, wrong = (
        json.dumps({"model_name": "image", "outputs": [output | {"data": values}]}).encode()
        for values in (VALUES, [*VALUES[:9], 0.9])
    )
    return response(right, 200, timing), binary, response(wrong)


class Connection(asyncio.Protocol):
    """One caller; requests may come in pieces."""

    options: argparse.Namespace
    count = 0
    json_answer, binary_answer, wrong_answer = answers()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self._data = cast(asyncio.Transport, transport), b""

    def data_received(self, data: bytes) -> None:
        self._data += data
        while (end := self._data.find(b"\r\n\r\n")) >= 0:
            head = self._data[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n")[0]) if at >= 0 else 0
            if len(self._data) < end + 4 + length:
                return
            self._data = self._data[end + 4 + length :]
            self._send(self._answer(head))

    def _send(self, answer: bytes) -> None:
        """At once, or after the time that the model is said to take."""
        if self.options.delay_s:
            asyncio.get_running_loop().call_later(self.options.delay_s, self._write, answer)
        else:
            self._write(answer)

    def _write(self, answer: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(answer)

    def _answer(self, head: bytes) -> bytes:
        if head.startswith(b"get"):
            return response(json.dumps(METADATA).encode())
        options = self.options
        Connection.count += 1
        if options.of and Connection.count % options.of == 0:
            return response(b'{"error": "not now"}', options.status)
        if options.wrong_of and Connection.count % options.wrong_of == 0:
            return self.wrong_answer
        return self.binary_answer if b"inference-header-content-length" in head else self.json_answer


async def serve(options: argparse.Namespace) -> None:
    Connection.options = options
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", options.port, backlog=1024)
    while options.stall_s:
        await asyncio.sleep(options.every_s - options.stall_s)
        time.sleep(options.stall_s)  # all of it stands still
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--stall-s", type=float, default=0.0)
    parser.add_argument("--every-s", type=float, default=5.0)
    parser.add_argument("--delay-s", type=float, default=0.0)
    parser.add_argument("--status", type=int, default=429)
    parser.add_argument("--of", type=int, default=0)
    parser.add_argument("--wrong-of", type=int, default=0)
    try:
        import uvloop

        uvloop.install()
    except ImportError:
        pass
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
