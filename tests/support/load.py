"""A load driver that keeps account: what became of every request, and whether its answer was its own.

Every request ends in exactly one of these, and their sum is what was sent:

    right      200, and the answer that this very request must get
    refused    another status, with an error in words
    wrong      200 with another answer, or a refusal without a word
    lost       the connection ended and there was no answer
    hung       nothing by the request's deadline and `GRACE_S` more

The load runs in a thread of its own, so that a test can break things meanwhile: see `Load`.
"""

import asyncio
import itertools
import json
import re
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.support.running import until

GRACE_S = 2.0  # for the way there and back, on a machine that is busy with the load itself
_PAUSE_S = 0.02  # a caller that was refused waits a little before it asks again
_CONTENT_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_RETRY_AFTER = re.compile(rb"(?i)\r\nretry-after: *(\d+)")
_CLOSE = re.compile(rb"(?i)\r\nconnection: *close")

Address = tuple[str, int]
Kind = Literal["right", "refused", "wrong", "lost", "hung"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request, and how to tell its right answer. `timeout_ms` is its deadline, which the server is told."""

    path: str
    body: bytes
    is_right: Callable[[Any], bool]
    timeout_ms: int = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one request. `due` is when it should have been sent (`time.perf_counter`); latency counts from it.

    `late_s` is how long after that the driver came to send it, `text` the stated error or what was wrong.
    """

    kind: Kind
    due: float
    latency_s: float
    late_s: float
    status: int = 0
    text: str = ""
    retry_after_s: int | None = None
    overrun_s: float = 0.0

    @property
    def ended(self) -> float:
        """When the answer was there."""
        return self.due + self.latency_s


@dataclass(slots=True)
class Tally:
    """The outcomes of a load. `moved` counts sendings, not requests: those that had to be repeated, and why."""

    outcomes: list[Outcome] = field(default_factory=list)
    counts: "Counter[Kind]" = field(default_factory=Counter)
    sent: int = 0
    moved: "Counter[str]" = field(default_factory=Counter)

    def add(self, outcome: Outcome) -> None:
        """Enter what became of one request."""
        self.outcomes.append(outcome)
        self.counts[outcome.kind] += 1

    def of(self, kind: Kind) -> list[Outcome]:
        """The requests that ended so, in the order in which they ended."""
        return [outcome for outcome in self.outcomes if outcome.kind == kind]

    def refusals(self) -> "Counter[int]":
        """How many were refused with each status."""
        return Counter(outcome.status for outcome in self.of("refused"))

    def reasons(self) -> "Counter[str]":
        """How many were refused with each status and stated error; its numbers are left out."""
        return Counter(f"{outcome.status} {_without_numbers(outcome.text)}" for outcome in self.of("refused"))

    def faults(self, *allowed: int) -> list[str]:
        """What must not be: requests that were lost, hung or answered wrong, and refusals that are not `allowed`."""
        bad = [o for o in self.outcomes if o.kind in ("wrong", "lost", "hung")]
        bad += [o for o in self.of("refused") if o.status not in allowed]
        missing = self.sent - len(self.outcomes)
        words = Counter(f"{o.kind} {o.status or ''} {_without_numbers(o.text)}" for o in bad)
        return [f"{count} x {text}" for text, count in words.most_common(10)] + [f"{missing} unaccounted"] * bool(
            missing
        )

    def worst_overrun_ms(self) -> float:
        """By how much the latest answer of all was past its request's deadline; 0 where none was."""
        return max((outcome.overrun_s for outcome in self.outcomes), default=0.0) * 1000


def percentile(outcomes: Sequence[Outcome], percent: float) -> float:
    """That percentile of the latencies in milliseconds; 0 where there are none."""
    latencies = sorted(outcome.latency_s for outcome in outcomes)
    return latencies[min(len(latencies) - 1, int(len(latencies) * percent / 100))] * 1000 if latencies else 0.0


def _without_numbers(text: str) -> str:
    return re.sub(r"[0-9]+", "N", text)[:200]


class _Moved(Exception):
    """The server closed the connection before the first byte of an answer."""


class _Connection:
    """One keep-alive connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.is_open = True

    async def exchange(self, request: bytes) -> tuple[int, bytes, bytes]:
        """Status, head and body of the answer. Raises `_Moved`, or in the midst of one `OSError` or `EOFError`."""
        head = b""
        try:
            self._writer.write(request)
            head = await self._reader.readuntil(b"\r\n\r\n")
            length = _CONTENT_LENGTH.search(head)
            if length is None:
                raise EOFError(f"an answer without a length: {head!r}")
            body = await self._reader.readexactly(int(length[1]))
        except asyncio.IncompleteReadError as error:
            self.close()
            if error.partial or head:
                raise
            raise _Moved from None
        except OSError:
            self.close()
            if head:
                raise
            raise _Moved from None
        except BaseException:  # cut off in the middle, by the time limit too: what comes next is not the next answer
            self.close()
            raise
        if _CLOSE.search(head):
            self.close()
        return int(head[9:12]), head, body

    @property
    def is_idle(self) -> bool:
        """Whether it can be used again: neither side has closed it."""
        return self.is_open and not self._reader.at_eof()

    def close(self) -> None:
        self.is_open = False
        self._writer.close()


class Load:
    """Sends calls from a thread until the `with` block ends, and at least `least` of them.

    Closed loop: each of `connections` callers sends its next request when the last was answered. With `rate`, an open
    loop: so many requests per second on a schedule, whatever becomes of them, each on a connection that is free.

    A request whose connection is closed before the first byte of an answer is `lost`. With `moves` the driver does as
    an HTTP client with several servers does: it sends it again, to the next of the addresses, once for each of them.
    """

    def __init__(
        self,
        addresses: Sequence[Address],
        calls: Iterator[Call],
        *,
        connections: int = 16,
        least: int = 0,
        rate: float | None = None,
        moves: bool = False,
    ) -> None:
        self._addresses = addresses
        self._turns = itertools.count()
        self._moves = moves
        self._calls = calls
        self._connections = connections
        self._least = least
        self._rate = rate
        self._stopping = threading.Event()
        self._free: deque[_Connection] = deque()
        self.tally = Tally()
        self._thread = threading.Thread(target=self._run, name="load")
        self._failure: BaseException | None = None

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(self, error: object, *_: object) -> None:
        if error:
            self._least = 0
        self._stopping.set()
        self._thread.join()
        if self._failure and not error:
            raise self._failure

    def after(self, more: int, kind: Kind | None = "right", timeout_s: float = 120.0) -> None:
        """Wait until that many more requests have ended so; None: in any way."""

        def ended() -> int:
            return self.tally.counts[kind] if kind else len(self.tally.outcomes)

        wanted = ended() + more
        until(lambda: ended() >= wanted or not self._thread.is_alive(), timeout_s, f"{more} more requests")
        assert ended() >= wanted, f"the load ended: {self._failure!r}"

    def _run(self) -> None:
        try:
            asyncio.run(self._open_loop(self._rate) if self._rate else self._closed_loop())
        except BaseException as error:  # raised again in the thread that waits for us
            self._failure = error

    def _is_done(self) -> bool:
        return self._stopping.is_set() and self.tally.sent >= self._least

    async def _closed_loop(self) -> None:
        await asyncio.gather(*(self._caller() for _ in range(self._connections)))
        self._close()

    async def _caller(self) -> None:
        while not self._is_done():
            outcome = await self._send(next(self._calls), time.perf_counter())
            if outcome.kind != "right":
                await asyncio.sleep(_PAUSE_S)

    async def _open_loop(self, rate: float) -> None:
        started, tasks = time.perf_counter(), set[asyncio.Task[Outcome]]()
        for number in itertools.count():
            due = started + number / rate
            if (early := due - time.perf_counter()) > 0:
                await asyncio.sleep(early)
            elif number % 16 == 0:
                await asyncio.sleep(0)  # behind the schedule: let the answers in all the same
            if self._is_done():
                break
            task = asyncio.create_task(self._send(next(self._calls), due))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)
        self._close()

    def _close(self) -> None:
        for connection in self._free:
            connection.close()

    async def _send(self, call: Call, due: float) -> Outcome:
        self.tally.sent += 1
        late_s = time.perf_counter() - due
        kind, status, text, head = await self._ask(call, due)
        ended = time.perf_counter()
        retry_after = _RETRY_AFTER.search(head)
        outcome = Outcome(
            kind=kind,
            due=due,
            latency_s=ended - due,
            late_s=late_s,
            status=status,
            text=text,
            retry_after_s=int(retry_after[1]) if retry_after else None,
            overrun_s=max(0.0, ended - due - late_s - call.timeout_ms / 1000),
        )
        self.tally.add(outcome)
        return outcome

    async def _ask(self, call: Call, due: float) -> tuple[Kind, int, str, bytes]:
        request = (
            f"POST {call.path} HTTP/1.1\r\nhost: millrace\r\ncontent-type: application/json\r\n"
            f"x-request-timeout-ms: {call.timeout_ms}\r\ncontent-length: {len(call.body)}\r\n\r\n"
        ).encode() + call.body
        limit_s = call.timeout_ms / 1000 + GRACE_S
        try:
            async with asyncio.timeout(limit_s):
                status, head, body = await self._exchange(request)
        except TimeoutError:
            return "hung", 0, f"no answer in {limit_s} s", b""
        except (OSError, EOFError, _Moved) as error:
            return "lost", 0, repr(error), b""
        try:
            document = json.loads(body)
        except ValueError:
            return "wrong", status, f"no JSON: {body[:200]!r}", head
        if status == 200:
            is_right = call.is_right(document)
            return ("right", 200, "", head) if is_right else ("wrong", 200, f"{call.body!r}: {body[:200]!r}", head)
        text = document.get("error") if isinstance(document, dict) else None
        return ("refused", status, text, head) if text else ("wrong", status, f"no error is stated: {body!r}", head)

    async def _exchange(self, request: bytes) -> tuple[int, bytes, bytes]:
        """The answer on a free connection, or a new one; where the driver `moves`, on one to each address in turn."""
        connection = self._idle()
        first = next(self._turns)
        for attempt in itertools.count():
            try:
                if connection is None:
                    address = self._addresses[(first + attempt) % len(self._addresses)]
                    connection = _Connection(*await asyncio.open_connection(*address))
                answer = await connection.exchange(request)
            except (_Moved, ConnectionError) as error:
                if not self._moves or attempt == len(self._addresses):
                    raise
                self.tally.moved["no connection" if isinstance(error, ConnectionError) else "no answer"] += 1
                connection = None
            else:
                if connection.is_open:
                    self._free.append(connection)
                return answer
        raise AssertionError("not reached")

    def _idle(self) -> _Connection | None:
        while self._free:
            connection = self._free.popleft()
            if connection.is_idle:
                return connection
            connection.close()
        return None
