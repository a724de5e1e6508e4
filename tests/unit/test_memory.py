"""The memory that an API process may take: what its machine or cgroup has, and the sum that is printed."""

from pathlib import Path

import pytest

from millrace.machine import usable_memory
from serving.memory import MemoryLimit, buffered_bytes, memory_limit
from serving.settings import ServingSettings

MB = 2**20
MACHINE = 8192 * MB


@pytest.mark.parametrize(
    ("cgroup", "files", "bytes_"),
    [
        ("", {}, MACHINE),
        ("0::/\n", {"memory.max": "max"}, MACHINE),
        ("0::/\n", {"memory.max": str(256 * MB)}, 256 * MB),
        ("0::/kube/pod/api\n", {"kube/pod/api/memory.max": "max", "kube/pod/memory.max": str(300 * MB)}, 300 * MB),
        ("0::/kube/pod/api\n", {"memory.max": str(200 * MB)}, 200 * MB),  # in a container, the path is the host's
        ("3:cpu:/\n4:memory:/a/b\n", {"memory/a/b/memory.limit_in_bytes": str(128 * MB)}, 128 * MB),
        ("4:memory:/a/b\n", {"memory/memory.limit_in_bytes": "9223372036854771712"}, MACHINE),
        ("4:cpu,memory:/a\n0::/\n", {"memory/a/memory.limit_in_bytes": str(MB)}, MB),
    ],
)
def test_the_smallest_limit_of_machine_and_cgroups_counts(
    tmp_path: Path, cgroup: str, files: dict[str, str], bytes_: int
) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(cgroup)
    for path, text in files.items():
        file = tmp_path / "sys/fs/cgroup" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")
    assert usable_memory(tmp_path, MACHINE) == bytes_


def test_a_system_without_cgroups_has_what_its_machine_has(tmp_path: Path) -> None:
    assert usable_memory(tmp_path, MACHINE) == MACHINE


def test_the_budget_is_what_is_set_or_else_fits_the_machine() -> None:
    assert buffered_bytes(ServingSettings(max_buffered_bytes=5 * MB)) == 5 * MB
    assert buffered_bytes(ServingSettings()) == min(512 * MB, usable_memory() // 4)


def test_the_sum_is_said_with_its_parts() -> None:
    limit = MemoryLimit(base_bytes=100 * MB, buffered_bytes=50 * MB, connection_bytes=30 * MB, offload_bytes=20 * MB)
    assert limit.bytes == 200 * MB
    assert str(limit) == (
        "at most 200 MiB of memory: 100 program + 50 requests and responses + 30 connections + 20 offload processes"
    )
    assert memory_limit(ServingSettings(), connections=10_000).connection_bytes == 40_960_000
