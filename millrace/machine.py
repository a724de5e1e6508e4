"""What this process may use of the machine, and how many processes of each kind fit it.

A container or a service may have less than the machine: its CPU affinity, its cgroup's CPU quota and its cgroup's
memory count. Why the cores are shared out as they are: docs/decisions/0013-all-cores.md.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/")
_API_BYTES = 1024 * 2**20  # reckoned for one API process: itself, its budget, its offload processes
_WORKER_BYTES = 512 * 2**20  # and for one worker, beside its models
_COPY_SIZE = 3  # times as large as its files is a model that is loaded, with what its runs take up
_CORES_PER_API = 2


def fitting_apis(cores: int, memory_bytes: int) -> int:
    """How many API processes fit: one for two cores, and all of them into half of the memory; at least one."""
    return max(1, min(cores // _CORES_PER_API, memory_bytes // 2 // _API_BYTES))


def fitting_workers(cores: int, memory_bytes: int, *, threads: int, models_bytes: int) -> int:
    """How many workers fit: as many as have a thread for each core, and all into half of the memory; at least one.

    So models that need much more than the API get every core. `threads` is how many one worker runs one model with.
    `models_bytes` is the size of the models' files, of which every worker has a copy.
    """
    return max(1, min(cores // threads, memory_bytes // 2 // (_WORKER_BYTES + _COPY_SIZE * models_bytes)))


def usable_cores(root: Path = _ROOT, cores: int | None = None) -> int:
    """The cores that this process may use: by its affinity, or by its cgroup's quota where that is less; at least 1.

    `root` is the root of the file system, and `cores` what the affinity allows, where it is known.
    """
    if cores is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.floor(min([cores, *_quotas(root)])))


def usable_memory(root: Path = _ROOT, machine_bytes: int | None = None) -> int:
    """The bytes of memory of the machine, or of this process's cgroup (version 1 or 2) where that has less.

    `root` is the root of the file system, and `machine_bytes` what the machine has, where it is known.
    """
    if machine_bytes is None:
        machine_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = (
        int(text)
        for version, folder in _cgroups(root, "memory")
        if (text := _read(folder / ("memory.max" if version == 2 else "memory.limit_in_bytes"))).isdigit()
    )
    return min([machine_bytes, *limits])


def _quotas(root: Path) -> Iterator[float]:
    """How many cores each of the cgroups may use at once, where it is bounded."""
    for version, folder in _cgroups(root, "cpu"):
        if version == 2:
            quota, _, period = _read(folder / "cpu.max").partition(" ")
        else:
            quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit() and int(period):
            yield int(quota) / int(period)


def _cgroups(root: Path, controller: str) -> Iterator[tuple[int, Path]]:
    """The version and the folder of this process's cgroup for a controller, and of those above it.

    In a container the path may be the host's: then the mount itself is the cgroup.
    """
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            version, mount = 2, root / "sys/fs/cgroup"
        elif controller in controllers.split(","):
            version, mount = 1, root / "sys/fs/cgroup" / controller
        else:
            continue
        folder = mount / path.lstrip("/")
        yield from ((version, level) for level in (folder, *folder.parents) if level.is_relative_to(mount))


def _read(path: Path) -> str:
    """The text of a file of the system; "" where there is none, as on other systems than Linux."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
