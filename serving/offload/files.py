"""Memory that crosses to another process by its descriptor: written once, mapped there, never copied.

A file of ours is laid out like this, everything little-endian:

    offset  size
    0       8     length of the description
    8       …     the description, MessagePack
    …       …     the buffers, each starting at a multiple of 64
"""

import mmap
import os
import struct
import tempfile
from collections.abc import Sequence

_LENGTH = struct.Struct("<Q")
_ALIGNMENT = 64
_MOST_BUFFERS = 64  # of one `writev`; systems take at least 1,024 today

Buffer = bytes | memoryview


def memory_file() -> int:
    """The descriptor of a new, empty file in memory; a file without a name where the system has none. Close it."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("millrace", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def write_file(description: bytes, buffers: Sequence[Buffer]) -> int:
    """A new file with these contents, as its descriptor. Raises `OSError` or `MemoryError` where there is no room."""
    parts: list[Buffer] = [_LENGTH.pack(len(description)), description]
    size = _LENGTH.size + len(description)
    for buffer in buffers:
        parts += (bytes(-size % _ALIGNMENT), buffer)
        size += -size % _ALIGNMENT + len(buffer)
    return write_plain(parts)


def write_plain(parts: Sequence[Buffer]) -> int:
    """A new file with these bytes and nothing else, as its descriptor. Raises as `write_file` does."""
    fd = memory_file()
    try:
        _write(fd, parts)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _write(fd: int, given: Sequence[Buffer]) -> None:
    parts = [memoryview(part) for part in given if len(part)]
    while parts:
        written = os.writev(fd, parts[:_MOST_BUFFERS])
        while parts and written >= len(parts[0]):
            written -= len(parts.pop(0))
        if written:
            parts[0] = parts[0][written:]


def map_file(fd: int) -> memoryview:
    """What is in the file, read-only; the memory goes when the last view of it does. The descriptor may be closed."""
    size = os.fstat(fd).st_size
    return memoryview(mmap.mmap(fd, size, access=mmap.ACCESS_READ)) if size else memoryview(b"")


def description_of(contents: memoryview) -> memoryview:
    """The description in a file of ours."""
    (length,) = _LENGTH.unpack_from(contents)
    return contents[_LENGTH.size : _LENGTH.size + length]


def buffers_of(contents: memoryview, sizes: Sequence[int]) -> list[memoryview]:
    """The buffers of these sizes in a file of ours. Raises `ValueError` where they are not there."""
    (length,) = _LENGTH.unpack_from(contents)
    offset, found = _LENGTH.size + length, []
    for size in sizes:
        offset += -offset % _ALIGNMENT
        found.append(contents[offset : offset + size])
        offset += size
    if offset > len(contents):
        raise ValueError(f"{offset} bytes were described, {len(contents)} came")
    return found
