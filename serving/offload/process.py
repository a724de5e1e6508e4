"""An offload process: it does one job after the other, until the API process closes the connection or kills it.

It has no event loop, no threads and no part of the queue. What it may take up is bounded by the system, so that a body
which needs too much ends in an error for its own caller, and at worst in the end of this process.
"""

import ctypes
import gc
import os
import resource
import signal
import socket
import struct
from pathlib import Path

from millrace.protocol.errors import PayloadTooLarge
from serving.offload.files import description_of, map_file, write_file, write_plain
from serving.offload.jobs import Failed, encoder, job_decoder
from serving.offload.work import NO_MEMORY, Done, run

MESSAGE = struct.Struct("<QQ")  # the job's number, and how many descriptors come with it
_NICENESS = 5  # what is large yields to what is small
_TRIM_BYTES = 2**20


def main(fd: int, memory_bytes: int) -> None:
    """Work for whoever holds the other end of the socket."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the API process, which closes the socket when it ends
    os.nice(_NICENESS)
    _bound_memory(memory_bytes)
    gc.freeze()
    with socket.socket(fileno=fd) as connection:
        while message := _receive(connection):
            number, fds = message
            _answer(connection, number, fds)


def _bound_memory(memory_bytes: int) -> None:
    """Let this process have so many bytes more than it has now, or less where whoever started it wants it so."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        now = int(statm.read_text().split()[0]) * resource.getpagesize()
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        limit = now + memory_bytes if most == resource.RLIM_INFINITY else min(now + memory_bytes, most)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _receive(connection: socket.socket) -> tuple[int, list[int]] | None:
    data, fds, _, _ = socket.recv_fds(connection, MESSAGE.size, 2)
    if len(data) < MESSAGE.size:
        return None
    return MESSAGE.unpack(data)[0], list(fds)


def _answer(connection: socket.socket, number: int, fds: list[int]) -> None:
    size = sum(os.fstat(fd).st_size for fd in fds)
    results = _work(fds)
    socket.send_fds(connection, [MESSAGE.pack(number, len(results))], results)
    for result in results:
        size += os.fstat(result).st_size
        os.close(result)
    if size > _TRIM_BYTES:
        gc.collect()
        _trim()


def _work(fds: list[int]) -> list[int]:
    """Do the job in the files; the descriptors of its result, and of the body that it has perhaps."""
    try:
        contents, *body = map(map_file, fds)
        done = run(job_decoder.decode(description_of(contents)), contents, body[0] if body else None)
    except (MemoryError, OSError):  # it cannot even be mapped
        done = Done(Failed.of(PayloadTooLarge(NO_MEMORY)))
    finally:
        for fd in fds:
            os.close(fd)
    result = write_file(encoder.encode(done.outcome), done.buffers)
    return [result] if done.body is None else [result, write_plain([done.body])]


def _trim() -> None:
    """Give the memory of a large job back to the system, where the allocator knows how."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)
