"""A large body outside of the heap: an anonymous file in memory, which is written piece by piece and read elsewhere."""

import mmap
import os
import queue
import tempfile
import threading
from functools import cache

_LARGE_BYTES = 2**20


class SpooledBody:
    """A body in an anonymous file. `fd` is its descriptor, `size` its length in bytes.

    `write` and `close` run on the event loop; `read` and reading by `fd` may happen in another thread or process.
    Whoever has it closes it; it closes itself when it is forgotten.
    """

    __slots__ = ("fd", "is_on_disk", "size")

    def __init__(self) -> None:
        """Raises `OSError` where the process has no descriptor left."""
        self.size = 0
        self.fd = -1
        self.is_on_disk = False
        self.fd = os.memfd_create("body", os.MFD_CLOEXEC) if hasattr(os, "memfd_create") else _unnamed_file()

    @classmethod
    def of_file(cls, fd: int, size: int, *, is_on_disk: bool = True) -> "SpooledBody":
        """A file whose descriptor it has from now on, to be read; one on a disk hardly counts in the budget."""
        body = cls.__new__(cls)
        body.fd, body.size, body.is_on_disk = fd, size, is_on_disk
        return body

    def write(self, part: bytes | bytearray | memoryview) -> None:
        """Append these bytes. Raises `OSError` where there is no room for them."""
        view = memoryview(part)
        while view:
            written = os.pwrite(self.fd, view, self.size)
            self.size += written
            view = view[written:]

    def read(self, size: int | None = None, offset: int = 0) -> bytes:
        """The bytes from the offset on; without a size all of them."""
        left = self.size - offset if size is None else min(size, self.size - offset)
        part = os.pread(self.fd, left, offset)
        if len(part) == left:
            return part
        parts = [part]  # the system reads no more than 2 GiB at once
        while part and (left := left - len(part)):
            offset += len(part)
            part = os.pread(self.fd, left, offset)
            parts.append(part)
        return b"".join(parts)

    def mapped(self) -> memoryview:
        """All of it, read-only, without a copy; it lasts as long as a view of it does, whoever closes the body."""
        if not self.size:
            return memoryview(b"")
        return memoryview(mmap.mmap(self.fd, self.size, access=mmap.ACCESS_READ))

    def again(self) -> "SpooledBody":
        """The same file under a descriptor of its own. Raises `OSError` where the process has none left."""
        return SpooledBody.of_file(os.dup(self.fd), self.size, is_on_disk=self.is_on_disk)

    def close(self) -> None:
        """Give back the memory, that of a large body a moment later. Closing again does nothing."""
        fd, self.fd = self.fd, -1
        if fd < 0:
            return
        if self.size > _LARGE_BYTES:
            _closer().put(fd)
        else:
            os.close(fd)

    def __del__(self) -> None:
        self.close()


@cache
def _closer() -> "queue.SimpleQueue[int]":
    """Takes the descriptors of large files: to free their pages takes milliseconds, too long for the event loop."""
    descriptors: queue.SimpleQueue[int] = queue.SimpleQueue()

    def close() -> None:
        while True:
            os.close(descriptors.get())

    threading.Thread(target=close, name="closer", daemon=True).start()
    return descriptors


def _unnamed_file() -> int:
    """Where the system has no files in memory (macOS): a file that nobody else can open."""
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
