"""What a process may use of its machine, and how many processes fit it."""

from pathlib import Path

import pytest

from millrace.machine import fitting_apis, fitting_workers, usable_cores, usable_memory
from ops.options import parse
from ops.sizing import sizes

MB, GB = 2**20, 2**30
MACHINE = 8192 * MB


def lay_out(root: Path, cgroup: str, files: dict[str, str]) -> None:
    """A file system in which this process is in that cgroup."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(cgroup)
    for path, text in files.items():
        file = root / "sys/fs/cgroup" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")


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
def test_the_smallest_limit_of_memory_counts(tmp_path: Path, cgroup: str, files: dict[str, str], bytes_: int) -> None:
    lay_out(tmp_path, cgroup, files)
    assert usable_memory(tmp_path, MACHINE) == bytes_


def test_a_system_without_cgroups_has_what_its_machine_has(tmp_path: Path) -> None:
    assert usable_memory(tmp_path, MACHINE) == MACHINE


@pytest.mark.parametrize(
    ("cgroup", "files", "cores"),
    [
        ("", {}, 16),
        ("0::/\n", {"cpu.max": "max 100000"}, 16),
        ("0::/\n", {"cpu.max": "400000 100000"}, 4),
        ("0::/\n", {"cpu.max": "250000 100000"}, 2),  # what is left of a third one would be waited for
        ("0::/\n", {"cpu.max": "50000 100000"}, 1),
        ("0::/\n", {"cpu.max": "3200000 100000"}, 16),
        ("0::/kube/pod/api\n", {"kube/pod/api/cpu.max": "max 100000", "kube/pod/cpu.max": "300000 100000"}, 3),
        ("0::/kube/pod/api\n", {"cpu.max": "200000 100000"}, 2),  # in a container, the path is the host's
        ("4:cpu,cpuacct:/a\n", {"cpu/a/cpu.cfs_quota_us": "600000", "cpu/a/cpu.cfs_period_us": "100000"}, 6),
        ("4:cpu,cpuacct:/a\n", {"cpu/a/cpu.cfs_quota_us": "-1", "cpu/a/cpu.cfs_period_us": "100000"}, 16),
    ],
)
def test_the_smallest_quota_of_cores_counts(tmp_path: Path, cgroup: str, files: dict[str, str], cores: int) -> None:
    lay_out(tmp_path, cgroup, files)
    assert usable_cores(tmp_path, 16) == cores


def test_the_affinity_counts(tmp_path: Path) -> None:
    assert usable_cores(tmp_path) >= 1
    assert usable_cores(tmp_path, 3) == 3


@pytest.mark.parametrize(
    ("cores", "memory", "apis", "workers"),
    [
        (1, 8 * GB, 1, 1),
        (2, 8 * GB, 1, 1),  # as it has been measured
        (3, 8 * GB, 1, 1),
        (4, 16 * GB, 2, 2),
        (16, 64 * GB, 8, 8),
        (16, 4 * GB, 2, 3),
        (64, GB // 2, 1, 1),
    ],
)
def test_a_stack_has_a_thread_of_models_for_each_core_and_an_api_process_for_two(
    cores: int, memory: int, apis: int, workers: int
) -> None:
    assert fitting_apis(cores, memory) == apis
    assert fitting_workers(cores, memory, threads=2, models_bytes=50 * MB) == workers


def test_large_models_are_not_copied_more_often_than_memory_allows() -> None:
    assert fitting_workers(16, 64 * GB, threads=2, models_bytes=5 * GB) == 2


def test_what_is_asked_for_is_had_and_said(tmp_path: Path) -> None:
    options = parse(["--apis", "3", "--workers", "5"], {})
    environ = {"MILLRACE_WORKER_THREADS": "2"}
    said = str(sizes(options, environ, tmp_path)).partition(": ")[2]
    assert said == "3 API processes, 5 workers (2 instances a model, 2 threads a run)"
    found = sizes(parse([], {"MILLRACE_SERVING_PROCESSES": "4"}), {}, tmp_path)
    assert (found.apis, found.instances, found.threads) == (4, 2, 1)
    assert sizes(parse(["--device", "cuda"], {}), {}, tmp_path).workers == 1
