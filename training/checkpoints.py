"""Checkpoints: what a training run needs to go on where it was ended, in one file that is replaced after every epoch.

The file is NumPy's `npz`: the values of the variables in their order, and beside them what was trained with what
(hyper-parameters, hashes of the data) and the epochs' metrics, as JSON. Nothing in it is executed when it is read.
"""

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_ABOUT = "about"


class CheckpointError(Exception):
    """A checkpoint cannot be read, or belongs to another training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The state after the last finished epoch. `origin` says what is trained with what: only the same can go on."""

    origin: Mapping[str, Any]
    history: Sequence[Mapping[str, float]]  # the metrics of each finished epoch
    values: Sequence[npt.NDArray[Any]]

    def write(self, path: Path) -> None:
        """Replace the file at once: whoever ends the run leaves the last checkpoint or this one."""
        about = json.dumps({"origin": self.origin, "history": self.history})
        arrays = {f"variable-{number}": value for number, value in enumerate(self.values)}
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, allow_pickle=False, **{_ABOUT: np.array(about)}, **arrays)
        partial.replace(path)


def read(path: Path) -> Checkpoint | None:
    """The checkpoint, None where there is none. Raises `CheckpointError` for a file that is no checkpoint."""
    if not path.exists():
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            about = json.loads(str(arrays[_ABOUT]))
            values = [arrays[f"variable-{number}"] for number in range(len(arrays.files) - 1)]
        return Checkpoint(origin=about["origin"], history=about["history"], values=values)
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} is not a checkpoint: {error}") from error


def check_origin(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raises `CheckpointError`, naming what differs, when the checkpoint was made with other settings or data."""
    if list(found) == list(wanted) and found == wanted:
        return
    names = [name for name in {**found, **wanted} if found.get(name) != wanted.get(name)]
    differences = ", ".join(f"{name} was {found.get(name)!r} and is {wanted.get(name)!r}" for name in names)
    raise CheckpointError(f"{path} belongs to another training: {differences}. Train without --resume to begin anew")
