"""Models in processes of their own, from the worker's side: where each version goes, and what its end leads to.

    load ──► the emptiest process ──► loaded ──► serve: instances, or parked where there are very many versions
    a process ends ──► verdict: who is to blame is answered, all it held may be claimed at once ──► started again

One thread takes what the processes say; any other may call the methods, which wait for no process.
"""

import contextlib
import dataclasses
import itertools
import logging
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial

import msgspec

from millrace.artifacts.configs import TritonConfig
from millrace.broker.base import Broker, Reply, WorkerLink
from millrace.broker.keys import ONLY_BULK, PRIORITIES, URGENT, Queue, consumer_name
from millrace.protocol import codec
from millrace.protocol.errors import ModelFailed, Unavailable
from millrace.protocol.messages import ReplyBlock, ReplyItem
from worker import backends
from worker.backends.base import LoadError
from worker.processes import standard_error
from worker.processes.aftermath import Aftermath
from worker.processes.memory import ProcessMemory
from worker.processes.messages import Fault, Load, Loaded, LoadFailed, Serve, Setup, Stop, Stopped, ToWorker
from worker.processes.process import ModelProcess
from worker.processes.starter import ProcessStarter
from worker.processes.verdict import Cause, Verdict, in_words, judge
from worker.processes.version import RemoteVersion
from worker.reconciling.catalogue import DesiredModel
from worker.reconciling.hosts import HostContext, HostUsage, ServedVersion, usage_of
from worker.running.seats import Seat, are_renewed, held_by
from worker.running.status import LoneItem
from worker.settings import WorkerSettings

_log = logging.getLogger(__name__)
MODULES = ("worker.backends.onnx.backend", "PIL.Image")  # what most model processes need, beside what all do
_SERVER_PAUSE_S = 1.0
_RELOAD_S = 5.0
_MB = 1_000_000
_CROWD, _CROWD_LOADS = 4, 32
_FLUSH_S = 0.01
_LISTEN_MS, _LISTEN_SHORTLY_MS = 500, 50
_BULK_IDLE_S, _NO_BULK_S = 60.0, 60.0


@dataclasses.dataclass(frozen=True, slots=True)
class Parking:
    """Versions that are idle for `idle_s` give back threads and connections, where there are more than `beyond`."""

    beyond: int = 32
    idle_s: float = 10.0


