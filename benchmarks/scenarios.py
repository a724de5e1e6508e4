"""What one small request cannot show: texts of mixed length, and a thousand rows in one request.

Both run on the three bundled models in one stack, as `make up` starts it, whose memory is read at the end.
"""

import http.client
import itertools
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks import cnn, load
from benchmarks.forms import FORMS, Connection, Floats, Refused, ask
from benchmarks.load import Target
from benchmarks.servers import Entry, Server

ROOT = Path(__file__).parent.parent
DIGITS = ROOT / "models/digits/1/model.onnx"
SHORTEST, LONGEST = 5, 400
ROWS = 1000
_TEXTS, _TEXT_CONNECTIONS = 128, 64
_SEED = 7
_SIDE = 28

STACK = Entry(
    name="bundled",
    folder=ROOT,
    programs=Path(sys.prefix) / "bin",
    start=["millrace up --port {port} --grpc-port {port2}"],
    env={},
    requests=[{"kind": "text", "url": "http://127.0.0.1:{port}/v1/models/sentiment:predict"}],
)


def run(stack: Entry, *, rounds: int, seconds: float, with_wrk: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """The results of all, by name. A part that the server refuses has `refused` with its words instead of figures."""
    with Server(stack, DIGITS) as server:
        server.wait_ready("a text")
        base = server.url({"url": "http://127.0.0.1:{port}"})
        results = {
            "texts": texts(base, rounds=rounds, seconds=seconds, with_wrk=with_wrk, say=say),
            "rows": rows(base, rounds=rounds, seconds=seconds, say=say),
        }
        memory = server.memory_mb()
    return results | {"memory_mb": {role: {"pss": pss, "rss": rss} for role, (pss, rss) in memory.items()}}


def texts(base: str, *, rounds: int, seconds: float, with_wrk: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Requests per second on texts of `SHORTEST` to `LONGEST` words, and on the same texts all of `LONGEST`.

    The logarithm of the length is uniform, so that short texts are frequent and long ones not rare. What is right is
    what the server answers to each text alone.
    """
    url, form = f"{base}/v1/models/sentiment:predict", FORMS["text"]
    mixed = _texts()
    targets = {}
    for name, items in (("mixed", mixed), ("padded", [_padded(text) for text in mixed])):
        expected = np.stack([ask(url, form, text) for text in items])
        targets[name] = Target(url=url, form=form, items=items, expected=expected, distinct=False)
    outcomes: dict[str, list[load.Outcome]] = {name: [] for name in targets}
    for _ in range(rounds):
        for name, target in targets.items():
            outcome = load.run(target, connections=_TEXT_CONNECTIONS, seconds=seconds, with_wrk=with_wrk)
            outcomes[name].append(outcome)
            say(f"texts, {name}: {outcome.requests / outcome.seconds:,.0f} req/s, p50 {outcome.p50_ms:.1f} ms")
    figures: dict[str, Any] = {name: _medians(of) for name, of in outcomes.items()}
    words = [len(text.split()) for text in mixed]
    figures["mean_words"] = statistics.mean(words)
    figures["connections"] = _TEXT_CONNECTIONS
    figures["best_possible_ratio"] = LONGEST / statistics.mean(words)
    figures["ratio"] = figures["mixed"]["requests_per_s"] / figures["padded"]["requests_per_s"]
    return figures


def _texts() -> list[str]:
    rng = np.random.default_rng(_SEED)
    lines = (ROOT / "models/sentiment/1/vocabulary.txt").read_text().split()
    vocabulary = [word for word in lines if word.isalpha()][:5000]
    lengths = np.exp(np.linspace(np.log(SHORTEST), np.log(LONGEST), _TEXTS)).round().astype(int)
    return [" ".join(rng.choice(vocabulary, length)) for length in rng.permutation(lengths)]


def _padded(text: str) -> str:
    words = text.split()
    return " ".join(["the"] * (LONGEST - len(words)) + words)


def _medians(outcomes: list[load.Outcome]) -> dict[str, float]:
    return {
        "requests_per_s": statistics.median(o.requests / o.seconds for o in outcomes),
        "p50_ms": statistics.median(o.p50_ms for o in outcomes),
        "p99_ms": statistics.median(o.p99_ms for o in outcomes),
        **{name: sum(getattr(o, name) for o in outcomes) for name in ("errors", "wrong", "checked", "paired")},
    }


def rows(base: str, *, rounds: int, seconds: float, say: Callable[[str], None]) -> dict[str, Any]:
    """Rows per second of `ROWS` digits in one binary request at a time, beside ONNX Runtime's on that batch.

    ONNX Runtime runs in this process while the stack is idle, on one thread and on all cores. Every answer's every row
    is compared with the scores of its image.
    """
    url, form = f"{base}/v2/models/digits/infer", FORMS["v2 binary"]
    images = np.stack([_strokes(seed)[..., None] for seed in range(ROWS)]).astype("f4")
    expected = cnn.scores(DIGITS, images)
    headers, body = form.encode(images)
    connection = Connection(url)
    wrong = checked = 0

    def through_api() -> None:
        nonlocal wrong, checked
        scores = form.decode(*connection.post(headers, body)).reshape(-1, expected.shape[1])
        checked += ROWS
        wrong += ROWS if scores.shape != expected.shape else _rows_apart(scores, expected)

    sessions = {"onnxruntime, all cores": cnn.session(DIGITS, 0), "onnxruntime, 1 thread": cnn.session(DIGITS, 1)}
    ways: dict[str, Callable[[], object]] = {"api": through_api} | {
        name: partial(session.run, None, {"image": images}) for name, session in sessions.items()
    }
    taken_s: dict[str, list[float]] = {name: [] for name in ways}
    try:
        for way in ways.values():
            way()  # the first is slower
        for _ in range(rounds):
            for name, way in ways.items():
                taken_s[name] += _timed(way, seconds / 2)
    except (Refused, OSError, http.client.HTTPException) as error:
        return {"refused": str(error)}
    finally:
        connection.close()
    per_s = {name: ROWS / statistics.median(times) for name, times in taken_s.items()}
    for name, figure in per_s.items():
        say(f"{ROWS} rows, {name}: {figure:,.0f} rows/s")
    return {
        "rows_per_s": per_s,
        "ratio": per_s["api"] / per_s["onnxruntime, all cores"],
        "ratio_to_one_thread": per_s["api"] / per_s["onnxruntime, 1 thread"],
        "checked": checked,
        "wrong": wrong,
    }


def _rows_apart(scores: Floats, expected: Floats) -> int:
    return int((np.abs(scores - expected).max(axis=1) > load.TOLERANCE).sum())


def _timed(way: Callable[[], object], seconds: float) -> list[float]:
    """How long each of several calls took, as many as that time has room for, and at least two."""
    taken: list[float] = []
    ends = time.perf_counter() + seconds
    while time.perf_counter() < ends or len(taken) < 2:
        started = time.perf_counter()
        way()
        taken.append(time.perf_counter() - started)
    return taken


def _strokes(seed: int) -> npt.NDArray[np.int64]:
    """A 28x28 image, 0 to 255, of three thick strokes: the same one for the same seed."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:_SIDE, :_SIDE]
    distance = np.full((_SIDE, _SIDE), np.inf)
    points = rng.uniform(6, 22, size=(4, 2))
    for start, end in itertools.pairwise(points):
        for t in np.linspace(0, 1, 20):
            py, px = start + t * (end - start)
            distance = np.minimum(distance, np.hypot(y - py, x - px))
    return np.rint(255 * np.clip(2.0 - distance, 0, 1)).astype(np.int64)
