"""Small parts of the transport: thinned log lines, the pacer, shares of descriptors, spooled bodies, the table."""

import asyncio
import os
from collections.abc import Callable

import pytest

from serving.transport.connection_table import ConnectionTable
from serving.transport.descriptors import http_connections
from serving.transport.pacer import Pacer
from serving.transport.spooled_body import SpooledBody
from serving.transport.thinning import Thinning


def test_of_many_events_a_few_a_second_are_let_through_and_the_others_counted() -> None:
    now = 100.0
    thinning = Thinning(3, lambda: now)
    assert [thinning.count() for _ in range(5)] == [0, 0, 0, None, None]
    now = 100.9
    assert thinning.count() is None
    now = 101.0
    assert [thinning.count() for _ in range(4)] == [3, 0, 0, None]


def test_paced_work_leaves_room_for_others_and_loses_nothing() -> None:
    async def run() -> tuple[list[int], int]:
        pacer, done, turns = Pacer(asyncio.get_running_loop()), list[int](), 0

        def piece(number: int) -> Callable[[], None]:
            def work() -> None:
                done.append(number)
                sum(range(20_000))  # a few hundred microseconds
                if number < 100:
                    pacer.add(piece(number + 100))

            return work

        for number in range(100):
            pacer.add(piece(number))
        while len(done) < 200:
            turns += 1
            await asyncio.sleep(0)
        return done, turns

    done, turns = asyncio.run(run())
    assert sorted(done) == list(range(200))
    assert turns > 10


@pytest.mark.parametrize(
    ("descriptors", "has_grpc", "connections"),
    [(20_000, True, 10_000), (1500, True, 869), (1500, False, 1244), (400, True, 200), (3, True, 3)],
)
def test_http_leaves_descriptors_to_the_others(descriptors: int, has_grpc: bool, connections: int) -> None:
    limit = http_connections(10_000, has_grpc=has_grpc, descriptors=descriptors)
    assert limit == connections
    if descriptors > 100:
        assert limit + (descriptors // 4 if has_grpc else 0) < descriptors


def test_a_spooled_body_is_written_in_pieces_and_read_from_anywhere() -> None:
    body = SpooledBody()
    for part in (b"one ", bytearray(b"two "), b"", b"three"):
        body.write(part)
    assert body.size == 13
    assert body.read() == b"one two three"
    assert body.read() == b"one two three"
    assert body.read(3, 4) == b"two"
    assert body.read(100, 8) == b"three"
    assert os.pread(body.fd, 3, 0) == b"one"
    fd = body.fd
    body.close()
    body.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_a_spooled_body_that_is_forgotten_gives_back_its_descriptor() -> None:
    body = SpooledBody()
    fd = body.fd
    del body
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


class Open:
    """A connection of the table."""

    def __init__(self, since: float | None = None, pace: float | None = None, held: int = 0) -> None:
        self.ends = float("inf")
        self.since, self.speed, self.held = since, pace, held
        self.is_closed = False

    @property
    def waits_since(self) -> float | None:
        return self.since

    def pace(self, now: float) -> float | None:
        return self.speed

    def give_up(self) -> int:
        self.is_closed = True
        return self.held

    def linger(self) -> None:
        """Not asked for."""

    def count_unsent(self) -> None:
        """Nothing was written."""

    def expire(self) -> None:
        """Not asked for."""

    def look_for_caller(self) -> None:
        """Not asked for."""

    def abort(self) -> None:
        self.is_closed = True


def with_table(test: Callable[[ConnectionTable], None], limit: int = 3) -> None:
    async def run() -> None:
        test(ConnectionTable(limit, 75, asyncio.get_running_loop()))

    asyncio.run(run())


def test_the_connection_that_waited_longest_makes_room() -> None:
    def test(table: ConnectionTable) -> None:
        busy, old, new = Open(), Open(since=1), Open(since=2)
        assert all(table.add(connection) for connection in (busy, new, old))
        assert table.add(Open(since=3))
        assert [c.is_closed for c in (busy, old, new)] == [False, True, False]
        assert (len(table), table.evicted) == (3, 1)

    with_table(test)


def test_a_table_of_busy_connections_is_full() -> None:
    def test(table: ConnectionTable) -> None:
        assert all(table.add(Open()) for _ in range(3))
        assert not table.add(Open(since=1))
        assert table.evicted == 0

    with_table(test)


def test_the_slowest_callers_give_back_their_memory_and_no_more_than_is_missing() -> None:
    def test(table: ConnectionTable) -> None:
        slow, slower, quick, waiting = Open(pace=5, held=10), Open(pace=0, held=10), Open(pace=1e6, held=10), Open()
        for connection in (slow, slower, quick, waiting):
            table.add(connection)
        assert table.reclaim(11)
        assert [c.is_closed for c in (slow, slower, quick, waiting)] == [True, True, False, False]
        assert not table.reclaim(1)  # it was looked for a moment ago
        assert not quick.is_closed

    with_table(test, limit=10)
