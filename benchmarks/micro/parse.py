"""Reading one 28x28 image of nested JSON: simdjson's buffer beside general parsers, in alternating rounds.

    .venv/bin/python -m benchmarks.micro.parse

Prints microseconds a body, the median of the rounds, and the ratio to the fastest.
"""

import json
import statistics
import time
from collections.abc import Callable

import numpy as np
import orjson

from millrace.protocol.tensors import TensorSpec
from serving import jsontensors

ROUNDS, BODIES = 7, 1000
SPEC = TensorSpec(name="image", datatype="FP32", shape=(-1, 28, 28, 1))
IMAGE = np.random.default_rng(0).integers(0, 256, (1, 28, 28, 1)).tolist()
BODY = json.dumps({"instances": IMAGE}, separators=(",", ":")).encode()

WAYS: dict[str, Callable[[], object]] = {
    "fast_rows": lambda: jsontensors.fast_rows(BODY, SPEC),
    "orjson + asarray": lambda: np.asarray(orjson.loads(BODY)["instances"], np.float32),
    "json + asarray": lambda: np.asarray(json.loads(BODY)["instances"], np.float32),
    "to_tensor": lambda: jsontensors.to_tensor(jsontensors.load(BODY)["instances"], SPEC),
}


def main() -> None:
    """Run all ways in turn and print what they took."""
    taken: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(ROUNDS):
        for name, read in WAYS.items():
            started = time.perf_counter()
            for _ in range(BODIES):
                read()
            taken[name].append((time.perf_counter() - started) / BODIES * 1e6)
    medians = {name: statistics.median(rounds) for name, rounds in taken.items()}
    for name, median in medians.items():
        print(f"{name:>17}  {median:6.1f} µs  {median / min(medians.values()):5.1f} x")


if __name__ == "__main__":
    main()
