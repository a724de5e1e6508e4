"""The seam between the worker and a runtime."""

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy.typing as npt

from millrace import devices
from millrace.artifacts.manifest import Batching
from millrace.protocol.errors import InvalidRequest
from millrace.protocol.errors import RowErrors as RowErrors
from millrace.protocol.tensors import Signature

Arrays = dict[str, npt.NDArray[Any]]


class LoadError(Exception):
    """The model cannot be loaded; the text says why and, where it can, what to do.

    `can_retry` says whether the same files may load later.
    """

    def __init__(self, text: str, *, can_retry: bool = False) -> None:
        super().__init__(text)
        self.can_retry = can_retry


def check_not_empty(inputs: Arrays, operators: Iterable[str], *, has_rows: bool) -> None:
    """Raise `InvalidRequest` for a tensor without elements, for these operators end the process on one.

    Without rows it is taken where `has_rows`.
    """
    for name, array in inputs.items():
        if 0 in array.shape[has_rows:]:
            raise InvalidRequest(
                f"input '{name}' is empty, and {', '.join(operators)} of this runtime takes no empty tensors"
            )


def ends_the_program(error: BaseException) -> bool:
    """Whether the error is the operator's Ctrl-C. Anything else that a model raises, `SystemExit` too, is its own."""
    return isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread()


@dataclass(frozen=True, slots=True)
class Device:
    """Where a model runs, and how many threads one run may use.

    `gpu` is the number of the GPU, None where the operator leaves the choice to the model's configuration; `memory_mb`
    is what a model may take of its memory, 0 where that is not limited. With `tf32` it may multiply FP32 numbers with
    ten bits behind the point, which is several times as fast.
    """

    kind: Literal["cpu", "cuda"] = "cpu"
    threads: int = 1
    gpu: int | None = None
    memory_mb: int = 0
    tf32: bool = True

    @classmethod
    def named(cls, name: str, threads: int = 1, memory_mb: int = 0, *, tf32: bool = True) -> "Device":
        """The device of that name (`millrace.devices`). Raises `ValueError` where no device is called so."""
        if name == "cpu":
            return cls("cpu", threads)
        return cls("cuda", threads, devices.gpu_of(name), memory_mb, tf32)

    @property
    def name(self) -> str:
        """Its name, as frameworks have it, too: `cpu`, `cuda`, `cuda:1`."""
        return self.kind if self.gpu is None else f"{self.kind}:{self.gpu}"


class Backend(Protocol):
    """A loaded model. `run` may be called from several threads at once.

    `platform` is the name that the Open Inference Protocol shows; `signatures` are read from the model's file, with -1
    where any size fits. `notes` are sentences for whoever uses the model: what of its file is left out or is special,
    and why. `labels` are the names of classes that the file holds. `mixed_rows` says, by signature, why the file itself
    shows that rows must not run together; a signature that is not there is judged by a trial. `axes` are the names of
    dimensions by tensor, "" where a dimension has none. `keeps_state` says why a run may change what later runs answer,
    "" where none does: such a model is not run before its first request, and its requests are not batched.
    """

    platform: str
    signatures: Mapping[str, Signature]
    notes: Sequence[str]
    labels: Sequence[str]
    mixed_rows: Mapping[str, str]
    axes: Mapping[str, Sequence[str]]
    keeps_state: str

    @property
    def fault(self) -> str:
        """Why the model cannot answer at present, "" where it can; asked at every heartbeat, so it must not wait."""

    def run(self, signature: str, inputs: Arrays) -> Arrays:
        """The outputs by name. BYTES are object arrays of `bytes`.

        Raises `InvalidRequest` where the runtime blames its inputs, `RowErrors` where it blames some rows and nothing
        was computed, and else whatever the runtime raises.
        """

    def close(self) -> None:
        """Give back what the model holds; called once, when nothing runs any more."""


@runtime_checkable
class SelfDescribed(Protocol):
    """A backend whose model says itself how its rows run: it is taken at its word, and run on nothing made up.

    `instances` is how many threads are to serve it. Its runs are told which requests they answer, by
    `worker.running.current`.
    """

    batching: Batching
    instances: int


@runtime_checkable
class PreparesShapes(Protocol):
    """A backend that may need long for a run whose shapes differ from those of the run before: `prepares_shapes`."""

    prepares_shapes: bool
