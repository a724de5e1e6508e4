"""The queue on Redis streams (6.2 or later, or Valkey).

Each kind of link has a module: `redis_producer.py`, `redis_consumer.py`, `redis_worker.py`, `redis_operator.py`. The
keyspace is in `keys.py`, the scripts in `lua/`, the connections in `connections.py`.
"""

import time

from pydantic import SecretStr

from millrace.broker.clock import Clock
from millrace.broker.discovery import servers
from millrace.broker.keys import Queue
from millrace.broker.redis_consumer import CONSUMERS_KEPT_MS, RedisConsumerLink
from millrace.broker.redis_operator import RedisOperatorLink
from millrace.broker.redis_producer import RedisProducerLink
from millrace.broker.redis_worker import RedisWorkerLink


class RedisBroker:
    """Makes links to the Redis, the Sentinels or the Cluster that a URL names (`discovery.py`)."""

    def __init__(self, url: str | SecretStr) -> None:
        self._servers = servers(url if isinstance(url, str) else url.get_secret_value())

    def producer(self, api: str, *, clock: Clock = time.monotonic) -> "RedisProducerLink":
        """See `Broker`."""
        return RedisProducerLink(self._servers, api, clock)

    def consumer(self, queue: Queue, consumer: str, *, forget_ms: int = CONSUMERS_KEPT_MS) -> "RedisConsumerLink":
        """See `Broker`. Consumers that hold nothing and were silent for `forget_ms` are deleted on the way."""
        return RedisConsumerLink(self._servers, queue, consumer, forget_ms)

    def worker(self, *, clock: Clock = time.monotonic) -> "RedisWorkerLink":
        """See `Broker`."""
        return RedisWorkerLink(self._servers, clock)

    def operator(self) -> "RedisOperatorLink":
        """See `Broker`."""
        return RedisOperatorLink(self._servers)
