"""What the producer costs a request, at 1, 32 and 128 requests at a time, on a queue in memory that answers at once.

    .venv/bin/python -m benchmarks.micro.group_commit

The time that the queue and its answers take is taken off: what is left is group commit, codec, futures and timers.
"""

import asyncio
import time
from collections.abc import Sequence
from functools import partial

import numpy as np
import uvloop

from benchmarks.micro.timing import compare
from millrace.broker.base import Append, Held, Limits, Reply
from millrace.broker.keys import Queue
from millrace.broker.memory import MemoryBroker, MemoryProducerLink
from millrace.protocol import codec
from millrace.protocol.messages import ReplyBlock, ReplyItem
from millrace.protocol.tensors import Tensor
from serving.queueing.producer import Producer
from serving.queueing.requests import InferenceRequest

CONCURRENCY = (1, 32, 128)
REQUESTS = 2560
QUEUE = Queue("digits", 1)
REQUEST = InferenceRequest(
    model=QUEUE.model,
    version=QUEUE.version,
    signature="serving_default",
    inputs={"image": Tensor.from_numpy(np.zeros((1, 28, 28, 1), np.float32))},
    rows=1,
    max_batch_size=64,
    timeout_s=30.0,
    trace="trace",
)


class AnsweringLink(MemoryProducerLink):
    """Answers every block as soon as it is appended; `answering_s` is the time which that took."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__(broker, "api")
        self._consumer = broker.consumer(QUEUE, "consumer")
        self.answering_s = 0.0

    async def append(self, appends: Sequence[Append], limits: Limits) -> list[Held]:
        """Append, answer."""
        started = time.perf_counter()
        held = await super().append(appends, limits)
        for delivery in self._consumer.exchange([], [], count=1000, block_ms=0):
            block = codec.decode_request(delivery.block)
            reply = ReplyBlock(
                worker="worker",
                compute_ms=0.0,
                batch_rows=delivery.rows,
                items=tuple(ReplyItem(item.id, item.rows, 0.0, 0.0) for item in block.items),
                tensors={"probabilities": Tensor.from_numpy(np.zeros((delivery.rows, 10), np.float32))},
            )
            self._consumer.exchange([Reply(block.reply_to, codec.encode_reply(reply))], [delivery], count=0, block_ms=0)
        self.answering_s += time.perf_counter() - started
        return held


async def measure(concurrency: int) -> float:
    """Microseconds a request, with that many callers that each wait for an answer before they ask again."""
    link = AnsweringLink(MemoryBroker())
    producer = Producer(link, limits=Limits(10**6, 10**9))
    await producer.start()
    while not producer.is_connected:
        await asyncio.sleep(0)

    async def caller() -> None:
        for _ in range(REQUESTS // concurrency):
            await producer.submit(REQUEST)

    started = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(concurrency)))
    taken = time.perf_counter() - started - link.answering_s
    await producer.stop()
    return taken / REQUESTS * 1e6


def _run(runner: asyncio.Runner, concurrency: int) -> float:
    return runner.run(measure(concurrency))


def main() -> None:
    """All numbers of callers."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        compare(
            "a request through the producer",
            {f"{number} at a time": partial(_run, runner, number) for number in CONCURRENCY},
        )


if __name__ == "__main__":
    main()
