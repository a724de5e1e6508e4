"""Full batches straight to the workers: what they can do, whoever asks. Nothing is read, converted or kept here."""

import asyncio
import time
from typing import Any

from millrace.broker.base import Append, Limits
from millrace.broker.keys import Queue
from millrace.broker.redis import RedisBroker
from millrace.protocol import codec
from millrace.protocol.messages import RequestBlock, RequestItem
from millrace.protocol.tensors import DEFAULT_SIGNATURE, Tensor

_WINDOW, _AT_ONCE = 32, 4  # blocks on their way, and in one append
_LIMITS = Limits(rows=10**6, bytes=10**9)


async def full_batches(redis_url: str, batch: Any, seconds: float, model: str = "cnn") -> float:
    """Rows per second when a block of the batch waits at all times. They go as callers' blocks do.

    The same encoded block is sent again and again, and replies are counted without a look into them.
    """
    link, queue = RedisBroker(redis_url).producer("feeder"), Queue(model, 1)
    await link.heartbeat()
    now_ms = link.clock.now_ms()
    block = codec.encode_request(
        RequestBlock(
            reply_to=link.reply_to,
            model=model,
            version=1,
            signature=DEFAULT_SIGNATURE,
            sent_ms=now_ms,
            items=(RequestItem(1, "feeder", len(batch), int(now_ms + 3_600_000)),),
            tensors={"image": Tensor.from_numpy(batch)},
        )
    )
    append = Append(queue, "normal", ((len(batch), block),) * _AT_ONCE)
    sent = answered = 0
    began = time.perf_counter()
    while time.perf_counter() - began < seconds or answered < sent:
        while sent - answered <= _WINDOW - _AT_ONCE and time.perf_counter() - began < seconds:
            await link.append([append], _LIMITS)
            sent += _AT_ONCE
        answered += len(await asyncio.wait_for(link.replies(), 30))
    took_s = time.perf_counter() - began
    await link.close()
    return answered * len(batch) / took_s
