"""The memory that an API process may take, and the sum that is printed."""

from millrace.machine import usable_memory
from serving.memory import MemoryLimit, buffered_bytes, memory_limit, together
from serving.settings import ServingSettings

MB = 2**20


def test_the_budget_is_what_is_set_or_else_fits_the_machine() -> None:
    assert buffered_bytes(ServingSettings(max_buffered_bytes=5 * MB)) == 5 * MB
    assert buffered_bytes(ServingSettings()) == min(512 * MB, usable_memory() // 4)


def test_processes_have_equal_shares_of_the_budget() -> None:
    assert buffered_bytes(ServingSettings(max_buffered_bytes=80 * MB, processes=4)) == 20 * MB
    assert buffered_bytes(ServingSettings(processes=64)) == min(512 * MB, usable_memory() // 4 // 64)


def test_several_processes_take_the_sum_of_what_each_takes() -> None:
    one = MemoryLimit(base_bytes=1, buffered_bytes=2, connection_bytes=3, offload_bytes=4)
    assert together([one, one, one]) == MemoryLimit(
        base_bytes=3, buffered_bytes=6, connection_bytes=9, offload_bytes=12
    )


def test_the_sum_is_said_with_its_parts() -> None:
    limit = MemoryLimit(base_bytes=100 * MB, buffered_bytes=50 * MB, connection_bytes=30 * MB, offload_bytes=20 * MB)
    assert limit.bytes == 200 * MB
    assert str(limit) == (
        "at most 200 MiB of memory: 100 program + 50 requests and responses + 30 connections + 20 offload processes"
    )
    assert memory_limit(ServingSettings(), connections=10_000).connection_bytes == 40_960_000
