"""What a worker and a model process say to each other, as MessagePack over a stream socket, each with its length."""

import socket
import struct
import threading
from typing import Any

import msgspec

from millrace.artifacts.configs import TritonConfig
from millrace.protocol.messages import ModelAnnouncement

_LENGTH = struct.Struct("<I")
_READ_BYTES = 65_536


class Setup(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The first message to a process: how it reaches the queue, and how it runs models."""

    redis_url: str
    worker: str
    device: str
    gpu_memory_mb: int
    gpu_tf32: bool
    threads: int
    backend: str
    max_batch_size: int
    instances: int
    lease_ms: int
    memory_mb: int
    log_level: str
    allow_code: bool
    gives_way: bool = False


class Load(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Load a version; `number` is its name from now on. Answered by `Loaded` or `LoadFailed`.

    `not_run` is why it is not warmed up, "" where it is to be.
    """

    number: int
    folder: str
    name: str
    version: int
    config: TritonConfig | None
    not_run: str = ""


class Serve(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Take requests for a loaded version: one instance for each consumer's name and slot in the shared memory."""

    number: int
    seats: tuple[tuple[str, int], ...]


class Stop(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Take nothing more for a version, answer what is in hand; then unload it, or keep it to serve again."""

    number: int
    unloads: bool


class Loaded(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A version is loaded and warmed up; `instances` are to serve it."""

    number: int
    announcement: ModelAnnouncement
    instances: int


class LoadFailed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A version cannot be loaded (`LoadError`)."""

    number: int
    reason: str
    can_retry: bool


class Stopped(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The instances of a version have ended."""

    number: int


class Fault(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """What a version's backend says of itself has changed."""

    number: int
    fault: str


ToProcess = Setup | Load | Serve | Stop
ToWorker = Loaded | LoadFailed | Stopped | Fault


class Channel:
    """One end of the socket between them, where messages of the type `incoming` arrive.

    Any thread may `send`; one calls `receive`. Unless it `waits`, what the other side cannot take now is kept, for
    `flush` to send.
    """

    def __init__(self, sock: socket.socket, incoming: Any, *, waits: bool = True) -> None:
        self._socket = sock
        self._waits = waits
        self._unsent = bytearray()
        self._decoder = msgspec.msgpack.Decoder(incoming)
        self._sending = threading.Lock()
        self._buffer = bytearray()

    def fileno(self) -> int:
        """What a selector needs."""
        return self._socket.fileno()

    def send(self, message: ToProcess | ToWorker) -> None:
        """Send it. Raises `OSError` where the other side is gone."""
        content = msgspec.msgpack.encode(message)
        with self._sending:
            self._unsent += _LENGTH.pack(len(content)) + content
            self._flush()

    @property
    def has_more(self) -> bool:
        """Whether something waits for `flush`."""
        return bool(self._unsent)

    def flush(self) -> None:
        """Send what the other side takes now. Raises `OSError` where it is gone."""
        with self._sending:
            self._flush()

    def _flush(self) -> None:
        try:
            while self._unsent:
                del self._unsent[: self._socket.send(self._unsent, 0 if self._waits else socket.MSG_DONTWAIT)]
        except BlockingIOError:
            return

    def receive(self) -> list[Any]:
        """What has come and is whole, without waiting. Raises `EOFError` when the other side is gone."""
        try:
            received = self._socket.recv(_READ_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return []
        except ConnectionError:
            received = b""
        if not received:
            raise EOFError
        self._buffer += received
        messages = []
        while len(self._buffer) >= _LENGTH.size:
            ends = _LENGTH.size + _LENGTH.unpack_from(self._buffer)[0]
            if len(self._buffer) < ends:
                break
            messages.append(self._decoder.decode(self._buffer[_LENGTH.size : ends]))
            del self._buffer[:ends]
        return messages

    def close(self) -> None:
        """Hang up: a model process ends then."""
        self._socket.close()
