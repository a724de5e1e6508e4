"""The sentiment LSTM on texts of mixed length, grouped by length, beside the same texts all padded to the longest.

    .venv/bin/python -m benchmarks.micro.lengths

Both go through the worker's own batching, a take of 128 requests of one text each at a time, taking turns. The
texts are random words, as frequent as in text. Two mixes from 5 to 400 words: "even in ratio" (as many texts of 5 to
10 words as of 200 to 400) and "even in words". Prints texts per second, the median of the rounds, their ratio and the
largest ratio that there could be: longest by mean length. The second line includes turning text into ids, which costs
both the same.
"""

import functools
import itertools
import math
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from millrace.artifacts.vocabulary import Vocabulary
from millrace.broker.base import Delivery
from millrace.protocol.messages import RequestItem
from worker.backends.base import Arrays, Device
from worker.loading import model as models
from worker.loading.model import Model
from worker.running.batcher import form_batches
from worker.running.piece import Piece, TakenBlock

SHORTEST, LONGEST, TAKEN = 5, 400, 128
ROUNDS, TAKES = 9, 4
MIXES: dict[str, Callable[[random.Random], int]] = {
    "even in ratio": lambda rng: round(math.exp(rng.uniform(math.log(SHORTEST), math.log(LONGEST)))),
    "even in words": lambda rng: rng.randint(SHORTEST, LONGEST),
}


def piece(inputs: Arrays, length: int) -> Piece:
    """A request of one text, as the worker's loop hands it to the batcher."""
    block = TakenBlock(
        delivery=Delivery(b"", "normal", b"", 1),
        reply_to="",
        signature="serving_default",
        queue_ms=0.0,
        taken=0.0,
        unanswered=1,
    )
    return Piece(block=block, items=(RequestItem(1, "", 1, 0),), inputs=inputs, rows=1, length=length, due_ms=0)


def serve(model: Model, texts: Sequence[Arrays], *, padded_to: int = 0) -> tuple[float, float]:
    """Serve one take of texts: seconds that turning them into ids took, and that batching and the runs took."""
    started = time.perf_counter()
    rows = [model.preparation.before(text) for text in texts]
    prepared = time.perf_counter()
    if padded_to:
        rows = [{"ids": np.pad(row["ids"], ((0, 0), (0, padded_to - row["ids"].shape[-1])))} for row in rows]
    pieces = [piece(row, model.preparation.length(row)) for row in rows]
    batching = time.perf_counter()
    for batch in form_batches(pieces, model.batching.max_batch_size, model.preparation.may_pad, model.cost):
        joined = {"ids": model.preparation.join("ids", [piece.inputs["ids"] for piece in batch.pieces])}
        model.run("serving_default", joined, batch.rows)
    return prepared - started, time.perf_counter() - batching


def main() -> None:
    """Measure both mixes and print a table of each."""
    folder = Path("models/sentiment/1")
    model = models.load(folder, "sentiment", 1, device=Device(), backend="onnx", max_batch_size=32)
    words = [word for word in Vocabulary.read(folder / "vocabulary.txt").entries if word.isalpha()]
    cost = model.cost
    per_step, per_element = cost.step * 1000, cost.element * 1000
    print(f"a batch: {cost.batch:.3f} ms + {per_step:.2f} µs x longest + {per_element:.2f} µs x rows x longest")
    for mix, length in MIXES.items():
        rng = random.Random(1)
        lengths = [[length(rng) for _ in range(TAKEN)] for _ in range(TAKES)]
        takes = [[{"text": np.array([_text(rng, words, n)], object)} for n in take] for take in lengths]
        _show(mix, takes, model, LONGEST * TAKEN * TAKES / sum(map(sum, lengths)))


def _text(rng: random.Random, words: Sequence[str], length: int) -> bytes:
    """So many words, which come as often as in text: by Zipf's law, the vocabulary being in order of frequency."""
    return " ".join(rng.choices(words, cum_weights=_zipf(len(words)), k=length)).encode()


@functools.cache
def _zipf(words: int) -> list[float]:
    return list(itertools.accumulate(1 / rank for rank in range(1, words + 1)))


def _show(mix: str, takes: Sequence[Sequence[Arrays]], model: Model, bound: float) -> None:
    texts = sum(map(len, takes))
    kinds = {"grouped": 0, "all padded": LONGEST}
    runs: dict[str, list[float]] = {kind: [] for kind in kinds}
    whole: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(ROUNDS):
        taken = {kind: [0.0, 0.0] for kind in kinds}
        for take, (kind, padded_to) in itertools.product(takes, kinds.items()):
            prepared_s, run_s = serve(model, take, padded_to=padded_to)
            taken[kind][0] += run_s / texts
            taken[kind][1] += (prepared_s + run_s) / texts
        for kind, (run_s, whole_s) in taken.items():
            runs[kind].append(run_s)
            whole[kind].append(whole_s)
    print(f"\n{mix}: {SHORTEST} to {LONGEST} words, mean {LONGEST / bound:.0f}; no ratio can exceed {bound:.2f}")
    for title, seconds in (("batching and runs", runs), ("with text to ids", whole)):
        rates = {kind: 1 / statistics.median(values) for kind, values in seconds.items()}
        shown = "   ".join(f"{kind} {rate:7,.0f} texts/s" for kind, rate in rates.items())
        print(f"  {title:18} {shown}   ratio {rates['grouped'] / rates['all padded']:.2f}")


if __name__ == "__main__":
    main()
