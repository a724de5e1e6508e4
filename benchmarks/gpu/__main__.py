"""What a GPU brings, on a machine that has one.

    make gpu                                       # about six minutes; results in benchmarks/results/gpu.{json,md}
    make gpu ARGS="--device cuda:1"
    make gpu ARGS="--device cpu --small"           # no GPU: shows that the measuring works, and measures nothing

What is missing (a GPU, TensorFlow, a library of CUDA) is said, and its part left out. Exits with 1 where an answer was
wrong or failed, with 2 where the device cannot be used at all.
"""

import argparse
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu import answers, limits, machine, networks, offline, report, stack
from benchmarks.gpu.stack import Load, Plan, Stack
from millrace import provenance
from millrace.commandline import device as device_name
from worker.backends import gpus
from worker.backends.base import Arrays, Device, LoadError
from worker.backends.onnx.providers import providers

ROOT = Path(__file__).parents[2]
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
_MAX_BATCH = 64
_ITEMS = 32
_CONNECTIONS = 256
_NETWORKS = {"texts": "INT64", "images": "UINT8", "float-images": "FP32"}


def main(argv: list[str] | None = None) -> int:
    """Measure, write, print."""
    options = _arguments(argv)
    device = Device.named(options.device, threads=os.cpu_count() or 1)
    stamp = provenance.stamp() | {"gpus": machine.gpus(), "cuda": machine.packages(), "device": device.name}
    try:
        gpus.check(device)
        providers(device)
    except LoadError as error:
        print(f"make gpu: {error}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="gpu-models-") as folder:
        bench = Bench(Path(folder), device, options)
        bench.run(options.parts.split(",") if options.parts else list(bench.parts))
    data = {"machine": stamp, "parts": bench.results, "missing": bench.missing}
    paths = report.write(data, options.out)
    print(paths[0].read_text())
    print("written:", *paths)
    return 1 if report.faults(data) else 0


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.partition("\n")[0])
    parser.add_argument("--device", type=device_name, default="cuda", help="cuda, cuda:N, or cpu (%(default)s)")
    parser.add_argument("--seconds", type=float, default=5, help="for one figure of the stack (%(default)s)")
    parser.add_argument("--small", action="store_true", help="small networks, to try the measuring itself")
    parser.add_argument("--parts", help="names, by commas; by default all: answers,sweep,transfers,stack,limits")
    parser.add_argument("--apis", type=int, default=max(1, min(4, (os.cpu_count() or 1) // 4)), help="API processes")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results", help="the folder for the results")
    return parser.parse_args(argv)


class Bench:
    """All parts, one after the other; one that fails says why in `missing` and takes no other with it."""

    def __init__(self, folder: Path, device: Device, options: argparse.Namespace) -> None:
        self.results: dict[str, Any] = {}
        self.missing: dict[str, str] = {}
        self._folder = folder
        self._device = device
        self._options = options
        self._side = 56 if options.small else 224
        self._most = 8 if options.small else _BATCHES[-1]
        self._networks = {name: self._written(name) for name in _NETWORKS}
        self.parts: dict[str, Callable[[], Any]] = {
            "answers": self._answers,
            "sweep": self._sweep,
            "transfers": self._transfers,
            "stack": self._stack,
            "limits": self._limits,
        }

    def run(self, names: list[str]) -> None:
        """Measure these parts."""
        for name in names:
            started = time.monotonic()
            try:
                self.results[name] = self.parts[name]()
            except Exception as error:
                traceback.print_exc()
                self.missing[name] = f"{type(error).__name__}: {error}"
            _say(f"{name}: {time.monotonic() - started:.0f} s")

    def _written(self, name: str) -> Path:
        path = self._folder / name / "1" / "model.onnx"
        if name == "texts":
            sizes = {"layers": 2, "width": 64, "heads": 4} if self._options.small else {}
            networks.write_encoder(path, **sizes)
        else:
            blocks = (1, 1, 1, 1) if self._options.small else (3, 4, 6, 3)
            networks.write_residual(path, is_bytes=name == "images", side=self._side, blocks=blocks)
        return path

    def _rows(self, name: str, count: int) -> Arrays:
        return networks.rows(name, count, self._side)

    def _answers(self) -> list[dict[str, Any]]:
        models = answers.bundled(ROOT / "models")
        models |= {name: (path.parent, self._rows(name, 4)) for name, path in self._networks.items()}
        found = []
        for each in answers.compare(models, self._device):
            _say(str(each))
            found.append(each)
        return found

    def _sweep(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name in ("texts", "images"):
            rows = self._rows(name, self._most)
            sizes = [size for size in _BATCHES if size <= self._most]
            found[name] = []
            for each in offline.sweep(self._networks[name], self._device, rows, sizes, self._options.seconds / 8):
                _say(f"{name}: {each}")
                found[name].append(each)
        if self._device.kind == "cuda":
            rows = self._rows("images", 32)
            sizes = [1, 3, 8, 32, 5, 30, 9, 17, 32]
            found["options"] = []
            for each in offline.variants(self._networks["images"], self._device, rows, sizes):
                _say(str(each))
                found["options"].append(each)
            found["precision"] = self._precision()
        return found

    def _precision(self) -> dict[str, Any]:
        found = {}
        for name in ("texts", "images"):
            rows = self._rows(name, 16)
            (expected,) = offline.session(self._networks[name], Device("cpu", os.cpu_count() or 1)).run(None, rows)
            found[name] = list(offline.precisions(self._networks[name], self._device, rows, expected, 0.5))
        return found

    def _transfers(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, sizes in (("texts", (1, 32)), ("images", (1, 32)), ("float-images", (1, 32))):
            for size in sizes:
                rows = self._rows(name, min(size, self._most))
                figures: dict[str, Any] = {"ways": offline.transfers(self._networks[name], self._device, rows, 0.6)}
                if self._device.kind == "cuda":
                    figures |= offline.copies(self._networks[name], self._device, rows, 0.3)
                _say(f"{name}, {size}: {figures}")
                found[f"{name}, {size} rows"] = figures
        return found

    # The stack

    def _asked(self, name: str, connections: int, rows: int = 1) -> Load:
        given = self._rows(name, _ITEMS)
        session = offline.session(self._networks[name], self._device)
        items = [{key: array[i : i + rows] for key, array in given.items()} for i in range(0, _ITEMS, rows)]
        expected = np.stack([session.run(None, item)[0].ravel() for item in items])
        processes = min(
            connections, 2 if self._options.small else 4 * self._options.apis // 2 or 1, os.cpu_count() or 1
        )
        return Load(
            model=name,
            datatype=_NETWORKS[name],
            items=items,
            expected=expected,
            connections=connections,
            processes=max(1, processes),
        )

    def _plan(self, **more: Any) -> Plan:
        return Plan(
            device=self._device.name, apis=self._options.apis, max_batch_size=min(_MAX_BATCH, self._most), **more
        )

    def _stack(self) -> list[dict[str, Any]]:
        loads = [
            self._asked("texts", 1),
            self._asked("texts", _CONNECTIONS),
            self._asked("texts", _CONNECTIONS // 8, rows=8),
            self._asked("images", 1),
            self._asked("images", _CONNECTIONS),
            self._asked("images", _CONNECTIONS // 8, rows=8),
            self._asked("float-images", _CONNECTIONS),
        ]
        found = []
        for instances in (2, 3):
            with Stack(self._folder, self._plan(instances=instances)) as running:
                ready_s = {name: running.wait_for(name) for name in self._networks}
                _say(f"ready: {ready_s}, GPU memory {machine.memory_mb(self._device.gpu or 0)} MB")
                for asked in loads:
                    if instances > 2 and asked.connections == 1:
                        continue
                    seconds = self._options.seconds if asked.connections > 1 else self._options.seconds / 2
                    each = {"instances": instances} | stack.measure(running, asked, seconds)
                    _say(str(each))
                    found.append(each)
                _say(f"log: {running.words()}")
                if instances == 2:
                    found[0]["ready_s"] = ready_s
                    found[0] |= stack.restart(running, loads[0])
        return found

    def _limits(self) -> list[dict[str, Any]]:
        return list(
            limits.checks(self._networks["images"], self._device, self._rows("images", self._most), self._folder)
        )


def _say(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
