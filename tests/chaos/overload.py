"""Three times more requests than the model can compute."""

import contextlib
import itertools
import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.chaos.accounting import Fact, Result
from tests.chaos.faults import every
from tests.chaos.stack import pass_for
from tests.support.load import Call, Load, Outcome, Tally, percentile
from tests.support.running import ROOT, Parts

_DEADLINE_MS = 1_000

_SENTIMENT = "/v1/models/sentiment:predict"


def overload(folder: Path, requests: int, slower: int = 1) -> Result:
    """The LSTM, 32 texts of 400 words a request: its peak in a closed loop, then three times that on a schedule.

    `slower` makes texts and deadlines so many times longer, as on a slower machine.
    """
    deadline_ms = slower * _DEADLINE_MS
    (folder / "models").mkdir()
    (folder / "models" / "sentiment").symlink_to(ROOT / "models" / "sentiment")
    with Parts(folder, folder / "models") as parts:
        texts = _texts(parts.urls[0], slower)
        seconds = max(4.0, requests / 1000)
        idle = _median_alone(parts, texts)
        with Load(parts.addresses, texts, connections=16) as closed:
            closed.after(16)
            pass_for(seconds)
        peak = _rate(closed.tally.of("right"), seconds)
        before = _memory(_programs(parts))
        with Load(parts.addresses, texts, rate=3 * peak) as load, _watched(parts) as most:
            pass_for(seconds + 1)
        again = _asked_again(parts, texts, [o for o in load.tally.of("refused") if o.status == 429][-8:], deadline_ms)
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
        "Retry-After, at most": Fact(told_s, "s", at_most=2 * deadline_ms / 1000),
        "came again when told, and were refused": Fact(len(again) - sum(again), at_most=0),
        "accepted, p99": Fact(percentile(accepted, 99), "ms", at_most=deadline_ms),
        "accepted, and not answered in time": Fact(100 * len(too_late) / len(accepted), "%", at_most=1),
        "a request alone before, median": Fact(idle, "ms"),
        "a request alone after, median": Fact(after, "ms", at_most=2 * idle),
        "load generator behind its schedule, p99": Fact(_lateness(tally), "ms"),
    }
    for program, peak_bytes in most.items():
        facts[f"memory of {program}, growth"] = Fact((peak_bytes - before[program]) / 2**20, "MiB", at_most=256)
    return Result(tally, (429, 504), facts)


def _texts(url: str, slower: int) -> Iterator[Call]:
    """Requests for 32 texts of 400 words, and what the model says of each when it is asked alone, over and over."""
    words = (ROOT / "models" / "sentiment" / "1" / "vocabulary.txt").read_text(encoding="utf-8").split()[2:4000]
    draw = random.Random(3)
    found = []
    for _ in range(8):
        texts = [" ".join(draw.choices(words, k=slower * 400)) for _ in range(32)]
        alone = [httpx.post(url + _SENTIMENT, json={"instances": [text]}, timeout=30).json() for text in texts]
        right = [row for answer in alone for row in answer["predictions"]]
        body = json.dumps({"instances": texts}).encode()
        found.append(Call(path=_SENTIMENT, body=body, is_right=_near(right), timeout_ms=slower * _DEADLINE_MS))
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


def _asked_again(parts: Parts, texts: Iterator[Call], refused: list[Outcome], timeout_ms: int) -> list[bool]:
    """Whether each is answered when it comes again, once the load has ended, after the time that it was told."""
    answered = []
    for outcome in refused:
        pass_for(max(0.0, outcome.ended + (outcome.retry_after_s or 0) - time.perf_counter()))
        call = next(texts)
        with httpx.Client(timeout=30) as client:
            headers = {"X-Request-Timeout-Ms": str(timeout_ms)}
            answered.append(client.post(parts.urls[0] + call.path, content=call.body, headers=headers).is_success)
    return answered


def _programs(parts: Parts) -> dict[str, list[psutil.Process]]:
    """The processes of each program, children too; to find them takes long, so they are found once."""
    assert parts.redis.process
    programs = {"API": parts.apis, "workers": parts.workers, "Redis": [parts.redis.process]}
    return {
        program: [
            each
            for process in processes
            for each in (psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True))
        ]
        for program, processes in programs.items()
    }


def _memory(programs: dict[str, list[psutil.Process]]) -> dict[str, int]:
    """Bytes in memory, by program."""
    return {program: sum(each.memory_info().rss for each in processes) for program, processes in programs.items()}


@contextlib.contextmanager
def _watched(parts: Parts) -> Iterator[dict[str, int]]:
    """The most memory that each program had meanwhile."""
    programs = _programs(parts)
    most = _memory(programs)

    def look() -> None:
        most.update({program: max(most[program], now) for program, now in _memory(programs).items()})

    with every(0.1, look):
        yield most


def _lateness(tally: Tally) -> float:
    late = sorted(outcome.late_s for outcome in tally.outcomes)
    return late[int(len(late) * 0.99)] * 1000
