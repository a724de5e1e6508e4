"""The worker's own metrics for Prometheus, on a port of their own: what its models take and do."""

import contextlib
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, start_http_server
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from millrace import __version__
from millrace.settings import SettingsError
from worker.reconciling.hosts import HostUsage
from worker.settings import WorkerSettings

_VERSION = ("model", "version")


@contextlib.contextmanager
def served_metrics(settings: WorkerSettings, worker: str, usage: Callable[[], HostUsage]) -> Iterator[int]:
    """Answer Prometheus meanwhile, where there is a port for it; the port, else 0. Raises `SettingsError`.

    `usage` is asked in a thread, at each look.
    """
    if not settings.metrics_port:
        yield 0
        return
    registry = CollectorRegistry()
    registry.register(WorkerMetrics(worker, usage))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    try:
        server, thread = start_http_server(settings.metrics_port, settings.metrics_host, registry)
    except OSError as error:
        address = f"{settings.metrics_host}:{settings.metrics_port}"
        raise SettingsError(f"MILLRACE_WORKER_METRICS_PORT: {address} cannot be had ({error.strerror})") from None
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class WorkerMetrics(Collector):
    """What prometheus_client is to write."""

    def __init__(self, worker: str, usage: Callable[[], HostUsage]) -> None:
        self._worker = worker
        self._usage = usage

    def describe(self) -> Iterator[Metric]:
        """See prometheus_client: so that nothing is asked before the first look."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client."""
        usage = self._usage()
        info = GaugeMetricFamily("millrace_worker_info", "1, of this worker", labels=["worker", "version"])
        info.add_metric([self._worker, __version__], 1)
        instances = GaugeMetricFamily("millrace_worker_instances", "Threads that run the version", labels=_VERSION)
        working = GaugeMetricFamily(
            "millrace_worker_instances_working", "Of these, those that prepare or run requests", labels=_VERSION
        )
        for version in usage.versions:
            labels = [version.queue.model, str(version.queue.version)]
            instances.add_metric(labels, version.instances)
            working.add_metric(labels, version.working)
        yield from (info, instances, working)
        yield GaugeMetricFamily("millrace_worker_model_processes", "Processes that run models", usage.processes)
        yield GaugeMetricFamily(
            "millrace_worker_model_memory_bytes", "Memory that these have of their own", usage.memory_bytes
        )
        yield CounterMetricFamily(
            "millrace_worker_model_process_ends", "How often one of them ended that was to go on", usage.ends
        )
