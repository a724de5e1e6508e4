"""Workers for tests: with their models in this process, or in processes of their own as in operation."""

from functools import partial
from typing import Any

from millrace.broker.base import Broker
from worker.process import Worker
from worker.reconciling.local_host import LocalHost
from worker.settings import WorkerSettings


def local_worker(settings: WorkerSettings, broker: Broker, **options: Any) -> Worker:
    """A worker whose models run in threads of this process, over any broker."""
    return Worker(settings, broker, partial(LocalHost, settings, broker), **options)
