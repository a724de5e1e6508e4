"""The pool of offload processes, as the event loop sees it.

    submit ──► waiting ──► running ──► done                     `on_done` gets the outcome
                  │           ├──────► deadline: the process is killed, another takes its place
                  │           └──────► the process ended: `Internal`, or `PayloadTooLarge` where memory did it
                  └─ deadline, or cancelled

A process has one job at a time, so that a body which ends it ends nothing else. Short jobs go first: a job's place in
the queue is its time of arrival and what its size takes, so that none waits for ever. All processes but one take jobs
of any size; that one takes short jobs alone.
"""

import asyncio
import contextlib
import heapq
import itertools
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from millrace.protocol.errors import DeadlineExceeded, Internal, MillraceError, PayloadTooLarge, Unavailable
from serving.offload.files import Buffer, buffers_of, description_of, map_file, write_file
from serving.offload.jobs import Failed, Job, Outcome, encoder, outcome_decoder
from serving.offload.process import MESSAGE
from serving.transport.spooled_body import SpooledBody

_log = logging.getLogger(__name__)
_MAX_WAITING = 1024
_SHORT_BYTES = 2**20
_BYTES_PER_S = 20e6  # about as fast as a process reads JSON
_RESTART_S = 1.0
_COMMAND = (
    "import sys; sys.path[:] = sys.argv[3:]; from serving.offload.process import main; "
    "main(int(sys.argv[1]), int(sys.argv[2]))"
)


class Result(NamedTuple):
    """What came of a job, the memory that its buffers are in, and of a written response the body."""

    outcome: Outcome
    contents: memoryview
    body: SpooledBody | None = None

    def buffers(self, sizes: Sequence[int]) -> list[memoryview]:
        """The buffers of these sizes."""
        return buffers_of(self.contents, sizes)

    def take_body(self) -> SpooledBody:
        """The body, which goes to the caller. Raises `ValueError` where there is none."""
        if self.body is None:
            raise ValueError("the result has no body")
        return self.body


OnDone = Callable[[Result | MillraceError], None]


class OffloadStatistics(NamedTuple):
    """Of now: jobs that wait and that run, and processes. `ended` counts processes that ended before they were told."""

    waiting: int
    running: int
    processes: int
    ended: int


class Ticket:
    """A job in the pool. `cancel` it where nobody waits for it any more; `on_done` is not called then."""

    __slots__ = ("_pool", "body", "buffers", "ends", "job", "number", "on_done", "size", "timeout_ms", "timer")

    def __init__(
        self,
        pool: "OffloadPool",
        number: int,
        job: Job,
        buffers: Sequence[Buffer],
        body: SpooledBody | None,
        on_done: OnDone,
        timeout_ms: float,
    ) -> None:
        self._pool = pool
        self.number = number
        self.job = job
        self.buffers = buffers
        self.body = body
        self.size = (body.size if body else 0) + sum(map(len, buffers))
        self.on_done: OnDone | None = on_done
        self.timeout_ms = timeout_ms
        self.timer: asyncio.TimerHandle | None = None

    @property
    def is_short(self) -> bool:
        """Whether every process takes it."""
        return self.size <= _SHORT_BYTES

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        self._pool.cancel(self)

    def finish(self, result: Result | MillraceError | None = None) -> None:
        """Tell who waits, once, and let go of the memory. Without a result, nobody may be waiting."""
        on_done, self.on_done = self.on_done, None
        self.buffers, self.body = (), None
        if self.timer:
            self.timer.cancel()
            self.timer = None
        if on_done and result is not None:
            on_done(result)


