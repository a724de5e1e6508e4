"""The files beside an ONNX model that hold its weights: none outside of the version's folder, and each a copy.

ONNX Runtime maps such files into memory and runs on what is there: a file that is cut short meanwhile ends the process
with SIGBUS, and one that is overwritten changes the model. So it gets copies that nobody else can reach. Only while a
session is made do they take space of their own: on the disk (a file without a name), or in memory where no file can be
made. A copy for weights in subgraphs stays on the disk for as long as the session.
"""

import contextlib
import mmap
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from worker.backends.base import LoadError
from worker.backends.texts import place, public

_SMALL = 512 * 2**20  # bytes of a file that is copied into memory


def paths(folder: Path, model: str, names: Iterable[str]) -> dict[str, Path]:
    """Where the files are, by the names that the model has for them. Raises `LoadError` for what must not be read."""
    found = {}
    for name in sorted(names):
        path = folder / name
        where = f"{place(folder, model)} has weights in {name!r}"
        if not path.resolve().is_relative_to(folder.resolve()):
            raise LoadError(f"{where}, which is outside of the version's folder: copy the file into the folder")
        if not path.is_file():
            raise LoadError(f"{where}, which is not there: copy the file into the folder, beside {model}")
        found[name] = path
    return found


@contextlib.contextmanager
def copied(files: dict[str, Path], folder: Path, *, small_bytes: int = _SMALL) -> Iterator[dict[str, Any]]:
    """A copy of each file's content, as long as the block lasts: in memory up to `small_bytes`. Raises `LoadError`."""
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(_copy(path, folder, small_bytes)) for name, path in files.items()}


@contextlib.contextmanager
def copied_folder(model: Path, files: dict[str, Path], addition: bytes) -> Iterator[Path]:
    """The model's file, with the addition behind it, and its data files in a folder that lasts as long as the block.

    What was mapped into memory meanwhile stays there.
    """
    with tempfile.TemporaryDirectory(prefix="millrace-onnx-") as folder:
        try:
            for name, path in {model.name: model, **files}.items():
                copy = Path(folder) / name
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)
            with (Path(folder) / model.name).open("ab") as file:
                file.write(addition)
        except OSError as error:
            raise LoadError(f"{place(model.parent)}: {public(str(error), model.parent)}", can_retry=True) from error
        yield Path(folder) / model.name


@contextlib.contextmanager
def _copy(path: Path, folder: Path, small_bytes: int) -> Iterator[Any]:
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            copy = _in_memory(file, size) if size <= small_bytes else _on_disk(file, size)
    except OSError as error:
        raise LoadError(f"{place(folder)}: {public(str(error), folder)}", can_retry=True) from error
    try:
        yield copy
    finally:
        copy.close()


def _on_disk(file: BinaryIO, size: int) -> mmap.mmap:
    try:
        with tempfile.TemporaryFile(prefix="millrace-onnx-") as copy:
            shutil.copyfileobj(file, copy, 2**20)
            copy.flush()
            _check_size(copy.tell(), size)
            return mmap.mmap(copy.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError:  # no disk to write to, or a full one
        file.seek(0)
        return _in_memory(file, size)


def _in_memory(file: BinaryIO, size: int) -> mmap.mmap:
    copy = mmap.mmap(-1, max(1, size))
    _check_size(file.readinto(copy), size)  # type: ignore[attr-defined]  # of a buffered reader
    return copy


def _check_size(copied: int, size: int) -> None:
    if copied != size:
        raise OSError(f"a data file of {size} bytes changed while it was copied")
