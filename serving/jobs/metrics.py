"""What is counted of jobs, in Prometheus' format. It is asked of the jobs' Redis, no more than every five seconds."""

import threading
import time
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from millrace.jobs.records import JobStatistics
from millrace.jobs.store import JobStore
from millrace.protocol.errors import MillraceError

_FRESH_S = 5.0


class JobMetrics(Collector):
    """The metrics of all jobs in the store; several APIs of one store say the same. `clock` is in seconds."""

    def __init__(self, store: JobStore, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()
        self._known: JobStatistics | None = None
        self._asked_at = float("-inf")
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def describe(self) -> Iterator[Metric]:
        """See prometheus_client: so that nothing is asked before the first scrape."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client."""
        known = self._statistics()
        yield GaugeMetricFamily("millrace_jobs_up", "1 while the jobs' Redis answers, else 0", float(known is not None))
        if known is None:
            return
        counts = GaugeMetricFamily("millrace_jobs", "Jobs that are kept, by kind and state", labels=["kind", "state"])
        for (kind, state), count in known.counts.items():
            counts.add_metric([kind, state], count)
        yield counts
        rows = CounterMetricFamily("millrace_job_rows", "Rows that finished parts of jobs have done", labels=["kind"])
        for kind, done in known.rows_done.items():
            rows.add_metric([kind], done)
        yield rows
        yield GaugeMetricFamily(
            "millrace_jobs_oldest_waiting_seconds", "How long the oldest waiting job waits", known.oldest_waiting_s
        )
        yield GaugeMetricFamily(
            "millrace_jobs_bytes", "Bytes of uploads, parts and results that are kept", known.bytes_used
        )

    def render(self) -> bytes:
        """What is added to the body of `GET /metrics`."""
        return generate_latest(self._registry)

    def _statistics(self) -> JobStatistics | None:
        with self._lock:
            if self._clock() - self._asked_at >= _FRESH_S:
                try:
                    self._known = self._store.statistics()
                except MillraceError:
                    self._known = None
                self._asked_at = self._clock()
            return self._known