class OffloadPool:
    """Has jobs done by other processes. `start` first, `stop` last; all on one event loop.

    Each process may take up `memory_bytes` more than what it begins with. Without processes, `is_on` is false.
    """

    def __init__(self, processes: int, memory_bytes: int) -> None:
        self._count = processes
        self._memory_bytes = memory_bytes
        self._processes: list[_Process] = []
        self._waiting: list[tuple[float, int, Ticket]] = []
        self._numbers = itertools.count(1)
        self._ended = 0
        self._is_stopped = False

    @property
    def is_on(self) -> bool:
        """Whether there are processes."""
        return self._count > 0

    @property
    def statistics(self) -> OffloadStatistics:
        """What it does now."""
        running = sum(process.ticket is not None for process in self._processes)
        waiting = sum(ticket.on_done is not None for _, _, ticket in self._waiting)
        return OffloadStatistics(waiting, running, len(self._processes), self._ended)

    def start(self) -> None:
        """Start the processes; does not wait for them."""
        self._is_stopped = False
        while len(self._processes) < self._count:
            self._processes.append(_Process(self, self._memory_bytes))

    def stop(self) -> None:
        """End the processes; who waits gets `Unavailable`."""
        self._is_stopped = True
        for process in self._processes:
            process.end()
        self._processes = []
        waiting, self._waiting = self._waiting, []
        for _, _, ticket in waiting:
            ticket.finish(Unavailable("the server is shutting down"))

    def submit(
        self, job: Job, buffers: Sequence[Buffer], body: SpooledBody | None, on_done: OnDone, timeout_s: float
    ) -> Ticket:
        """Have a job done; `on_done` is called later, on the event loop, once, unless it is cancelled.

        `buffers` are its buffers, `body` the body where that is a file; both stay as they are until then. Raises
        `Unavailable` where too many jobs are waiting.
        """
        if len(self._waiting) >= _MAX_WAITING:
            self._forget_cancelled()
            if len(self._waiting) >= _MAX_WAITING:
                raise Unavailable("too many large requests are waiting to be read; try again")
        loop = asyncio.get_running_loop()
        ticket = Ticket(self, next(self._numbers), job, buffers, body, on_done, timeout_s * 1000)
        ticket.timer = loop.call_later(max(0.0, timeout_s), self._expire, ticket)
        heapq.heappush(self._waiting, (loop.time() + ticket.size / _BYTES_PER_S, ticket.number, ticket))
        self.start()
        self.assign()
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """See `Ticket`. What a process has begun it ends, for nobody, or is killed with at the deadline."""
        ticket.on_done = None
        if all(process.ticket is not ticket for process in self._processes):
            ticket.finish()

    def assign(self) -> None:
        """Give the jobs that wait to the processes that are free."""
        for place, process in enumerate(self._processes):
            if process.is_free:
                # One process takes no long jobs, if it is not the only one.
                ticket = self._next(short_alone=place > 0 and place == len(self._processes) - 1)
                if ticket:
                    process.take(ticket)

    def _next(self, *, short_alone: bool) -> Ticket | None:
        passed_over = []
        found = None
        while self._waiting and not found:
            entry = heapq.heappop(self._waiting)
            if entry[2].on_done is None:
                continue
            if short_alone and not entry[2].is_short:
                passed_over.append(entry)
            else:
                found = entry[2]
        for entry in passed_over:
            heapq.heappush(self._waiting, entry)
        return found

    def _forget_cancelled(self) -> None:
        self._waiting = [entry for entry in self._waiting if entry[2].on_done]
        heapq.heapify(self._waiting)

    def _expire(self, ticket: Ticket) -> None:
        error = DeadlineExceeded(f"no answer within {ticket.timeout_ms:.0f} ms")
        for process in self._processes:
            if process.ticket is ticket:
                process.kill()
        ticket.finish(error)

    def has_ended(self, process: "_Process", *, after_s: float) -> None:
        """A process is gone; another takes its place, in a moment where it ended as soon as it had begun."""
        self._ended += 1
        if process in self._processes:
            self._processes.remove(process)
        if self._is_stopped:
            return
        if after_s > _RESTART_S:
            self._restart()
        else:
            asyncio.get_running_loop().call_later(_RESTART_S, self._restart)

    def _restart(self) -> None:
        if not self._is_stopped:
            self.start()
            self.assign()


