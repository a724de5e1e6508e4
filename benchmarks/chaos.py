"""Break the running stack and keep account of every request: `make chaos`.

Each scenario starts a Redis, API processes and workers, puts load on them, breaks something, and mends it. What is sent
must come to: answered right + refused with a stated error, with none wrong, none lost and none that hangs. The exit
status is 1 where it does not, or where a limit that the scenario states is missed.

    .venv/bin/python -m benchmarks.chaos                                   # all, 100,000 requests and more: minutes
    .venv/bin/python -m benchmarks.chaos kill_worker overload              # some
    .venv/bin/python -m benchmarks.chaos --requests 5000 --out results     # short, and written down

`docs/explanation/delivery-guarantees.md` says what is promised; `tests/acceptance/test_chaos.py` runs the short form.
"""

import argparse
import contextlib
import itertools
import json
import random
import signal
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import redis

from benchmarks.machine import stamp
from millrace.broker.keys import GROUP, Queue
from tests import exact
from tests.load import Call, Kind, Load, Outcome, Tally, percentile
from tests.running import ROOT, Parts, until

_QUEUE = Queue("exact", 1)
_PREDICT = "/v1/models/exact:predict"


@dataclass(frozen=True, slots=True)
class Fact:
    """Something that was measured, with the limit that it must keep, if it has one."""

    value: float
    unit: str = ""
    at_most: float | None = None
    at_least: float | None = None

    @property
    def is_kept(self) -> bool:
        """Whether the value is within its limits."""
        return (self.at_most is None or self.value <= self.at_most) and (
            self.at_least is None or self.value >= self.at_least
        )

    def __str__(self) -> str:
        limit = f" (≤ {self.at_most:g})" if self.at_most is not None else ""
        limit += f" (≥ {self.at_least:g})" if self.at_least is not None else ""
        return f"{self.value:.4g} {self.unit}".rstrip() + limit


@dataclass(slots=True)
class Result:
    """What a scenario found. `allowed` are the statuses with which it may refuse requests."""

    tally: Tally
    allowed: tuple[int, ...] = ()
    facts: dict[str, Fact] = field(default_factory=dict)

    def faults(self) -> list[str]:
        """What must not be with any request, whatever the machine."""
        return self.tally.faults(*self.allowed)

    def missed(self) -> list[str]:
        """The facts outside their limits, which hold for a machine with two cores to itself."""
        return [f"{name}: {fact}" for name, fact in self.facts.items() if not fact.is_kept]


# The requests


def calls(timeouts_ms: tuple[int, ...] = (10_000,)) -> Iterator[Call]:
    """Requests with numbers that no other has, most of one row and some of three; the deadlines take turns."""
    for number in itertools.count():
        xs = [10 * number + row for row in range(1 if number % 8 else 3)]
        yield call_of(xs, timeouts_ms[number % len(timeouts_ms)])


def call_of(xs: list[int], timeout_ms: int = 10_000) -> Call:
    """A request for these rows."""
    right = {"predictions": [[exact.answer(x)] for x in xs]}
    body = json.dumps({"instances": [[x] for x in xs]}).encode()
    return Call(path=_PREDICT, body=body, is_right=right.__eq__, timeout_ms=timeout_ms)


def ask(url: str, x: int, timeout_ms: int = 10_000) -> httpx.Response:
    """The answer to one request outside the load."""
    call = call_of([x], timeout_ms)
    headers = {"X-Request-Timeout-Ms": str(timeout_ms)}
    return httpx.post(url + call.path, content=call.body, headers=headers, timeout=timeout_ms / 1000 + 10)


def held(parts: Parts) -> int:
    """How many rows the queue holds, waiting or in work."""
    with redis.Redis.from_url(parts.redis.url) as client:
        return int(client.hget(_QUEUE.held, "rows") or 0)


def _pass(seconds: float) -> None:
    ends = time.monotonic() + seconds
    until(lambda: time.monotonic() >= ends, seconds + 10)


