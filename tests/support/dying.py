"""A worker of one instance that doubles numbers, and whose process ends on 666.

    python -m tests.support.dying REDIS CONSUMER

Takes from the queue of `working.QUEUE`, and claims what nobody renewed for 20 ms. Exits with 66.
"""

import os
import sys
from typing import Any

from millrace.broker.redis import RedisBroker
from tests.support.working import QUEUE, Scripted, model_of
from worker.running.loop import Instance


def dies(x: Any) -> Any:
    if (x == 666).any():
        os._exit(66)
    return x * 2


if __name__ == "__main__":
    broker = RedisBroker(sys.argv[1])
    consumer = broker.consumer(QUEUE, sys.argv[2])
    worker = broker.worker()
    Instance(model_of(Scripted(dies)), consumer, worker="dying", clock=worker.clock, lease_ms=20).run()