class _Process:
    """One process and the job that it has."""

    def __init__(self, pool: OffloadPool, memory_bytes: int) -> None:
        self._pool = pool
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self.ticket: Ticket | None = None
        self._is_ended = False
        self._connection, theirs = socket.socketpair()
        self._connection.setblocking(False)
        arguments = [str(theirs.fileno()), str(memory_bytes), *(part or str(Path.cwd()) for part in sys.path)]
        self._process = subprocess.Popen(  # noqa: S603 - our own code
            [sys.executable, "-c", _COMMAND, *arguments], pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
        )
        theirs.close()
        self._loop.add_reader(self._connection.fileno(), self._readable)

    @property
    def is_free(self) -> bool:
        """Whether it can take a job."""
        return self.ticket is None and not self._is_ended

    def take(self, ticket: Ticket) -> None:
        """Begin a job. What is long is written in a thread, since to write it takes a moment."""
        self.ticket = ticket
        described, buffers = encoder.encode(ticket.job), ticket.buffers
        if sum(map(len, buffers)) <= _SHORT_BYTES:
            self._send(ticket, _write(described, buffers))
        else:
            writing = self._loop.run_in_executor(None, _write, described, buffers)
            writing.add_done_callback(lambda done: self._send(ticket, done.result()))

    def _send(self, ticket: Ticket, file: int | MillraceError) -> None:
        if isinstance(file, MillraceError):
            self.ticket = None
            ticket.finish(file)
            self._pool.assign()
            return
        try:
            if ticket.on_done is None or self._is_ended:  # cancelled, or expired, while it was written
                ticket.finish()
                self.ticket = None
                if not self._is_ended:
                    self._loop.call_soon(self._pool.assign)
                return
            fds = [file] if ticket.body is None else [file, ticket.body.fd]
            socket.send_fds(self._connection, [MESSAGE.pack(ticket.number, len(fds))], fds)
            ticket.buffers = ()
        except OSError:
            self._has_ended()
        finally:
            os.close(file)

    def _readable(self) -> None:
        try:
            data, fds, _, _ = socket.recv_fds(self._connection, MESSAGE.size, 2)
        except BlockingIOError:
            return
        except OSError:
            data, fds = b"", []
        if len(data) < MESSAGE.size or not fds:
            self._has_ended()
            return
        ticket, self.ticket = self.ticket, None
        result = _read(fds)
        if ticket:
            ticket.finish(result)
        self._pool.assign()

    def kill(self) -> None:
        """End it now, with its job; the next one begins when the system says that it is gone."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    def end(self) -> None:
        """End it, and wait until it is gone."""
        self.kill()
        self._close()
        if self.ticket:
            self.ticket.finish(Unavailable("the server is shutting down"))

    def _close(self) -> int:
        if not self._is_ended:
            self._is_ended = True
            self._loop.remove_reader(self._connection.fileno())
            self._connection.close()
        return self._process.wait()  # its end of the connection is closed, so it is gone or about to be

    def _has_ended(self) -> None:
        if self._is_ended:
            return
        status = self._close()
        ticket, self.ticket = self.ticket, None
        if ticket:
            if ticket.on_done:
                _log.error("an offload process ended", extra={"status": status})
            ticket.finish(_error_of(status))
        self._pool.has_ended(self, after_s=self._loop.time() - self._began)


def _write(description: bytes, buffers: Sequence[Buffer]) -> int | MillraceError:
    """The job's file; errors are values, so that no future keeps what they refer to."""
    try:
        return write_file(description, buffers)
    except (OSError, MemoryError):
        return Unavailable("there is no memory left to hand the request on; try again")


def _read(fds: Sequence[int]) -> Result | MillraceError:
    fd, *bodies = fds
    body = _adopt(bodies[0]) if bodies else None
    try:
        contents = map_file(fd)
        outcome = outcome_decoder.decode(description_of(contents))
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        _log.error("an offload process answered nonsense", extra={"reason": str(error)})
        return Internal("the request could not be read")
    finally:
        os.close(fd)
    if isinstance(outcome, Failed):
        if outcome.trace:
            _log.error("an offload process failed", extra={"trace": outcome.trace})
        return outcome.error()
    return Result(outcome, contents, body)


def _adopt(fd: int) -> SpooledBody:
    """The body in a file that another process wrote."""
    return SpooledBody.of_file(fd, os.fstat(fd).st_size, is_on_disk=False)


def _error_of(status: int) -> MillraceError:
    """What the caller is told whose job a process ended with."""
    if status in (-signal.SIGKILL, -signal.SIGABRT):
        return PayloadTooLarge("the process that read the request was ended by the system, for lack of memory perhaps")
    return Internal(f"the process that read the request ended, with status {status}")
