"""A body that goes on to its receiver as it arrives: how much waits, and what happens when either side is slow."""

import asyncio
import threading

import pytest

from millrace.protocol.errors import MillraceError, PayloadTooLarge, StorageFull
from serving.transport.budget import Budget
from serving.transport.request_head import read_head
from serving.transport.streamed_body import WINDOW_BYTES, StreamedBody

MB = 2**20


class Slow:
    """A receiver that takes one piece whenever it is let."""

    def __init__(self) -> None:
        self.taken = 0
        self.let = threading.Semaphore(0)
        self.closed = threading.Event()
        self.error: MillraceError | None = None

    def write(self, data: bytes) -> None:
        self.let.acquire()
        if self.error:
            raise self.error
        self.taken += len(data)

    def close(self) -> None:
        self.closed.set()


class Arrival:
    """One body of 4 MB on its way to a slow receiver."""

    def __init__(self, length: str) -> None:
        self.budget = Budget(64 * MB)
        self.receiver = Slow()
        self.moved = asyncio.Event()
        head = read_head(f"POST /v1/jobs HTTP/1.1\r\nhost: x\r\n{length}\r\n\r\n".encode())
        reservation = self.budget.reserve(WINDOW_BYTES)
        assert reservation
        self.body = StreamedBody(head, reservation, 5 * MB, self.receiver, self.moved.set)

    async def has_moved(self) -> None:
        await asyncio.wait_for(self.moved.wait(), 10)
        self.moved.clear()


def test_no_more_is_read_than_a_window_while_the_receiver_is_slow() -> None:
    async def run() -> None:
        arrival = Arrival(f"content-length: {4 * MB}")
        body, fed = arrival.body, 0
        while not body.is_behind:
            body.feed(bytes(65_536))
            fed += 65_536
        assert fed <= WINDOW_BYTES
        assert arrival.budget.used == WINDOW_BYTES
        arrival.receiver.let.release(fed // 65_536)
        await arrival.has_moved()
        assert not body.is_behind
        arrival.receiver.let.release(1000)
        while fed < 4 * MB:
            body.feed(bytes(65_536))
            fed += 65_536
        assert body.has_all
        while not body.is_complete:
            await arrival.has_moved()
        assert arrival.receiver.taken == 4 * MB
        receiver, rest = body.take()
        assert (receiver, rest) == (arrival.receiver, b"")
        body.close()
        assert not arrival.receiver.closed.is_set()  # whoever took it closes it
        assert arrival.budget.used == 0

    asyncio.run(run())


@pytest.mark.parametrize("ends", ["before", "while", "after"])
def test_a_body_that_nobody_wants_any_more_closes_its_receiver(ends: str) -> None:
    async def run() -> None:
        arrival = Arrival("content-length: 10")
        if ends != "before":
            arrival.body.feed(bytes(10))
        if ends == "after":
            arrival.receiver.let.release()
            await arrival.has_moved()
        arrival.body.close()
        arrival.receiver.let.release()
        assert await asyncio.to_thread(arrival.receiver.closed.wait, 10)
        assert arrival.budget.used == 0

    asyncio.run(run())


def test_what_the_receiver_refuses_is_told_with_the_next_bytes() -> None:
    async def run() -> None:
        arrival = Arrival("content-length: 100")
        arrival.receiver.error = StorageFull("no room")
        arrival.receiver.let.release()
        arrival.body.feed(bytes(10))
        await arrival.has_moved()
        with pytest.raises(StorageFull, match="no room"):
            arrival.body.go_on()
        assert arrival.receiver.closed.is_set()

    asyncio.run(run())


def test_chunks_are_decoded_and_their_sum_is_bounded() -> None:
    async def run() -> None:
        arrival = Arrival("transfer-encoding: chunked")
        arrival.receiver.let.release(100)
        arrival.body.feed(b"5\r\nhello\r\n1\r\n!\r\n0\r\n\r\nGET")
        await arrival.has_moved()
        assert arrival.body.is_complete
        assert arrival.receiver.taken == 6
        assert arrival.body.take()[1] == b"GET"
        with pytest.raises(PayloadTooLarge):
            Arrival("transfer-encoding: chunked").body.feed(b"600000\r\n")

    asyncio.run(run())
