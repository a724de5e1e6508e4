"""How often the queues are looked at for whoever scrapes."""

import asyncio
from collections.abc import Sequence

from millrace.broker.depth import QueueDepth
from millrace.broker.keys import Queue
from serving.monitoring.depths import Depths


def test_redis_is_asked_once_a_second_and_at_once_when_a_version_came() -> None:
    now_s = 0.0
    queues: list[Queue] = []
    asked: list[list[Queue]] = []

    async def ask(wanted: Sequence[Queue]) -> list[QueueDepth]:
        asked.append(list(wanted))
        return []

    depths = Depths(ask, lambda: list(queues), now_ms=lambda: 0.0, clock=lambda: now_s)

    async def looks() -> None:
        nonlocal now_s
        await depths.read()  # nobody has announced a version yet
        queues.append(Queue("m", 1))
        for _ in range(3):
            await depths.read()
        assert asked == [[Queue("m", 1)]]
        now_s = 1.0
        await depths.read()
        assert asked == [[Queue("m", 1)]] * 2

    asyncio.run(looks())
