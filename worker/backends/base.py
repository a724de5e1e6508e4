"""The seam between the worker and a runtime."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy.typing as npt

from millrace.protocol.tensors import Signature

Arrays = dict[str, npt.NDArray[Any]]


class LoadError(Exception):
    """The model cannot be loaded; the text says why and, where it can, what to do.

    `can_retry` says whether the same files may load later.
    """

    def __init__(self, text: str, *, can_retry: bool = False) -> None:
        super().__init__(text)
        self.can_retry = can_retry


@dataclass(frozen=True, slots=True)
class Device:
    """Where a model runs, and how many threads one run may use."""

    kind: Literal["cpu", "cuda"] = "cpu"
    threads: int = 1


class Backend(Protocol):
    """A loaded model. `run` may be called from several threads at once.

    `platform` is the name that the Open Inference Protocol shows; `signatures` are read from the model's file, with -1
    where any size fits.
    """

    platform: str
    signatures: Mapping[str, Signature]

    @property
    def fault(self) -> str:
        """Why the model cannot answer at present, "" where it can; asked at every heartbeat, so it must not wait."""

    def run(self, signature: str, inputs: Arrays) -> Arrays:
        """The outputs by name. BYTES are object arrays of `bytes`. Raises whatever the runtime raises."""

    def close(self) -> None:
        """Give back what the model holds; called once, when nothing runs any more."""
