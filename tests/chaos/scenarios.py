"""Each scenario puts load on a stack, breaks something, and mends it."""

import signal
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import redis

from millrace.broker.keys import GROUP
from tests.chaos.accounting import Fact, Result
from tests.chaos.calls import ask, calls
from tests.chaos.faults import kill_and_wait, revived, stopped
from tests.chaos.stack import QUEUE, exact_stack, pass_for
from tests.support import exact
from tests.support.load import Load, Tally
from tests.support.running import freeze, thaw


def kill_worker(folder: Path, requests: int) -> Result:
    """SIGKILL to one of two workers in the middle of a batch, again and again."""
    hits: list[float] = []
    with exact_stack(folder, batch_s=0.03) as parts, Load(parts.addresses, calls(), least=requests) as load:
        wanted = max(2, requests // 2500)
        for turn in range(4 * wanted):
            if len(hits) == wanted:
                break
            load.after(100)
            taken_s = kill_and_wait(parts, turn % 2)
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


def freeze_worker(folder: Path, requests: int) -> Result:
    """SIGSTOP to a worker and its models in the middle of a batch; they come back, with answers that others gave."""
    with exact_stack(folder, batch_s=0.03) as parts, Load(parts.addresses, calls(), least=requests) as load:
        for turn in range(max(1, requests // 5000)):
            load.after(100)
            freeze(parts.workers[turn % 2].pid)
            pass_for(4.0)
            thaw(parts.workers[turn % 2].pid)
            load.after(100)
            parts.until_ready()
    return Result(load.tally, facts={"times": Fact(turn + 1)})


def stop_worker(folder: Path, requests: int) -> Result:
    """SIGTERM to one of two workers under load, in turn."""
    took: list[float] = []
    with exact_stack(folder, batch_s=0.01) as parts, Load(parts.addresses, calls(), least=requests) as load:
        for turn in range(max(2, requests // 2500)):
            load.after(100)
            took.append(stopped(parts.workers[turn % 2]))
            load.after(100)
            parts.until_ready()  # the one that left is forgotten
            parts.restart_worker(turn % 2)
            parts.until_ready()
    facts = {"stops": Fact(len(took)), "until it has left, at most": Fact(max(took), "s")}
    return Result(load.tally, facts=facts)


def stop_api(folder: Path, requests: int) -> Result:
    """SIGTERM to one of two API processes under load, in turn. Callers go to the other one when theirs is closed."""
    took: list[float] = []
    with (
        exact_stack(folder, apis=2, batch_s=0.01) as parts,
        Load(parts.addresses, calls(), least=requests, moves=True) as load,
    ):
        for turn in range(max(2, requests // 2500)):
            load.after(200)
            took.append(stopped(parts.apis[turn % 2]))
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
    with exact_stack(folder) as parts, Load(parts.addresses, calls((5_000,)), least=requests) as load:
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
            groups = [group["name"].decode() for group in client.xinfo_groups(QUEUE.requests("normal"))]
        assert groups == [GROUP], groups
    return Result(load.tally, (503, 504), _recovery(load.tally, back))


def freeze_redis(folder: Path, requests: int) -> Result:
    """Redis stands still for 3 seconds; half of the requests can wait that long, the others' deadline is 1 second."""
    back: list[float] = []
    with exact_stack(folder) as parts, Load(parts.addresses, calls((10_000, 1_000)), least=requests) as load:
        for _ in range(max(1, requests // 5000)):
            load.after(200)
            assert parts.redis.process
            parts.redis.process.send_signal(signal.SIGSTOP)
            pass_for(3.0)
            parts.redis.process.send_signal(signal.SIGCONT)
            started = time.monotonic()
            load.after(1)
            back.append(time.monotonic() - started)
            load.after(200)
    return Result(load.tally, (503, 504), _recovery(load.tally, back))


def cut_connections(folder: Path, requests: int) -> Result:
    """Redis closes every connection, again and again."""
    back: list[float] = []
    with exact_stack(folder) as parts, Load(parts.addresses, calls((5_000,)), least=requests) as load:
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
        exact_stack(folder, workers=3) as parts,
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
            dead = client.xlen(QUEUE.dead)
    statuses = [status for status, _, _ in stated]
    assert statuses == [400, 500, 504, 500][: len(poisons)] * (len(stated) // len(poisons)), stated
    facts = {
        "requests that broke the model": Fact(len(stated)),
        "workers that died of them": Fact(len(deaths), at_most=0),
        "dead letters": Fact(dead, at_most=0),
        "until the slow one's caller has its 504, at most": Fact(max(s for code, _, s in stated if code == 504), "s"),
        "until the one that kills has its 500, at most": Fact(max(s for _, _, s in stated), "s"),
    }
    return Result(load.tally, facts=facts)


def callers(folder: Path, requests: int) -> Result:
    """Two API processes and three workers: every answer must be its own caller's."""
    with exact_stack(folder, apis=2, workers=3) as parts:
        started = time.perf_counter()
        with Load(parts.addresses, calls(), connections=64, least=requests) as load:
            pass
        seconds = time.perf_counter() - started
    rate = Fact(load.tally.counts["right"] / seconds, "requests/s, checked")
    return Result(load.tally, facts={"rate": rate})
