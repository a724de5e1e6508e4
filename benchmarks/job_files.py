"""Does the memory of a job grow with its file? Ten million rows of CSV in, scored, and out again.

    .venv/bin/python -m benchmarks.job_files                            # minutes; 600 MB of disk for each million rows
    .venv/bin/python -m benchmarks.job_files --rows 1000000 --format parquet

Does what a job of the kind `score` does with files, by the same code: the index and the plan, the rows of each part as
a model's inputs, outputs as columns, a file for each part, and the result of all of them. The model is a sum, in the
same process: what a queue and workers cost is measured by others. Each step has a process of its own, as in a job, and
its peak is the kernel's count (VmHWM). Exits with 1 where a step took more than the limit, or a row is wrong.
"""

import argparse
import importlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa

from jobs import formats
from jobs.inputs import Inputs
from jobs.kinds import find
from jobs.outputs import error_column, output_columns
from jobs.parts import cut
from jobs.rows import Answer
from millrace.protocol.tensors import Signature, Tensor, TensorSpec

LIMIT_MB = 300
STEPS = ("make", "plan", "parts", "join", "check")
_PART_ROWS = 50_000
_INPUTS = tuple(TensorSpec(name=name, datatype="FP32", shape=(-1, 1)) for name in ("a", "b"))
_SIGNATURE = Signature(inputs=_INPUTS, outputs=(TensorSpec(name="sum", datatype="FP32", shape=(-1, 2)),))
_MOST_TOGETHER = 256


class Step(msgspec.Struct):
    """What one step took."""

    name: str
    seconds: float
    peak_mb: float


def main(argv: list[str] | None = None) -> int:
    """Run the steps, and print what each took."""
    options = _arguments(argv)
    if options.step:
        print(msgspec.json.encode(_run(options)).decode())
        return 0
    with tempfile.TemporaryDirectory(prefix="millrace-", dir=options.folder) as folder:
        steps = [_in_a_process(step, folder, options) for step in STEPS]
    measured = [step for step in steps if step.name in ("plan", "parts", "join")]
    for step in measured:
        rate = options.rows / step.seconds
        print(f"{step.name:<6} {step.seconds:8.1f} s {rate:12,.0f} rows/s   peak {step.peak_mb:6.0f} MB")
    peak = max(step.peak_mb for step in measured)
    print(f"{options.rows:,} rows of {options.format}: peak {peak:.0f} MB, the limit is {LIMIT_MB} MB")
    return 0 if peak <= LIMIT_MB else 1


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.job_files", description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=10_000_000, help="how many (%(default)s)")
    parser.add_argument("--format", choices=sorted(formats.SUFFIXES), default="csv", help="of both files (%(default)s)")
    parser.add_argument("--folder", type=Path, default=None, help="where the files are made")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def _in_a_process(step: str, folder: str, options: argparse.Namespace) -> Step:
    numbers = ("--rows", str(options.rows), "--format", options.format, "--folder", folder, "--step", step)
    command = [sys.executable, "-m", "benchmarks.job_files", *numbers]
    return msgspec.json.decode(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout, type=Step)


def _run(options: argparse.Namespace) -> Step:
    find("score")  # a jobs program has these in memory
    importlib.import_module("jobs.program")
    begin = time.perf_counter()
    {"make": _make, "plan": _plan, "parts": _parts, "join": _join, "check": _check}[options.step](options)
    return Step(options.step, time.perf_counter() - begin, _peak_mb())


def _peak_mb() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def _file(options: argparse.Namespace, name: str) -> Path:
    return Path(options.folder) / (name + formats.SUFFIXES[options.format])


def _part_files(options: argparse.Namespace) -> list[Path]:
    return [Path(options.folder) / f"part-{part.number}" for part in cut(options.rows, _PART_ROWS)]


def _rows(options: argparse.Namespace) -> Iterator[pa.RecordBatch]:
    for first in range(0, options.rows, _PART_ROWS):
        numbers = np.arange(first, min(first + _PART_ROWS, options.rows))
        texts = [f'row {n}, "quoted"' if n % 3 == 0 else f"row {n}" for n in numbers]
        yield pa.record_batch({"id": numbers, "text": texts, "a": numbers % 1000 / 8, "b": numbers % 7})


def _make(options: argparse.Namespace) -> None:
    parts = [Path(options.folder) / "made"]
    writer = formats.writer(parts[0], options.format)
    for batch in _rows(options):
        writer.write(batch)
    writer.close()
    formats.join(parts, _file(options, "in"), options.format)


def _reader(options: argparse.Namespace) -> formats.Reader:
    return formats.reader(_file(options, "in"), formats.Options(folder=Path(options.folder) / "index"))


def _plan(options: argparse.Namespace) -> None:
    assert _reader(options).row_count == options.rows


def _parts(options: argparse.Namespace) -> None:
    for part, path in zip(cut(options.rows, _PART_ROWS), _part_files(options), strict=True):
        writer = formats.writer(path, options.format)
        for batch in _reader(options).read(part.first, part.count):
            writer.write(_scored(batch))
        writer.close()


def _scored(batch: pa.RecordBatch) -> pa.RecordBatch:
    errors = formats.refused(batch)
    answers = []
    for block in Inputs(_SIGNATURE, {"a": "a", "b": "b"}, _MOST_TOGETHER).blocks(batch, errors):
        total = block.tensors["a"].to_numpy() + block.tensors["b"].to_numpy()
        answers.append(Answer(block.rows, {"sum": Tensor.from_numpy(np.concatenate([total, -total], axis=1))}))
    columns = {name: batch.column(name) for name in ("id", "text")}
    columns |= output_columns(_SIGNATURE, answers, batch.num_rows, {"sum": "sum"})
    return pa.record_batch(columns | {"error": error_column(errors, batch.num_rows)})


def _join(options: argparse.Namespace) -> None:
    formats.join(_part_files(options), _file(options, "out"), options.format)


def _check(options: argparse.Namespace) -> None:
    """Every row is there, in its place, with its sum. Raises `AssertionError`."""
    reader = formats.reader(_file(options, "out"), formats.Options())
    assert reader.row_count == options.rows, (reader.row_count, options.rows)
    first = 0
    for batch in reader.read(0, options.rows):
        numbers = np.arange(first, first + batch.num_rows)
        assert [int(each) for each in batch.column("id").to_pylist()] == numbers.tolist(), first
        sums = batch.column("sum")
        texts = sums.to_pylist() if pa.types.is_string(sums.type) else [str(list(each)) for each in sums.to_pylist()]
        found = [float(text.strip("[]").partition(",")[0]) for text in texts]
        assert found == (numbers % 1000 / 8 + numbers % 7).tolist(), first
        first += batch.num_rows


if __name__ == "__main__":
    sys.exit(main())