class ModelProcesses:
    """A `ModelHost` whose versions run in other processes. `modules` are imported once for all of these.

    `environ` is the environment that they get. `starter` is a fork server that runs already.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        broker: Broker,
        context: HostContext,
        *,
        environ: Mapping[str, str],
        modules: Sequence[str] = MODULES,
        starter: ProcessStarter | None = None,
        parking: Parking = Parking(),
        bulk_idle_s: float = _BULK_IDLE_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.loads_at_once = os.cpu_count() or 1
        self._settings = settings
        self._context = context
        self._environ = environ
        self._modules = modules
        self._parking = parking
        self._bulk_idle_s = bulk_idle_s
        self._monotonic = monotonic
        self._setup = Setup(
            redis_url=settings.redis_url.get_secret_value(),
            worker=context.worker,
            device=settings.device,
            gpu_memory_mb=settings.gpu_memory_mb,
            gpu_tf32=settings.gpu_tf32,
            threads=settings.threads,
            backend=settings.backend,
            max_batch_size=settings.max_batch_size,
            instances=settings.instances,
            lease_ms=settings.lease_ms,
            memory_mb=settings.model_memory_mb,
            log_level=settings.log_level,
            allow_code=settings.allow_code,
        )
        self._has_bulk_processes = (
            settings.bulk_process if settings.bulk_process is not None else settings.device == "cpu"
        )
        self._most = self._most_ever = settings.model_processes or (8 if settings.device == "cpu" else 1)
        self._numbers = itertools.count(1)  # no name comes twice
        self._changed = threading.Condition(threading.RLock())
        self._processes: list[ModelProcess] = []
        self._starter = starter
        self._starter_at = 0.0
        self._wake, self._woken = socket.socketpair()
        self._wake.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._ends = 0
        self._is_draining = False
        self._closing = threading.Event()
        link = broker.worker()
        link.clock = context.clock
        self._aftermath = Aftermath(link)
        self._watcher = broker.worker()
        self._can_park = self._watcher.can_watch
        self._has_parked = threading.Event()
        self._thread = threading.Thread(target=self._run, name="model processes", daemon=True)
        self._listener = threading.Thread(target=self._listen, name="parked versions", daemon=True)

    # What the worker asks for

    def start(self) -> None:
        """See `ModelHost`."""
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._start_server()
        self._aftermath.start()
        self._thread.start()
        self._listener.start()

    def expect(self, versions: int) -> None:
        """See `ModelHost`. A crowd is given fewer processes: each costs memory, and none would be for one version."""
        with self._changed:
            is_crowd = versions > self._parking.beyond and not self._settings.model_processes
            self._most = max(1, self._most_ever // _CROWD) if is_crowd else self._most_ever
            self.loads_at_once = _CROWD_LOADS if is_crowd else os.cpu_count() or 1  # a process loads one at a time

    def load(self, model: DesiredModel, version: int) -> "Future[ServedVersion]":
        """See `ModelHost`."""
        folder = model.version_folder(version)
        load = Load(
            number=next(self._numbers), folder=str(folder), name=model.name, version=version, config=model.config
        )
        config = model.config or TritonConfig()
        runs_code = backends.needs_own_process(folder, config.format or self._settings.backend, config.model_file)
        if runs_code and not self._settings.allow_code:
            refused: Future[ServedVersion] = Future()
            refused.set_exception(backends.code_refused(folder))
            return refused
        with self._changed:
            process = self._place(f"{model.name}/{version}" if runs_code else "")
            takes = URGENT if self._has_bulk_processes else PRIORITIES
            return self._load(load, process, takes).future

    def _load(self, load: Load, process: ModelProcess, takes: Sequence[str]) -> RemoteVersion:
        loading: RemoteVersion
        loading = RemoteVersion(load, process, lambda: self._serve(loading), lambda: self._drain(loading))
        loading.takes = takes
        process.versions[load.number] = loading
        if self._is_draining:
            self._fail(loading, LoadError("the worker is stopping"))
        elif process.token is None:
            self._begin(process)
        else:
            process.send(load)
        return loading

    def consumers(self) -> list[tuple[Queue, str]]:
        """See `ModelHost`."""
        now_s, now_ms, lease_ms = self._monotonic(), self._context.clock.now_ms(), self._settings.lease_ms
        with self._changed:
            return [
                consumer
                for process in self._processes
                if process.token and are_renewed(process.seats, now_s=now_s, now_ms=now_ms, lease_ms=lease_ms)
                for version in process.versions.values()
                for consumer in held_by(version.queue, version.seats.values())
            ]

    def check(self) -> None:
        """See `ModelHost`. Ends processes that are stuck or too large, and parks versions that are idle."""
        now_s, now_ms = self._monotonic(), self._context.clock.now_ms()
        with self._changed:
            for process in self._processes:
                if process.memory:
                    process.memory.clock_offset_ms = now_ms - now_s * 1000
                    self._check(process, now_ms)
            self._park_the_idle(now_s)
            self._look_after_bulk(now_s)

    def drain(self) -> None:
        """See `ModelHost`."""
        with self._changed:
            self._is_draining = True
            for version in self._versions():
                if not version.future.done():
                    self._fail(version, LoadError("the worker is stopping"))
                self._drain(version)

    def join(self, ends: float) -> list[Queue]:
        """See `ModelHost`."""
        with self._changed:
            self._changed.wait_for(lambda: not self._versions(), max(0.0, ends - time.monotonic()))
            return [version.queue for version in self._versions()]

    def close(self) -> None:
        """See `ModelHost`. What a model that hangs still held may be claimed by others at once."""
        with self._changed:
            self._is_draining = True
            self._closing.set()
            for process in list(self._processes):
                process.cause = "stopped"
                self._bury(process, 0)
            self._processes = []
            if self._starter:
                self._selector.unregister(self._starter)
                self._starter.close()
                self._starter = None
        self._rouse()
        self._has_parked.set()
        if self._thread.is_alive():
            self._thread.join()
        self._aftermath.close(1.0)
        self._selector.close()
        self._wake.close()
        self._woken.close()

    # One version

    def _place(self, code: str, *, is_for_bulk: bool = False) -> ModelProcess:
        """A process of its own while there may be more, and for `code` always; else the emptiest of its kind."""
        shared = [process for process in self._processes if not process.code and process.is_for_bulk == is_for_bulk]
        if not code and len(shared) >= self._most:
            return min(shared, key=lambda process: len(process.versions))
        process = ModelProcess(code=code, is_for_bulk=is_for_bulk, monotonic=self._monotonic)
        self._processes.append(process)
        return process

    def _serve(self, version: RemoteVersion) -> None:
        with self._changed:
            version.is_wanted = True
            if version.is_loaded:
                self._open(version)

    def _open(self, version: RemoteVersion) -> None:
        """Give it instances, or park it for a start."""
        if self._can_park and len(self._versions()) > self._parking.beyond and not version.is_for_bulk:
            self._has_parked.set()
        else:
            self._seat(version)

    def _seat(self, version: RemoteVersion) -> None:
        names = [f"{self._context.worker}-{next(self._numbers)}" for _ in range(version.instances)]
        version.seats = dict(version.process.take_seat(name, version.takes) for name in names)
        version.is_parking = False
        seats = tuple((seat.consumer, slot) for slot, seat in version.seats.items())
        version.process.send(Serve(number=version.load.number, seats=seats))

    def _drain(self, version: RemoteVersion) -> None:
        with self._changed:
            if version.is_leaving or version.is_gone:
                return
            version.is_wanted, version.is_leaving = False, True
            if version.bulk:
                self._drain(version.bulk)
            if version.is_loaded:
                version.process.send(Stop(number=version.load.number, unloads=True))
            else:
                self._forget(version)

    def _forget(self, version: RemoteVersion) -> None:
        """It is gone; so is its process, where it was the last one there."""
        version.is_gone, version.is_loaded = True, False
        process = version.process
        process.leave_seats(version)
        process.versions.pop(version.load.number, None)
        for other in self._versions():
            if other.bulk is version:
                other.bulk = None
        if not process.versions and process in self._processes:
            self._processes.remove(process)
            process.cause = "stopped"
            self._hang_up(process)
        self._changed.notify_all()

    def _fail(self, version: RemoteVersion, error: LoadError) -> None:
        version.future.set_exception(error)
        self._forget(version)

    def _versions(self) -> list[RemoteVersion]:
        return [version for process in self._processes for version in process.versions.values()]

    # Processes

    def _begin(self, process: ModelProcess) -> None:
        """Start it, and have it load its versions. Without a fork server, that is done as soon as there is one."""
        if self._starter is None:
            process.restart_at = self._starter_at
            return
        try:
            process.begin(self._starter, next(self._numbers), self._setup)
        except OSError as error:
            _log.warning("a model's process could not be started", extra={"reason": str(error)})
            process.restart_at = self._monotonic() + _SERVER_PAUSE_S
            return
        if process.memory and process.channel:
            process.memory.clock_offset_ms = self._context.clock.now_ms() - self._monotonic() * 1000
            self._selector.register(process.channel, selectors.EVENT_READ, partial(self._take, process))
            if process.printed:
                self._selector.register(process.printed, selectors.EVENT_READ, partial(self._take_output, process))
            self._rouse()
        for version in process.versions.values():
            version.reload_at = None
            process.send(version.load)

    def _check(self, process: ModelProcess, now_ms: float) -> None:
        if process.cause != "itself" or process.token is None:
            return
        most = self._settings.model_memory_mb
        if most and process.own_bytes() > most * _MB:
            self._kill(process, "memory")
            return
        if process.is_starved():
            return
        first_runs_s = process.memory.first_runs_since_s if process.memory else 0.0
        if first_runs_s and self._monotonic() - first_runs_s > self._settings.warmup_timeout_s:
            self._kill(process, "slow")
            return
        if any(seat.status.overdue_ms(now_ms) > self._settings.lease_ms for seat in process.seats):
            self._kill(process, "stuck")
        elif process.code and process.memory and self._loads_too_long(process.memory):
            self._kill(process, "loading")

    def _loads_too_long(self, memory: ProcessMemory) -> bool:
        return memory.loading_s(self._monotonic()) > self._settings.load_timeout_s

    def _kill(self, process: ModelProcess, cause: Cause) -> None:
        process.cause = cause
        if self._starter and process.token:
            with contextlib.suppress(OSError):
                self._starter.kill(process.token)

    def _stop_reading(self, process: ModelProcess) -> None:
        if process.printed:
            self._selector.unregister(process.printed)
            process.printed.close()
            process.printed = None

    def _hang_up(self, process: ModelProcess) -> None:
        self._stop_reading(process)
        if process.channel:
            self._selector.unregister(process.channel)
            process.channel.close()
            process.channel = None
        if self._starter and process.token:
            with contextlib.suppress(OSError):
                self._starter.kill(process.token)

    def _bury(self, process: ModelProcess, status: int) -> None:
        """A process has ended: answer for it, let others claim what it held, and see to its versions."""
        self._stop_reading(process)
        words = in_words(process.cause, status, self._settings.model_memory_mb, self._settings.load_timeout_s)
        now_ms = self._context.clock.now_ms()
        verdict = judge(process.seats, process.cause, status, now_ms=now_ms, lease_ms=self._settings.lease_ms)
        loading = process.memory.loading if process.memory else 0
        was_running = bool(process.memory and process.memory.first_runs_since_s)
        self._report_end(process, verdict, words)
        for version in list(process.versions.values()):
            self._settle(version, verdict, words)
            process.leave_seats(version)
            version.is_loaded = False
        self._hang_up(process)
        pause_s = process.has_ended(words, is_explained=verdict.culprit is not None)
        for version in list(process.versions.values()):
            is_to_blame = version.load.number == loading
            if is_to_blame and was_running:  # the model loads: it is served, and its first run is a caller's
                why = f"its process ended in its first runs ({words})"
                version.load = msgspec.structs.replace(version.load, not_run=why)
                is_to_blame = False
            self._see_to(version, is_to_blame=is_to_blame, words=words)
        if process.versions and not self._is_draining:
            process.restart_at = self._monotonic() + pause_s
            if not pause_s:
                self._begin(process)
        self._context.on_change()

    def _report_end(self, process: ModelProcess, verdict: Verdict, words: str) -> None:
        if process.cause == "stopped" and not process.seats:
            return
        self._ends += 1
        queues = {version.queue for version in process.versions.values()}
        _log.error(
            "a model's process ended",
            extra={
                "models": sorted(f"{queue.model}/{queue.version}" for queue in itertools.islice(queues, 20)),
                "reason": words,
                "is_request_known": verdict.culprit is not None,
            },
        )

    def _settle(self, version: RemoteVersion, verdict: Verdict, words: str) -> None:
        for seat in version.seats.values():
            if verdict.culprit and verdict.culprit[0] is seat:
                self._aftermath.add(self._answer(version, verdict.culprit[1], words))
            name = consumer_name(seat.consumer, seat.status.losses)
            self._aftermath.add(_release(version.queue, name, is_suspect=seat.consumer in verdict.suspects))

    def _answer(self, version: RemoteVersion, item: LoneItem, words: str) -> Callable[[WorkerLink], None]:
        """A task that answers the item that is to blame, which nobody runs again."""
        error = ModelFailed(f"model '{version.queue.model}' ended its process on this request ({words})")
        block = ReplyBlock(
            worker=self._context.worker,
            compute_ms=0.0,
            batch_rows=0,
            items=(ReplyItem(item.id, 0, 0.0, 0.0, error.code, str(error)),),
        )
        reply = Reply(item.reply_to, codec.encode_reply(block))

        def settle(link: WorkerLink) -> None:
            link.settle(version.queue, reply, item.id, item.deadline_ms)

        return settle

    def _see_to(self, version: RemoteVersion, *, is_to_blame: bool, words: str) -> None:
        """What becomes of a version whose process has ended."""
        if version.is_leaving or self._is_draining:
            self._forget(version)
        elif is_to_blame and not version.future.done():
            self._fail(version, LoadError(f"its process ended while it was loaded ({words})", can_retry=True))

    # What the processes say

    def _run(self) -> None:
        while not self._closing.is_set():
            for key, _ in self._selector.select(self._pause_s()):
                if key.fileobj is self._woken:
                    self._woken.recv(4096)
                elif not self._closing.is_set():
                    with self._changed:
                        if self._selector.get_map().get(key.fd) == key:  # else it was closed meanwhile
                            key.data()
            with self._changed:
                if not self._closing.is_set():
                    self._do_what_is_due()

    def _rouse(self) -> None:
        """Have the thread look again at what it waits for."""
        with contextlib.suppress(BlockingIOError):
            self._wake.send(b"x")

    def _pause_s(self) -> float | None:
        with self._changed:
            times = [process.restart_at for process in self._processes]
            times += [version.reload_at for version in self._versions()]
            if self._starter is None:
                times.append(self._starter_at)
            if any(process.channel and process.channel.has_more for process in self._processes):
                return _FLUSH_S
            due = [time for time in times if time is not None]
            return max(0.0, min(due) - self._monotonic()) if due else None

    def _do_what_is_due(self) -> None:
        now = self._monotonic()
        for process in self._processes:
            process.flush()
        if self._starter is None and now >= self._starter_at:
            self._start_server()
        for process in self._processes:
            if process.restart_at is not None and now >= process.restart_at:
                self._begin(process)
        for version in self._versions():
            if version.reload_at is not None and now >= version.reload_at and version.process.token:
                version.reload_at = None
                version.process.send(version.load)

    def _start_server(self) -> None:
        if self._starter is None:
            self._starter = ProcessStarter.spawned(self._modules, self._environ)
        standard_error.relay(self._starter.stderr)
        self._selector.register(self._starter, selectors.EVENT_READ, self._take_reports)

    def _take_reports(self) -> None:
        """What the fork server says of the processes."""
        if self._starter is None:
            return
        try:
            reports = self._starter.receive()
        except EOFError:
            self._lose_server()
            return
        for report in reports:
            process = next((process for process in self._processes if process.token == report.token), None)
            if process and report.has_ended:
                self._bury(process, report.value)
            elif process:
                process.has_started(report.value)

    def _lose_server(self) -> None:
        """The fork server has ended, and with it every process."""
        _log.error("the fork server of the models ended; it is started again")
        if self._starter:
            self._selector.unregister(self._starter)
            self._starter.close()
        self._starter = None
        self._starter_at = self._monotonic() + _SERVER_PAUSE_S
        for version in self._versions():
            if not version.future.done():
                self._fail(version, LoadError("the process that starts models has ended", can_retry=True))
        for process in list(self._processes):
            if process.token:
                self._bury(process, 9)

    def _take(self, process: ModelProcess) -> None:
        """What a process says."""
        if process.channel is None:
            return
        channel = process.channel
        try:
            messages = channel.receive()
        except EOFError:  # how it ended, the fork server says
            self._selector.unregister(channel)
            channel.close()
            process.channel = None
            return
        for message in messages:
            if version := process.versions.get(message.number):
                self._take_message(version, message)

    def _take_output(self, process: ModelProcess) -> None:
        """What a model's code prints."""
        if process.printed and not process.printed.take():
            self._stop_reading(process)

    def _take_message(self, version: RemoteVersion, message: ToWorker) -> None:
        match message:
            case Loaded():
                self._take_loaded(version, message)
            case LoadFailed():
                self._take_failure(version, LoadError(message.reason, can_retry=message.can_retry))
            case Fault():
                version.own_fault = message.fault
                self._context.on_change()
            case Stopped():
                version.process.leave_seats(version)
                if version.is_leaving:
                    self._forget(version)
                elif version.is_parking:
                    version.is_parking = False
                    self._has_parked.set()

    def _take_loaded(self, version: RemoteVersion, message: Loaded) -> None:
        version.instances = message.instances
        version.loaded_as = msgspec.structs.replace(message.announcement, instances=message.instances)
        version.is_loaded, version.own_fault = True, ""
        version.process.is_back()
        if not version.future.done():
            version.future.set_result(version)
        elif version.is_wanted:
            self._open(version)
            self._context.on_change()

    def _take_failure(self, version: RemoteVersion, error: LoadError) -> None:
        """It cannot be loaded, or not again, after its process had ended: its files may have changed meanwhile."""
        if not version.future.done():
            self._fail(version, error)
            return
        version.own_fault = str(error)
        version.reload_at = self._monotonic() + _RELOAD_S
        self._context.on_change()

    # Bulk

    def _look_after_bulk(self, now_s: float) -> None:
        """Have a process for the bulk of each version that has some, until there was none for a while."""
        for version in [version for version in self._versions() if version.is_wanted]:
            if version.is_for_bulk:
                if version.seats and self._is_idle(version.seats.values(), now_s, self._bulk_idle_s):
                    self._drain(version)
            elif self._needs_bulk_process(version, now_s):
                self._load_for_bulk(version)

    def _needs_bulk_process(self, version: RemoteVersion, now_s: float) -> bool:
        if not self._has_bulk_processes or version.bulk or now_s < version.no_bulk_until:
            return False
        return any(seat.status.sees_bulk for seat in version.seats.values())

    def _load_for_bulk(self, version: RemoteVersion) -> None:
        """Load it once more; where that fails, the one that callers use takes bulk, too, for some time."""
        process = self._place(version.process.code, is_for_bulk=True)
        load = msgspec.structs.replace(version.load, number=next(self._numbers))
        version.bulk = bulk = self._load(load, process, ONLY_BULK)

        def take_over(future: "Future[ServedVersion]") -> None:
            if error := future.exception():
                _log.warning("a model has no process for bulk", extra={"model": load.name, "reason": str(error)})
                version.bulk, version.no_bulk_until = None, self._monotonic() + _NO_BULK_S
                version.take(PRIORITIES)
            else:
                version.take(URGENT)
                self._serve(bulk)

        bulk.future.add_done_callback(take_over)

    # Parked versions

    def _park_the_idle(self, now_s: float) -> None:
        versions = self._versions()
        if not self._can_park or len(versions) <= self._parking.beyond:
            return
        for version in versions:
            if (
                version.seats
                and version.is_wanted
                and not version.is_for_bulk
                and not version.is_parking
                and self._is_idle(version.seats.values(), now_s, self._parking.idle_s)
            ):
                version.is_parking = True
                version.process.send(Stop(number=version.load.number, unloads=False))

    @staticmethod
    def _is_idle(seats: Iterable[Seat], now_s: float, idle_s: float) -> bool:
        return all(seat.status.is_idle and now_s - seat.status.since_s > idle_s for seat in seats)

    def _listen(self) -> None:
        """Watch the queues of parked versions with one connection, and give instances to those that have blocks."""
        known: set[Queue] = set()
        while not self._closing.is_set():
            with self._changed:
                parked = {version.queue: version for version in self._versions() if version.is_parked}
                self._has_parked.clear()
            if not parked:
                self._has_parked.wait()
                continue
            block_ms = _LISTEN_MS if parked.keys() <= known else _LISTEN_SHORTLY_MS  # more may come in a moment
            known = set(parked)
            try:
                busy = self._watcher.watch(list(parked), block_ms)
            except Unavailable as error:
                _log.warning("the queue does not answer", extra={"reason": str(error)})
                self._closing.wait(_LISTEN_MS / 1000)
                continue
            with self._changed:
                for version in (parked[queue] for queue in busy):
                    if version.is_parked and not self._is_draining:
                        self._seat(version)
        self._watcher.close()

    def usage(self) -> HostUsage:
        """See `ModelHost`."""
        with self._changed:
            versions = [version for version in self._versions() if not version.is_for_bulk]
            return HostUsage(
                versions=[usage_of(version.queue, _all_seats(version)) for version in versions],
                processes=len(self._processes),
                ends=self._ends,
                memory_bytes=sum(process.memory_bytes for process in self._processes),
            )


def _all_seats(version: RemoteVersion) -> list[Seat]:
    return [*version.seats.values(), *(version.bulk.seats.values() if version.bulk else ())]


def _release(queue: Queue, consumer: str, *, is_suspect: bool) -> Callable[[WorkerLink], None]:
    return lambda link: link.release(queue, consumer, is_suspect=is_suspect)