@contextlib.contextmanager
def _exact(folder: Path, *, apis: int = 1, workers: int = 2, batch_s: float = 0.0, **settings: str) -> Iterator[Parts]:
    exact.make(folder / "models", batch_s=batch_s)
    with Parts(folder, folder / "models", apis=apis, workers=workers, **settings) as parts:
        yield parts


# The scenarios


def kill_worker(folder: Path, requests: int) -> Result:
    """SIGKILL to one of two workers in the middle of a batch, again and again."""
    hits: list[float] = []
    with _exact(folder, batch_s=0.03) as parts, Load(parts.addresses, calls(), least=requests) as load:
        wanted = max(2, requests // 2500)
        for turn in range(4 * wanted):
            if len(hits) == wanted:
                break
            load.after(100)
            taken_s = _kill_and_wait(parts, turn % 2)
            if taken_s > 0.1:  # it had blocks in hand
                hits.append(taken_s)
            parts.until_ready()  # the dead one is forgotten
            parts.restart_worker(turn % 2)
            parts.until_ready()
    facts = {
        "kills in the middle of a batch": Fact(len(hits), at_least=wanted),
        "until its blocks are another's, median": Fact(statistics.median(hits) if hits else 0.0, "s"),
        "until its blocks are another's, at most": Fact(max(hits, default=0.0), "s", at_most=2.0),
    }
    return Result(load.tally, facts=facts)


def _kill_and_wait(parts: Parts, number: int) -> float:
    """Kill a worker while blocks are in work; the seconds until none of those is in its hands any more."""
    with redis.Redis.from_url(parts.redis.url) as client:

        def in_work() -> dict[bytes, bytes]:
            pending = client.xpending_range(_QUEUE.requests("normal"), GROUP, "-", "+", 1000)
            return {entry["message_id"]: entry["consumer"] for entry in pending}

        until(in_work)
        parts.workers[number].kill()
        killed = time.monotonic()
        parts.workers[number].wait()
        held = in_work()
        until(lambda: not held.items() & in_work().items(), what="the claim of a dead worker's blocks")
        return time.monotonic() - killed


def freeze_worker(folder: Path, requests: int) -> Result:
    """SIGSTOP to one of two workers in the middle of a batch; it comes back, with answers that others have given."""
    with _exact(folder, batch_s=0.03) as parts, Load(parts.addresses, calls(), least=requests) as load:
        for turn in range(max(1, requests // 5000)):
            load.after(100)
            parts.workers[turn % 2].send_signal(signal.SIGSTOP)
            _pass(4.0)
            parts.workers[turn % 2].send_signal(signal.SIGCONT)
            load.after(100)
            parts.until_ready()
    return Result(load.tally, facts={"times": Fact(turn + 1)})


def stop_worker(folder: Path, requests: int) -> Result:
    """SIGTERM to one of two workers under load, in turn."""
    took: list[float] = []
    with _exact(folder, batch_s=0.01) as parts, Load(parts.addresses, calls(), least=requests) as load:
        for turn in range(max(2, requests // 2500)):
            load.after(100)
            took.append(_stopped(parts.workers[turn % 2]))
            load.after(100)
            parts.until_ready()  # the one that left is forgotten
            parts.restart_worker(turn % 2)
            parts.until_ready()
    facts = {"stops": Fact(len(took)), "until it has left, at most": Fact(max(took), "s")}
    return Result(load.tally, facts=facts)


def _stopped(process: "subprocess.Popen[bytes]") -> float:
    """Tell it to stop; the seconds until it has. Its exit status must be 0."""
    process.terminate()
    started = time.monotonic()
    status = process.wait(60)
    assert status == 0, f"exit status {status}"
    return time.monotonic() - started


def stop_api(folder: Path, requests: int) -> Result:
    """SIGTERM to one of two API processes under load, in turn. Callers go to the other one when theirs is closed."""
    took: list[float] = []
    with (
        _exact(folder, apis=2, batch_s=0.01) as parts,
        Load(parts.addresses, calls(), least=requests, moves=True) as load,
    ):
        for turn in range(max(2, requests // 2500)):
            load.after(200)
            took.append(_stopped(parts.apis[turn % 2]))
            load.after(200)
            parts.restart_api(turn % 2)
            parts.until_ready()
    facts = {
        "stops": Fact(len(took)),
        "until it has left, at most": Fact(max(took), "s"),
        "sent again, not connected": Fact(load.tally.moved["no connection"]),
        # What was sent just when an idle connection closed; what the process had in work would be many more.
        "sent again, closed without an answer": Fact(load.tally.moved["no answer"], at_most=2 * len(took)),
    }
    return Result(load.tally, facts=facts)


def restart_redis(folder: Path, requests: int) -> Result:
    """Redis is killed and comes back empty."""
    back: list[float] = []
    with _exact(folder) as parts, Load(parts.addresses, calls((5_000,)), least=requests) as load:
        for _ in range(max(1, requests // 5000)):
            load.after(200)
            parts.redis.kill()
            load.after(20, "refused")
            parts.redis.start()
            started = time.monotonic()
            load.after(1)
            back.append(time.monotonic() - started)
            load.after(200)
        with redis.Redis.from_url(parts.redis.url) as client:
            groups = [group["name"].decode() for group in client.xinfo_groups(_QUEUE.requests("normal"))]
        assert groups == [GROUP], groups
    return Result(load.tally, (503, 504), _recovery(load.tally, back))


def freeze_redis(folder: Path, requests: int) -> Result:
    """Redis stands still for 3 seconds; half of the requests can wait that long, the others' deadline is 1 second."""
    back: list[float] = []
    with _exact(folder) as parts, Load(parts.addresses, calls((10_000, 1_000)), least=requests) as load:
        for _ in range(max(1, requests // 5000)):
            load.after(200)
            assert parts.redis.process
            parts.redis.process.send_signal(signal.SIGSTOP)
            _pass(3.0)
            parts.redis.process.send_signal(signal.SIGCONT)
            started = time.monotonic()
            load.after(1)
            back.append(time.monotonic() - started)
            load.after(200)
    return Result(load.tally, (503, 504), _recovery(load.tally, back))


def cut_connections(folder: Path, requests: int) -> Result:
    """Redis closes every connection, again and again."""
    back: list[float] = []
    with _exact(folder) as parts, Load(parts.addresses, calls((5_000,)), least=requests) as load:
        for _ in range(max(5, requests // 1000)):
            load.after(100)
            with redis.Redis.from_url(parts.redis.url) as client:
                client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            started = time.monotonic()
            load.after(1)
            back.append(time.monotonic() - started)
    return Result(load.tally, (503, 504), _recovery(load.tally, back))


def _recovery(tally: Tally, back: list[float]) -> dict[str, Fact]:
    return {
        "times": Fact(len(back)),
        "until the next right answer, at most": Fact(max(back), "s"),
        "past its deadline, the worst": Fact(tally.worst_overrun_ms(), "ms", at_most=500),
    }


def poison(folder: Path, requests: int) -> Result:
    """Requests that break the model, beside others that must not notice: it raises, answers too few rows, takes 10 s,
    or kills its process."""
    stated: list[tuple[int, str, float]] = []
    with (
        _exact(folder, workers=3) as parts,
        revived(parts) as deaths,
        Load(parts.addresses, calls((20_000,)), least=requests) as load,
        ThreadPoolExecutor(4) as pool,
    ):

        def outcome(x: int, timeout_ms: int) -> tuple[int, str, float]:
            started = time.monotonic()
            answer = ask(parts.urls[0], x, timeout_ms)
            return answer.status_code, str(answer.json().get("error")), time.monotonic() - started

        for _ in range(max(1, requests // 5000)):
            load.after(100)
            poisons = (
                *((exact.RAISES, 20_000), (exact.WRONG_ROWS, 20_000), (exact.slow(10), 1_000)),
                *([(exact.KILLS, 20_000)] if exact.IS_KILLABLE else []),
            )
            stated += pool.map(lambda poison: outcome(*poison), poisons)
        with redis.Redis.from_url(parts.redis.url) as client:
            dead = client.xlen(_QUEUE.dead)
    statuses = [status for status, _, _ in stated]
    assert statuses == [500, 500, 504, 500][: len(poisons)] * (len(stated) // len(poisons)), stated
    facts = {
        "requests that broke the model": Fact(len(stated)),
        "workers that died of them": Fact(len(deaths)),
        "dead letters": Fact(dead),
        "until the slow one's caller has its 504, at most": Fact(max(s for code, _, s in stated if code == 504), "s"),
        "until the one that kills is given up, at most": Fact(max(s for _, _, s in stated), "s"),
    }
    return Result(load.tally, facts=facts)


@contextlib.contextmanager
def revived(parts: Parts) -> Iterator[list[int]]:
    """Starts every worker that dies again, as a supervisor does; the list has one entry for each death."""
    deaths: list[int] = []

    def look() -> None:
        for number, worker in enumerate(parts.workers):
            if worker.poll() is not None:
                deaths.append(number)
                parts.restart_worker(number)

    with _every(0.05, look):
        yield deaths


@contextlib.contextmanager
def _every(seconds: float, look: Callable[[], None]) -> Iterator[None]:
    """Calls the function again and again meanwhile, in a thread."""
    stopping = threading.Event()

    def watch() -> None:
        while not stopping.wait(seconds):
            look()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


def callers(folder: Path, requests: int) -> Result:
    """Two API processes and three workers: every answer must be its own caller's."""
    with _exact(folder, apis=2, workers=3) as parts:
        started = time.perf_counter()
        with Load(parts.addresses, calls(), connections=64, least=requests) as load:
            pass
        seconds = time.perf_counter() - started
    rate = Fact(load.tally.counts["right"] / seconds, "requests/s, checked")
    return Result(load.tally, facts={"rate": rate})


_DEADLINE_MS = 1_000
_SENTIMENT = "/v1/models/sentiment:predict"


def overload(folder: Path, requests: int) -> Result:
    """The LSTM, 32 texts of 400 words a request: its peak in a closed loop, then three times that on a schedule."""
    (folder / "models").mkdir()
    (folder / "models" / "sentiment").symlink_to(ROOT / "models" / "sentiment")
    with Parts(folder, folder / "models") as parts:
        texts = _texts(parts.urls[0])
        seconds = max(4.0, requests / 1000)
        idle = _median_alone(parts, texts)
        with Load(parts.addresses, texts, connections=16) as closed:
            closed.after(16)
            _pass(seconds)
        peak = _rate(closed.tally.of("right"), seconds)
        before = _memory(parts)
        with Load(parts.addresses, texts, rate=3 * peak) as load, _watched(parts) as most:
            _pass(seconds + 1)
        again = _asked_again(parts, texts, [o for o in load.tally.of("refused") if o.status == 429][-8:])
        after = _median_alone(parts, texts)
    tally = load.tally
    start = tally.outcomes[0].due
    right = [o for o in tally.of("right") if start + 1 <= o.ended <= start + 1 + seconds]
    turned_away = [o for o in tally.of("refused") if o.status != 504]
    too_late = [o for o in tally.of("refused") if o.status == 504]
    accepted = tally.of("right") + too_late
    told_s = max((o.retry_after_s or 0 for o in turned_away), default=0)
    facts = {
        "peak": Fact(peak, "requests/s"),
        "offered": Fact(3 * peak, "requests/s"),
        "goodput": Fact(_rate(right, seconds) / peak * 100, "% of the peak", at_least=90),
        "turned away, p99": Fact(percentile(turned_away, 99), "ms", at_most=100),
        "turned away without Retry-After": Fact(sum(not o.retry_after_s for o in turned_away), at_most=0),
        "Retry-After, at most": Fact(told_s, "s", at_most=2 * _DEADLINE_MS / 1000),
        "came again when told, and were refused": Fact(len(again) - sum(again), at_most=0),
        "accepted, p99": Fact(percentile(accepted, 99), "ms", at_most=_DEADLINE_MS),
        "accepted, and not answered in time": Fact(100 * len(too_late) / len(accepted), "%", at_most=1),
        "a request alone before, median": Fact(idle, "ms"),
        "a request alone after, median": Fact(after, "ms", at_most=2 * idle),
        "load generator behind its schedule, p99": Fact(_lateness(tally), "ms"),
    }
    for program, peak_bytes in most.items():
        facts[f"memory of {program}, growth"] = Fact((peak_bytes - before[program]) / 2**20, "MiB", at_most=256)
    return Result(tally, (429, 504), facts)


def _texts(url: str) -> Iterator[Call]:
    """Requests for 32 texts of 400 words, and what the model says of each when it is asked alone, over and over."""
    words = (ROOT / "models" / "sentiment" / "1" / "vocabulary.txt").read_text(encoding="utf-8").split()[2:4000]
    draw = random.Random(3)
    found = []
    for _ in range(8):
        texts = [" ".join(draw.choices(words, k=400)) for _ in range(32)]
        alone = [httpx.post(url + _SENTIMENT, json={"instances": [text]}, timeout=30).json() for text in texts]
        right = [row for answer in alone for row in answer["predictions"]]
        body = json.dumps({"instances": texts}).encode()
        found.append(Call(path=_SENTIMENT, body=body, is_right=_near(right), timeout_ms=_DEADLINE_MS))
    return itertools.cycle(found)


def _near(right: list[list[float]]) -> Callable[[Any], bool]:
    def is_right(document: Any) -> bool:
        rows = document["predictions"]
        return len(rows) == len(right) and all(
            abs(a - b) < 1e-3
            for row, expected in zip(rows, right, strict=True)
            for a, b in zip(row, expected, strict=True)
        )

    return is_right


def _rate(outcomes: list[Outcome], seconds: float) -> float:
    """Requests per second, of those that ended in the last so many seconds."""
    last = max(outcome.ended for outcome in outcomes)
    return sum(outcome.ended > last - seconds for outcome in outcomes) / seconds


def _median_alone(parts: Parts, texts: Iterator[Call]) -> float:
    """The median latency in milliseconds of requests one after the other."""
    with Load(parts.addresses, texts, connections=1) as load:
        load.after(15)
    return percentile(load.tally.of("right"), 50)


def _asked_again(parts: Parts, texts: Iterator[Call], refused: list[Outcome]) -> list[bool]:
    """Whether each is answered when it comes again, once the load has ended, after the time that it was told."""
    answered = []
    for outcome in refused:
        _pass(max(0.0, outcome.ended + (outcome.retry_after_s or 0) - time.perf_counter()))
        call = next(texts)
        with httpx.Client(timeout=30) as client:
            headers = {"X-Request-Timeout-Ms": str(_DEADLINE_MS)}
            answered.append(client.post(parts.urls[0] + call.path, content=call.body, headers=headers).is_success)
    return answered


def _memory(parts: Parts) -> dict[str, int]:
    """Bytes in memory, by program."""
    assert parts.redis.process
    programs = {"API": parts.apis, "workers": parts.workers, "Redis": [parts.redis.process]}
    return {
        program: sum(
            each.memory_info().rss
            for process in processes
            for each in (psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True))
        )
        for program, processes in programs.items()
    }


@contextlib.contextmanager
def _watched(parts: Parts) -> Iterator[dict[str, int]]:
    """The most memory that each program had meanwhile."""
    most = _memory(parts)

    def look() -> None:
        most.update({program: max(most[program], now) for program, now in _memory(parts).items()})

    with _every(0.1, look):
        yield most


def _lateness(tally: Tally) -> float:
    late = sorted(outcome.late_s for outcome in tally.outcomes)
    return late[int(len(late) * 0.99)] * 1000


# The command

SCENARIOS: dict[str, Callable[[Path, int], Result]] = {
    scenario.__name__: scenario
    for scenario in (
        kill_worker,
        freeze_worker,
        stop_worker,
        stop_api,
        restart_redis,
        freeze_redis,
        cut_connections,
        poison,
        overload,
        callers,
    )
}


def main() -> int:
    """Run the scenarios that are named, print the tally; the exit status is 1 where anything is not as promised."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.chaos", description="Break the running stack; count what it costs."
    )
    parser.add_argument("scenarios", nargs="*", help=f"which ones (default all): {', '.join(SCENARIOS)}")
    parser.add_argument(
        "--requests", type=int, default=100_000, help="requests of `callers`; the others have a tenth each"
    )
    parser.add_argument("--out", type=Path, help="a folder for chaos.md and chaos.json")
    arguments = parser.parse_args()
    if unknown := set(arguments.scenarios) - SCENARIOS.keys():
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}")
    results: dict[str, Result] = {}
    for name in arguments.scenarios or SCENARIOS:
        requests = arguments.requests if name == "callers" else arguments.requests // 10
        print(f"{name}: {_first_line(SCENARIOS[name])}", flush=True)
        with tempfile.TemporaryDirectory(prefix="millrace-chaos-") as folder:
            results[name] = SCENARIOS[name](Path(folder), requests)
        for fact_name, fact in results[name].facts.items():
            print(f"    {fact_name}: {fact}{'' if fact.is_kept else '   <-- missed'}", flush=True)
        for reason, count in results[name].tally.reasons().most_common(5):
            print(f"    refused {count:,} x {reason}")
        for fault in results[name].faults():
            print(f"    FAULT {fault}", flush=True)
    table = _table(results)
    print(f"\n{table}")
    if arguments.out:
        _write(arguments.out, table, results)
    return 1 if any(result.faults() or result.missed() for result in results.values()) else 0


def _first_line(scenario: Callable[..., Result]) -> str:
    return " ".join((scenario.__doc__ or "").split())


def _row(name: str, tally: Tally) -> dict[str, Any]:
    kinds: tuple[Kind, ...] = ("right", "refused", "wrong", "lost", "hung")
    return {"scenario": name, "sent": tally.sent, **{kind: tally.counts[kind] for kind in kinds}}


def _table(results: dict[str, Result]) -> str:
    rows = [_row(name, result.tally) for name, result in results.items()]
    total = {key: sum(row[key] for row in rows) for key in rows[0] if key != "scenario"}
    lines = [
        "| scenario | sent | answered right | refused | wrong | lost | hung | refused with |",
        "| --- |" + " ---: |" * 6 + " --- |",
    ]
    for row, refusals in zip(rows, (result.tally.refusals() for result in results.values()), strict=True):
        words = ", ".join(f"{status}: {count:,}" for status, count in sorted(refusals.items()))
        lines.append("| " + " | ".join(_cell(value) for value in row.values()) + f" | {words} |")
    lines.append("| **all** | " + " | ".join(_cell(value) for value in total.values()) + " | |")
    return "\n".join(lines)


def _cell(value: str | int) -> str:
    return f"{value:,}" if isinstance(value, int) else value


def _write(folder: Path, table: str, results: dict[str, Result]) -> None:
    where = stamp()
    scenarios = {
        name: _row(name, result.tally)
        | {
            "refused_with": result.tally.reasons(),
            "faults": result.faults(),
            "facts": {
                fact: {"value": f.value, "unit": f.unit, "at_most": f.at_most, "at_least": f.at_least}
                for fact, f in result.facts.items()
            },
        }
        for name, result in results.items()
    }
    facts = [
        f"| {name} | {fact} | {value} |" for name, result in results.items() for fact, value in result.facts.items()
    ]
    folder.mkdir(parents=True, exist_ok=True)
    head = "\n".join(f"- {key}: {value}" for key, value in where.items())
    measured = "\n".join(["| scenario | what | measured (limit) |", "| --- | --- | --- |", *facts])
    (folder / "chaos.md").write_text(
        f"# What it cost to break it\n\n{head}\n\n{table}\n\n{measured}\n", encoding="utf-8"
    )
    (folder / "chaos.json").write_text(json.dumps(where | {"scenarios": scenarios}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
