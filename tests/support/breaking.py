"""A format for tests whose models double `x` [-1, 1], and break in a way of their own when they are asked to.

Model processes that have `breaking_format` among their modules know it.
"""

import ctypes
import mmap
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from millrace.protocol.tensors import Signature, TensorSpec
from worker.backends.base import Arrays, Device

FILE = "breaking.txt"
EXITS, RAISES, LEAVES, CRASHES, EATS, HIDES, LOOPS, GRABS = range(1001, 1009)
GRABBED_S = 3
_SPEC: Any = {"datatype": "FP32", "shape": (-1, 1)}


class _Ends(BaseException):
    pass


def _eats() -> None:
    """Takes memory until there is none."""
    kept = []
    while True:
        kept.append(np.ones(4_000_000))


def _hides() -> None:
    """Takes memory that no limit of the process counts, and keeps it."""
    hidden = mmap.mmap(-1, 400_000_000)
    for first in range(0, len(hidden), mmap.PAGESIZE):
        hidden[first] = 1
    while True:
        time.sleep(0.1)


def _loops() -> None:
    while True:
        pass


def _raises() -> None:
    raise _Ends("enough")


# PyDLL does not let go of the interpreter while C runs.
_BREAKS: dict[int, Any] = {
    EXITS: lambda: sys.exit("bye"),
    RAISES: _raises,
    LEAVES: lambda: os._exit(3),
    CRASHES: lambda: ctypes.string_at(0),
    EATS: _eats,
    HIDES: _hides,
    LOOPS: _loops,
    GRABS: lambda: ctypes.PyDLL(None).usleep(GRABBED_S * 1_000_000),
}


class BreakingBackend:
    """See the module."""

    platform = "breaking"
    fault = ""
    notes: Sequence[str] = ()
    labels: Sequence[str] = ()
    mixed_rows: Mapping[str, str] = {}
    axes: Mapping[str, Sequence[str]] = {}
    keeps_state = ""

    def __init__(self, first_run: str = "") -> None:
        self._first_run = int(first_run or 0)
        inputs, outputs = (TensorSpec(name="x", **_SPEC),), (TensorSpec(name="y", **_SPEC),)
        self.signatures = {"serving_default": Signature(inputs=inputs, outputs=outputs)}

    def run(self, signature: str, inputs: Arrays) -> Arrays:
        """See `Backend`."""
        for value in inputs["x"].ravel():
            if self._first_run and value != int(value):  # no caller of these tests sends such numbers
                _BREAKS[self._first_run]()
            if value in _BREAKS:
                _BREAKS[value]()
        return {"y": inputs["x"] * 2}

    def close(self) -> None:
        """See `Backend`."""


def load(folder: Path, device: Device) -> BreakingBackend:
    """The model; it breaks while it is loaded, or in its first runs, where its file says how."""
    while_loaded, _, first_run = (folder / FILE).read_text().partition("/")
    if while_loaded:
        _BREAKS[int(while_loaded)]()
    return BreakingBackend(first_run)


def make(root: Path, name: str, how: str = "", first_run: str = "") -> None:
    """Put version 1 of such a model into a repository; how it breaks while it is loaded, or in its first runs."""
    folder = root / name / "1"
    folder.mkdir(parents=True)
    (folder / FILE).write_text(f"{how}/{first_run}")
