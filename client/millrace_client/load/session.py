"""A run in one process of Locust: what is asked, the pace, and the tally, shared by all its users."""

import time
from dataclasses import dataclass
from typing import Any

from millrace_client.errors import ConnectionFailed, DeadlineExceeded, MillraceError
from millrace_client.exchange import Response
from millrace_client.load.connections import Connection, Reply, connection
from millrace_client.load.faults import CannotRun
from millrace_client.load.judging import Judge
from millrace_client.load.options import RunOptions
from millrace_client.load.pacing import ClosedPace, Due, OpenPace, Pace
from millrace_client.load.tally import Kind, Tally
from millrace_client.load.targets import Question, Target, grpc_ask, http_ask, target

_KINDS: dict[int, Kind] = {429: "refused", 503: "unavailable", 504: "timed_out"}


@dataclass(frozen=True, slots=True)
class Part:
    """The process's share of the schedule: every `of`-th request, from number `index`."""

    index: int = 0
    of: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one request; `message` is empty for a success. Times in seconds, of bodies in bytes."""

    model: str
    kind: Kind
    message: str
    latency_s: float
    size: int


class Session:
    """One run. `ask` is called by the users, once for each request; the rest by whoever starts and ends it."""

    def __init__(self, options: RunOptions, host: str, part: Part) -> None:
        self.options = options
        self.tally = Tally()
        self.targets = [target(host, options.protocol, model) for model in options.models]
        self._asked: list[tuple[Question, Judge]] = []
        self._begin_s = 0.0
        self._cpu_s = self._wall_s = 0.0
        self.pace: Pace = self._pace(part)

    def prepare(self) -> None:
        """Learn what is asked, and that it is answered. Raises `CannotRun`."""
        try:
            by_model = [self._learn(each) for each in self.targets]
        except (MillraceError, OSError, ValueError, ModuleNotFoundError) as error:
            raise CannotRun(f"{self.targets[0].url}: {error}") from error
        longest = max(map(len, by_model))
        self._asked = [questions[turn % len(questions)] for turn in range(longest) for questions in by_model]

    def connect(self) -> Connection:
        """A connection for a user."""
        return connection(self.targets[0], self.options.timeout_s)

    def start(self) -> None:
        """Let the users begin."""
        self._cpu_s, self._wall_s = time.process_time(), time.perf_counter()
        self._begin_s = self.pace.start() + self.options.warm_up_s

    def ask(self, wire: Connection, due: Due) -> Outcome:
        """Send the request that is due, judge the answer and count it."""
        question, judge = self._asked[due.number % len(self._asked)]
        second = int(due.at_s - self._begin_s) if due.at_s >= self._begin_s else -1
        started_s = time.perf_counter()
        kind: Kind
        try:
            reply = wire.ask(question.request)
        except DeadlineExceeded as error:
            return self._failed(question, second, "timed_out", str(error), due)
        except ConnectionFailed as error:
            return self._failed(question, second, "connection", str(error), due)
        except MillraceError as error:
            return self._failed(question, second, "wrong", str(error), due)
        except BaseException:  # the run is stopped
            self._failed(question, second, "unfinished", "stopped before it was answered", due)
            raise
        status = reply.response.status
        if status != 200:
            kind = _KINDS.get(status, "error")
            return self._failed(question, second, kind, f"{status}: {_words(reply.response)}", due)
        if fault := judge.fault(reply.response):
            return self._failed(question, second, "wrong", fault, due)
        latency_s = reply.done_s - due.at_s
        if second >= 0:
            self.tally.succeed(second, round(latency_s * 1e6), _stages(reply, started_s))
        return Outcome(model=question.model, kind="ok", message="", latency_s=latency_s, size=len(reply.response.body))

    def document(self) -> dict[str, Any]:
        """What this process has to say at the end, in the types of JSON."""
        wall_s = time.perf_counter() - self._wall_s
        return {"tally": self.tally.document(), "cpu": (time.process_time() - self._cpu_s) / max(wall_s, 1e-9)}

    def _pace(self, part: Part) -> Pace:
        if not self.options.is_open:
            return ClosedPace(self.options.warm_up_s + self.options.seconds)
        try:
            times = self.options.times()
        except (ValueError, OSError) as error:
            raise CannotRun(str(error)) from error
        return OpenPace(times[part.index :: part.of], self._note_lag)

    def _note_lag(self, due: Due, late_s: float) -> None:
        if due.at_s >= self._begin_s:
            self.tally.lag.record(round(late_s * 1e6))

    def _learn(self, asked: Target) -> list[tuple[Question, Judge]]:
        ask = grpc_ask(asked.url) if asked.is_grpc else http_ask(asked.url)
        questions = asked.questions(self.options.payload, ask)
        wire = connection(asked, self.options.timeout_s)
        try:
            return [
                (question, self._judge(question, wire, is_first=number == 0))
                for number, question in enumerate(questions)
            ]
        finally:
            wire.close()

    def _judge(self, question: Question, wire: Connection, *, is_first: bool) -> Judge:
        """With the answer that the question gets alone, if answers are compared; the first one is asked in any case."""
        if not (self.options.is_checked or is_first):
            return Judge(question)
        reply = wire.ask(question.request)
        if reply.response.status != 200:
            raise CannotRun(f"{question.model}: no answer even without load: {_words(reply.response)}")
        if fault := Judge(question).fault(reply.response):
            raise CannotRun(f"{question.model}: wrong even without load: {fault}")
        return Judge(question, question.read(reply.response) if self.options.is_checked else None)

    def _failed(self, question: Question, second: int, kind: Kind, message: str, due: Due) -> Outcome:
        if second >= 0:
            self.tally.fail(second, kind, message)
        latency_s = time.perf_counter() - due.at_s
        return Outcome(model=question.model, kind=kind, message=message, latency_s=latency_s, size=0)


def _stages(reply: Reply, started_s: float) -> dict[str, int]:
    """The parts of a success's time in µs: the client's, and those that the server named."""
    stages = {
        "send": round((reply.sent_s - started_s) * 1e6),
        "wait": round((reply.first_s - reply.sent_s) * 1e6),
        "receive": round((reply.done_s - reply.first_s) * 1e6),
    }
    if timing := reply.response.headers.get("server-timing"):
        for entry in timing.split(","):
            name, _, value = entry.partition(";dur=")
            try:
                stages["server:" + name.strip()] = round(float(value) * 1000)
            except ValueError:  # an entry without a duration
                continue
    return stages


def _words(response: Response) -> str:
    return " ".join(response.body[:200].decode("utf-8", "replace").split()) or "nothing"
