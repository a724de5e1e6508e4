"""Who a producer knows when it has started: the first request after a restart must not be told that nobody serves."""

import asyncio
import contextlib
import socket
import time
from pathlib import Path

import pytest

from millrace.broker.base import Limits, WorkerLink
from millrace.broker.redis import RedisBroker
from millrace.protocol.messages import WorkerAnnouncement
from serving.queueing.producer import Producer
from tests.support.running import RedisServer


def _announce(worker: WorkerLink, name: str) -> None:
    worker.announce(WorkerAnnouncement(worker=name, expires_ms=2**50, models=()))


def _names(producer: Producer) -> list[str]:
    return sorted(worker.worker for worker in producer.workers)


async def _started(url: str) -> list[str]:
    """The workers that a producer knows when its start returns."""
    producer = Producer(RedisBroker(url).producer("api"), limits=Limits(10, 100))
    await producer.start()
    known = _names(producer)
    await producer.stop()
    return known


def test_it_knows_the_live_workers(redis_server: RedisServer) -> None:
    _announce(RedisBroker(redis_server.url).worker(), "w")
    assert asyncio.run(_started(redis_server.url)) == ["w"]


@pytest.mark.parametrize("listens", [False, True], ids=["refused", "silent"])
def test_it_starts_without_a_queue(listens: bool, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "redis.sock"))
        if listens:
            silent.listen()
        began = time.monotonic()
        assert asyncio.run(_started(f"unix://{tmp_path}/redis.sock")) == []
        assert time.monotonic() - began < 20


def test_news_are_told_to_others_once(redis_server: RedisServer) -> None:
    worker = RedisBroker(redis_server.url).worker()
    told: list[list[str]] = []

    async def run() -> None:
        async def tell() -> None:
            told.append(_names(producer))

        async def until_told(times: int) -> None:
            async with asyncio.timeout(30):
                while len(told) < times:
                    await asyncio.sleep(0)

        producer = Producer(RedisBroker(redis_server.url).producer("a"), limits=Limits(1, 1), heartbeat_s=0, tell=tell)
        await producer.start()
        await until_told(1)
        _announce(worker, "w")
        await until_told(2)
        for _ in range(20):  # heartbeats without news
            await producer.refresh()
        _announce(worker, "v")
        await until_told(3)
        await producer.stop()

    with contextlib.closing(worker):
        _announce(worker, "u")
        asyncio.run(run())
    assert told == [["u"], ["u", "w"], ["u", "v", "w"]]


def test_what_others_read_after_they_were_told_is_told_too(redis_server: RedisServer) -> None:
    """They read something newer than this process had, and would be alone with it until the next heartbeat."""
    worker = RedisBroker(redis_server.url).worker()
    told: list[list[str]] = []

    async def run() -> None:
        async def tell() -> None:
            told.append(_names(producer))
            if len(told) == 1:
                _announce(worker, "w")  # while the others read

        link = RedisBroker(redis_server.url).producer("a")
        producer = Producer(link, limits=Limits(1, 1), heartbeat_s=3600, tell=tell)
        await producer.start()
        async with asyncio.timeout(30):
            while len(told) < 2:
                await asyncio.sleep(0)
        await producer.stop()

    with contextlib.closing(worker):
        _announce(worker, "u")
        asyncio.run(run())
    assert told == [["u"], ["u", "w"]]
