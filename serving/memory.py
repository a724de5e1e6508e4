"""How much memory one API process may take: the sum of what its settings allow."""

import ctypes
import os
from collections.abc import Collection
from dataclasses import dataclass, fields
from pathlib import Path

from millrace.machine import usable_memory
from serving.settings import ServingSettings

_MiB = 2**20
_SHARE = 4
_MOST_BUFFERED_BYTES = 512 * _MiB
CONNECTION_BYTES = 4096  # of one idle connection; 1,600 were measured
TLS_BYTES = 61_440  # more of one with TLS; 48,000 were measured
GRPC_CONNECTION_BYTES = 32_768  # the same of gRPC; a call on it is counted with requests
_SLACK_BYTES = 64 * _MiB  # code and caches that come with the first requests, and what the allocator does not give back


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryLimit:
    """The most that one API process takes, or all of them, in bytes, and its parts."""

    base_bytes: int
    buffered_bytes: int
    connection_bytes: int
    offload_bytes: int = 0

    @property
    def bytes(self) -> int:
        """The sum."""
        return self.base_bytes + self.buffered_bytes + self.connection_bytes + self.offload_bytes

    def __str__(self) -> str:
        parts = (
            ("program", self.base_bytes),
            ("requests and responses", self.buffered_bytes),
            ("connections", self.connection_bytes),
            ("offload processes", self.offload_bytes),
        )
        shown = " + ".join(f"{bytes_ / _MiB:.0f} {name}" for name, bytes_ in parts if bytes_)
        return f"at most {self.bytes / _MiB:.0f} MiB of memory: {shown}"


def memory_limit(
    settings: ServingSettings, *, connections: int, grpc_connections: int = 0, offload_bytes: int = 0
) -> MemoryLimit:
    """What this process, which has started, takes at most with so many connections."""
    tls_bytes = TLS_BYTES if settings.tls_cert else 0
    return MemoryLimit(
        base_bytes=resident_bytes() + _SLACK_BYTES,
        buffered_bytes=buffered_bytes(settings),
        connection_bytes=connections * (CONNECTION_BYTES + tls_bytes)
        + grpc_connections * (GRPC_CONNECTION_BYTES + tls_bytes),
        offload_bytes=offload_bytes,
    )


def buffered_bytes(settings: ServingSettings) -> int:
    """The limit of this process's budget, an equal share of that of all API processes.

    They have what the settings say, else a quarter of the available memory, up to 512 MiB for each.
    """
    share = (settings.max_buffered_bytes or usable_memory() // _SHARE) // settings.process_count
    return share if settings.max_buffered_bytes else min(_MOST_BUFFERED_BYTES, share)


def together(limits: Collection[MemoryLimit]) -> MemoryLimit:
    """What several processes take at most."""
    names = [part.name for part in fields(MemoryLimit)]
    return MemoryLimit(**{name: sum(getattr(limit, name) for limit in limits) for name in names})


def resident_bytes() -> int:
    """The memory that this process has now; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def excess_bytes(limit_bytes: int) -> int:
    """How much more memory than that this process has, when it has given back what it does not use."""
    if resident_bytes() <= limit_bytes:
        return 0
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)
    return max(0, resident_bytes() - limit_bytes)
