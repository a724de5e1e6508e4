"""One model on several GPUs: a backend for each, behind one that shares the runs out among them."""

import dataclasses
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import cast

from millrace.protocol.tensors import Signature
from worker.backends.base import Arrays, Backend, Device, PreparesShapes

# What the runtimes that this project knows how to place are called.
_ON_GPUS = ("onnxruntime_onnx", "tensorflow_savedmodel")


class Replicas:
    """A backend that gives each run to the replica with the smallest share of its instances busy.

    Until `spread`, every run is done by all of them, so that the first runs warm up each one. `replicas` has each
    backend with how many instances are to run on it.
    """

    def __init__(self, replicas: Sequence[tuple[Backend, int]]) -> None:
        self._backends = [backend for backend, _ in replicas]
        self._instances = [instances for _, instances in replicas]
        self._busy = [0] * len(replicas)
        self._lock = threading.Lock()
        self._is_spread = False
        first = self._backends[0]
        self.platform = first.platform
        self.signatures: Mapping[str, Signature] = first.signatures
        self.notes = first.notes
        self.labels = first.labels
        self.mixed_rows = first.mixed_rows
        self.axes = first.axes
        self.keeps_state = first.keeps_state
        self.prepares_shapes = isinstance(first, PreparesShapes) and first.prepares_shapes

    @property
    def fault(self) -> str:
        """See `Backend`: the first fault of any replica."""
        return next(filter(None, (backend.fault for backend in self._backends)), "")

    def spread(self) -> None:
        """Share the runs out from now on."""
        self._is_spread = True

    def run(self, signature: str, inputs: Arrays) -> Arrays:
        """See `Backend`."""
        if not self._is_spread:
            first, *_ = [backend.run(signature, inputs) for backend in self._backends]
            return first
        chosen = self._take()
        try:
            return self._backends[chosen].run(signature, inputs)
        finally:
            with self._lock:
                self._busy[chosen] -= 1

    def _take(self) -> int:
        with self._lock:
            numbers = range(len(self._backends))
            chosen = min(numbers, key=lambda number: self._busy[number] / self._instances[number])
            self._busy[chosen] += 1
            return chosen

    def close(self) -> None:
        """See `Backend`."""
        for backend in self._backends:
            backend.close()


def load(make: Callable[[Device], Backend], device: Device, gpus: Sequence[int]) -> Backend:
    """What `make` loads on the device, or on the GPUs: there is a number for each instance.

    A model that keeps state, or runs code of its own, is loaded once, for the first of them. Raises `LoadError`.
    """
    counts = Counter(gpus)
    if not counts:
        return make(device)
    loaded: list[Backend] = []
    try:
        for gpu in counts:
            loaded.append(make(dataclasses.replace(device, gpu=gpu)))
            if loaded[0].keeps_state or loaded[0].platform not in _ON_GPUS:
                break
    except BaseException:
        for backend in loaded:
            backend.close()
        raise
    if len(loaded) == 1:
        return loaded[0]
    return cast(Backend, Replicas(list(zip(loaded, counts.values(), strict=True))))
