"""The threads that serve one version together."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from millrace.broker.base import Broker
from tests.support.working import QUEUE, Scripted, ask, model_of, put, request_of, shown
from worker.running.instances import InstanceGroup
from worker.running.quarantine import Quarantine
from worker.running.seats import Seat
from worker.running.status import InstanceStatus


@contextmanager
def two_instances(broker: Broker, backend: Scripted) -> Iterator[None]:
    failed = threading.Event()
    group = InstanceGroup(
        model_of(backend),
        QUEUE,
        broker,
        worker="w",
        clock=broker.worker().clock,
        lease_ms=10_000,
        quarantine=Quarantine(),
        on_failure=failed.set,
    )
    group.start([Seat(f"w-{number}", InstanceStatus()) for number in range(2)])
    try:
        yield
    finally:
        group.drain()
        assert group.join(threading.TIMEOUT_MAX)
        assert not failed.is_set()


def test_short_runs_are_all_of_the_first(broker: Broker) -> None:
    ran_in = set()

    def noted(x: Any) -> Any:
        ran_in.add(threading.current_thread().name)
        return x

    with two_instances(broker, Scripted(noted)):
        for number in range(20):
            assert shown(ask(broker, request_of([[number]]))[0]) == [[number]]

    assert ran_in == {"m/1-0"}


def test_a_run_that_stalls_holds_up_nobody(broker: Broker) -> None:
    began, goes_on = threading.Event(), threading.Event()

    def stalls(x: Any) -> Any:
        if (x == 666).any():
            began.set()
            assert goes_on.wait(30)
        return x

    with two_instances(broker, Scripted(stalls)):
        put(broker, request_of([[666]]))
        assert began.wait(10)
        try:
            assert shown(ask(broker, request_of([[1]]))[0]) == [[1]]
        finally:
            goes_on.set()
