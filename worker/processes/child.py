"""A model process: it loads versions and serves them, as its worker says, and ends when the worker hangs up.

main thread   takes what the worker says, and tells it how the models are
loading       loads, one version after the other
instances     serve (`worker/running/instances.py`)
"""

import logging
import os
import queue
import selectors
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from millrace import logs, yielding
from millrace.broker.keys import Queue
from millrace.broker.redis import RedisBroker
from worker.backends.base import Device, LoadError
from worker.calls.models import QueueModels
from worker.loading import model as models
from worker.loading.budget import MEMORY_BYTES
from worker.processes.forkserver import BULK_OOM_SCORE, OOM_SCORE, end_with_parent, prefer_for_oom
from worker.processes.limits import limit_memory
from worker.processes.memory import ProcessMemory, SharedClock
from worker.processes.messages import Channel, Fault, Load, Loaded, LoadFailed, Serve, Setup, Stop, Stopped, ToProcess
from worker.running.instances import InstanceGroup
from worker.running.quarantine import Quarantine
from worker.running.seats import Seat

_log = logging.getLogger(__name__)
_LOOK_S = 0.25
_MEMORY_PART = 4
_FAILED = 70  # exit status: a fault of ours


@dataclass(slots=True)
class _Version:
    group: InstanceGroup
    fault: str = ""
    unloads: bool = False
    calls: QueueModels | None = None


class ModelProcess:
    """Serves the worker at the other end of the channel. Its logs go to `log`, or else to standard error."""

    def __init__(self, channel: Channel, memory: ProcessMemory, log: TextIO | None = None) -> None:
        self._channel = channel
        self._log = log
        self._memory = memory
        self._clock = SharedClock(memory)
        self._quarantine = Quarantine()
        self._versions: dict[int, _Version] = {}
        self._loads: queue.SimpleQueue[Load] = queue.SimpleQueue()

    def run(self) -> None:
        """Do what the worker says until it hangs up."""
        selector = selectors.DefaultSelector()
        selector.register(self._channel, selectors.EVENT_READ)
        while True:
            if selector.select(_LOOK_S):
                try:
                    messages = self._channel.receive()
                except EOFError:
                    return
                for message in messages:
                    self._take(message)
            self._tell_faults()

    def _take(self, message: ToProcess) -> None:
        match message:
            case Setup():
                self._set_up(message)
            case Load():
                self._loads.put(message)
            case Serve():
                seats = [Seat(consumer, self._memory.status(slot)) for consumer, slot in message.seats]
                self._versions[message.number].group.start(seats)
            case Stop():
                self._stop(message)

    def _set_up(self, setup: Setup) -> None:
        logs.configure("model", setup.log_level, self._log)
        if setup.gives_way:
            yielding.give_way()  # and so does every thread: this one starts them all
            prefer_for_oom(BULK_OOM_SCORE)
        if setup.memory_mb:
            limit_memory(setup.memory_mb)
        broker = RedisBroker(setup.redis_url)
        threading.Thread(target=self._load_all, args=(setup, broker), name="loading", daemon=True).start()

    def _load_all(self, setup: Setup, broker: RedisBroker) -> None:
        while True:
            message = self._loads.get()
            self._memory.begin_loading(message.number, time.monotonic())
            try:
                answer: Loaded | LoadFailed = self._load(setup, broker, message)
            except BaseException as error:  # a broken version must not take the others with it
                is_ours = not isinstance(error, LoadError)
                about = {"model": message.name, "version": message.version}
                if is_ours:
                    _log.error("a model failed to load in a way of its own", extra=about, exc_info=True)
                reason = str(error) or type(error).__name__
                can_retry = bool(getattr(error, "can_retry", False))
                answer = LoadFailed(number=message.number, reason=reason, can_retry=can_retry)
            self._memory.end_loading()
            self._tell(answer)

    def _load(self, setup: Setup, broker: RedisBroker, message: Load) -> Loaded:
        served = Queue(message.name, message.version)
        calls = QueueModels(broker, setup.worker, served) if setup.allow_code else None
        model = models.load(
            Path(message.folder),
            message.name,
            message.version,
            device=Device.named(setup.device, setup.threads, setup.gpu_memory_mb, tf32=setup.gpu_tf32),
            backend=setup.backend,
            max_batch_size=setup.max_batch_size,
            config=message.config,
            models=calls,
            not_run=message.not_run,
            memory_bytes=_first_runs_bytes(setup),
            before_runs=self._begin_first_runs,
        )
        number = message.number
        group = InstanceGroup(
            model,
            served,
            broker,
            worker=setup.worker,
            clock=self._clock,
            lease_ms=setup.lease_ms,
            quarantine=self._quarantine,
            on_failure=lambda: os._exit(_FAILED),
            on_end=lambda: self._end(number),
        )
        self._versions[number] = _Version(group, model.fault, calls=calls)
        instances = model.instances or setup.instances
        return Loaded(number=number, announcement=model.announcement, instances=instances)

    def _begin_first_runs(self) -> None:
        self._memory.first_runs_since_s = time.monotonic()

    def _stop(self, message: Stop) -> None:
        version = self._versions[message.number]
        version.unloads = message.unloads
        if version.group.is_alive:
            version.group.drain()
        else:
            self._end(message.number)

    def _end(self, number: int) -> None:
        """The instances of a version have ended."""
        version = self._versions[number]
        if version.unloads:
            del self._versions[number]
            version.group.model.close()
            if version.calls:
                version.calls.close()
        self._tell(Stopped(number=number))

    def _tell_faults(self) -> None:
        for number, version in list(self._versions.items()):
            fault = version.group.model.fault
            if fault != version.fault:
                version.fault = fault
                self._tell(Fault(number=number, fault=fault))

    def _tell(self, message: Loaded | LoadFailed | Stopped | Fault) -> None:
        try:
            self._channel.send(message)
        except OSError:  # the worker is gone: nothing that this process does matters any more
            os._exit(0)


def _first_runs_bytes(setup: Setup) -> int:
    """The memory that the first runs may take: a part of what the process may have."""
    return min(MEMORY_BYTES, setup.memory_mb * 1_000_000 // _MEMORY_PART) if setup.memory_mb else MEMORY_BYTES


def run(channel_fd: int, memory_fd: int, log_fd: int | None = None) -> int:
    """Serve the worker at the other end of the first file descriptor; its exit status."""
    prefer_for_oom(OOM_SCORE)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    log = None if log_fd is None else os.fdopen(log_fd, "w", buffering=1, encoding="utf-8")
    ModelProcess(Channel(socket.socket(fileno=channel_fd), ToProcess), ProcessMemory(memory_fd), log).run()
    return 0


if __name__ == "__main__":
    _parent, *_fds = map(int, sys.argv[1:])
    end_with_parent(_parent)
    os._exit(run(*_fds))
