"""A client of HTTP/2 that sends whatever frames a test likes, and waits for the server's."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from serving.transport.http2 import frames
from tests.support.http2frames import HELLO, Frame, fields_in


class RawClient:
    """One connection. `frames` are all that came, `is_ended` says that the server has closed its side."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer
        self.frames: list[Frame] = []
        self.is_ended = False

    def send(self, *parts: bytes) -> None:
        """Send frames, in one write."""
        self.writer.write(b"".join(parts))

    async def until(self, found: Callable[[Frame], bool]) -> Frame:
        """The first frame that is it, of all that came and come."""
        seen = 0
        async with asyncio.timeout(20):
            while True:
                for frame in self.frames[seen:]:
                    if found(frame):
                        return frame
                seen = len(self.frames)
                assert not self.is_ended, [(frame.kind, frame.stream) for frame in self.frames[-5:]]
                await self._read()

    async def end(self) -> None:
        """Wait until the server has closed its side, or all of the connection."""
        async with asyncio.timeout(20):
            while not self.is_ended:
                await self._read()

    async def fields(self, stream: int, number: int = 0) -> dict[str, str]:
        """The fields of the stream's first head, or of the one after so many others."""
        await self.until(lambda _: len(self._heads(stream)) > number)
        return dict(fields_in(self._heads(stream)[number].payload))

    async def body(self, stream: int) -> bytes:
        """The stream's whole body."""
        await self.until(lambda f: f.stream == stream and f.kind in (0, 1) and bool(f.flags & frames.END_STREAM))
        return b"".join(frame.payload for frame in self.frames if frame.kind == frames.DATA and frame.stream == stream)

    def _heads(self, stream: int) -> list[Frame]:
        return [frame for frame in self.frames if frame.kind == frames.HEADERS and frame.stream == stream]

    async def _read(self) -> None:
        try:
            head = await self._reader.readexactly(frames.HEAD_BYTES)
            high, low, kind, flags, stream = frames.FRAME_HEAD.unpack(head)
            self.frames.append(Frame(kind, flags, stream, await self._reader.readexactly(high << 8 | low)))
        except (asyncio.IncompleteReadError, ConnectionError):
            self.is_ended = True


@asynccontextmanager
async def connected(port: int, hello: bytes = HELLO, receive_buffer: int = 0) -> AsyncIterator[RawClient]:
    """A connection on which this was sent; the system holds so many bytes that nobody has read, 0 for what it likes."""
    made = socket.create_connection(("127.0.0.1", port))
    if receive_buffer:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    reader, writer = await asyncio.open_connection(sock=made)
    writer.write(hello)
    try:
        yield RawClient(reader, writer)
    finally:
        writer.close()
