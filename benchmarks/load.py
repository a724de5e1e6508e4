"""Closed-loop load on one URL, every answer checked: by wrk and a checker beside it, or without wrk by ourselves."""

import asyncio
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.forms import Floats, Form

TOLERANCE = 1e-3  # a batch of another size may add the same floats in another order
_CHECKER_CONNECTIONS, _CHECKER_PER_S = 2, 100
_TIMEOUT_S = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is asked, and the answers that are right: `expected` has a row of scores for each item.

    With `distinct`, no two items have the same scores within the tolerance.
    """

    url: str
    form: Form
    items: Sequence[Any]
    expected: Floats
    distinct: bool = True
    tolerance: float = TOLERANCE

    def half(self, number: int) -> "Target":
        """Every other item, from the first or the second on."""
        chosen = slice(number, None, 2)
        return Target(
            url=self.url,
            form=self.form,
            items=self.items[chosen],
            expected=self.expected[chosen],
            distinct=self.distinct,
            tolerance=self.tolerance,
        )


@dataclass(slots=True, kw_only=True)
class Outcome:
    """A run's figures. `checked` counts the answers compared with their expected scores, `wrong` those that differ.

    `paired` of them are known to be the answer to a certain request; wrk's others only to be one of those on their way.
    """

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    errors: int
    checked: int
    paired: int
    wrong: int
    faults: list[str] = field(default_factory=list)


def has_wrk() -> bool:
    """Whether wrk is installed."""
    return shutil.which("wrk") is not None


def run(target: Target, *, connections: int, seconds: float, with_wrk: bool) -> Outcome:
    """Ask on that many connections, each one request at a time, for that long.

    Beside wrk with several connections, a checker asks for other items on two more, 100 times a second in all; its
    requests are part of the outcome's `requests`, `errors`, `checked` and `wrong`, and not of its latencies.
    """
    if not with_wrk:
        return asyncio.run(generate(target, connections=connections, seconds=seconds))
    if connections == 1:
        return _wrk(target, 1, seconds)
    checked: list[Outcome] = []
    checker = threading.Thread(
        target=lambda: checked.append(
            asyncio.run(
                generate(target.half(1), connections=_CHECKER_CONNECTIONS, seconds=seconds, per_s=_CHECKER_PER_S)
            )
        )
    )
    checker.start()
    try:
        outcome = _wrk(target.half(0), connections, seconds)
    finally:
        checker.join()
    for name in ("requests", "errors", "checked", "paired", "wrong", "faults"):
        setattr(outcome, name, getattr(outcome, name) + getattr(checked[0], name))
    return outcome


def _wrk(target: Target, connections: int, seconds: float) -> Outcome:
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(_lua(target, connections == 1))
        file.flush()
        script = Path(__file__).with_name("wrk.lua")
        length = f"{max(1, round(seconds))}s"  # it takes whole seconds
        command = [
            "wrk",
            "-t1",
            f"-c{connections}",
            f"-d{length}",
            f"--timeout={_TIMEOUT_S}s",
            "-s",
            str(script),
            target.url,
        ]
        env = os.environ | {"BENCH_DATA": file.name}
        printed = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    figures = json.loads(printed.strip().splitlines()[-1])
    paired = figures["checked"] if connections == 1 else 0
    return Outcome(**figures, paired=paired)


def _lua(target: Target, is_alone: bool) -> str:
    """The data of wrk.lua, as a Lua table."""

    def quoted(text: bytes) -> str:
        return '"' + "".join(f"\\{byte:03d}" for byte in text) + '"'

    encoded = [target.form.encode(item) for item in target.items]
    lengths = {tuple(headers.items()) for headers, _ in encoded}
    if len(lengths) != 1:
        raise ValueError("the items' headers differ, and wrk.lua has one set for all")
    headers = ",".join(f"[{quoted(k.encode())}]={quoted(v.encode())}" for k, v in encoded[0][0].items())
    bodies = ",".join(quoted(body) for _, body in encoded)
    expected = ",".join("{" + ",".join(repr(float(v)) for v in row) + "}" for row in target.expected)
    flags = f"alone={str(is_alone).lower()},distinct={str(target.distinct).lower()},tolerance={target.tolerance}"
    marker = quoted(target.form.marker.encode())
    return f"return {{marker={marker},headers={{{headers}}},bodies={{{bodies}}},expected={{{expected}}},{flags}}}"


async def generate(target: Target, *, connections: int, seconds: float, per_s: float | None = None) -> Outcome:
    """The load without wrk. Every answer is paired with its request.

    With `per_s`, so many requests are due a second, evenly, and a latency counts from when its request was due.
    """
    parts = urllib.parse.urlsplit(target.url)
    encoded = [target.form.encode(item) for item in target.items]
    messages = [_message(parts, headers, body) for headers, body in encoded]
    numbers = itertools.cycle(range(len(messages)))
    outcome = Outcome(requests=0, seconds=0, p50_ms=0, p99_ms=0, max_ms=0, errors=0, checked=0, paired=0, wrong=0)
    taken_ms: list[float] = []
    started = time.perf_counter()
    ends = started + seconds

    async def one(connection: int) -> None:
        link = _Link(parts.hostname or "", parts.port or 80)
        due = started + (connection / per_s if per_s else 0)
        while (now := time.perf_counter()) < ends:
            if due > now:
                await asyncio.sleep(due - now)
            number = next(numbers)
            asked = due if per_s else time.perf_counter()
            try:
                async with asyncio.timeout(_TIMEOUT_S):
                    status, headers, body = await link.exchange(messages[number])
            except (OSError, EOFError, ValueError) as error:
                _note(outcome, "errors", f"{type(error).__name__}: {error}")
                link.close()
                await asyncio.sleep(0.01)
                continue
            taken_ms.append((time.perf_counter() - asked) * 1000)
            outcome.requests += 1
            if status != 200:
                _note(outcome, "errors", f"HTTP {status}: {body[:200]!r}")
            elif not _is_right(target, number, headers, body):
                _note(outcome, "wrong", f"not the answer to item {number}: {body[:200]!r}")
            outcome.checked += status == 200
            if per_s:
                due += connections / per_s
        link.close()

    await asyncio.gather(*(one(connection) for connection in range(connections)))
    outcome.paired = outcome.checked
    outcome.seconds = time.perf_counter() - started
    if taken_ms:
        outcome.p50_ms, outcome.p99_ms, outcome.max_ms = (float(v) for v in np.percentile(taken_ms, [50, 99, 100]))
    return outcome


def _note(outcome: Outcome, kind: str, text: str) -> None:
    setattr(outcome, kind, getattr(outcome, kind) + 1)
    if len(outcome.faults) < 5:
        outcome.faults.append(text)


def _is_right(target: Target, number: int, headers: dict[str, str], body: bytes) -> bool:
    try:
        scores = target.form.decode(headers, body)
    except (ValueError, KeyError, IndexError, TypeError):
        return False
    expected = target.expected[number]
    return scores.shape == expected.shape and bool(np.abs(scores - expected).max() <= target.tolerance)


def _message(parts: urllib.parse.SplitResult, headers: dict[str, str], body: bytes) -> bytes:
    lines = [f"POST {parts.path} HTTP/1.1", f"Host: {parts.netloc}", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, *(f"{k}: {v}" for k, v in headers.items()), "", ""]).encode() + body


class _Link:
    """A connection that is made when it is needed, and made again when the server closed it."""

    def __init__(self, host: str, port: int) -> None:
        self._address = host, port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def exchange(self, message: bytes) -> tuple[int, dict[str, str], bytes]:
        """Status, headers by their names in lower case, and body. Raises `OSError`, `EOFError`, `ValueError`."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self._address)
        reader, writer = self._streams
        writer.write(message)
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        if "content-length" not in headers:
            raise ValueError("the answer has no Content-Length")
        body = await reader.readexactly(int(headers["content-length"]))
        if headers.get("connection", "").lower() == "close":
            self.close()
        return int(first.split()[1]), headers, body

    def close(self) -> None:
        """Disconnect."""
        if self._streams:
            self._streams[1].close()
            self._streams = None
