"""How much memory a model process may take and has, and how long it waits for a processor."""

import contextlib
import re
from pathlib import Path

_MB = 1_000_000


def limit_memory(megabytes: int) -> None:
    """Let what this process asks for beyond what it has now, and so many megabytes, fail as out of memory."""
    with contextlib.suppress(ImportError):  # not on every system; the worker looks, too
        import resource

        at_most = _field("self", "VmData") + megabytes * _MB
        resource.setrlimit(resource.RLIMIT_DATA, (at_most, resource.getrlimit(resource.RLIMIT_DATA)[1]))


def own_memory(pid: int) -> int:
    """The bytes that a process has for itself, not as the mapping of a file; 0 where the system does not say."""
    return _field(str(pid), "RssAnon") + _field(str(pid), "RssShmem")


def waited_s(pid: int) -> float:
    """For how long the threads of a process were ready to run and waited, together; 0 where the system does not say."""
    waited_ns = 0
    for file in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError, ValueError, IndexError):  # the thread has ended
            waited_ns += int(file.read_text().split()[1])
    return waited_ns / 1e9


def _field(pid: str, name: str) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(rf"^{name}:\s+(\d+) kB$", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0
