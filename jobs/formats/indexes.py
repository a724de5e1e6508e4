"""An index, kept in the folder of its job: made by whoever needs it first, and never for a file that has changed."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jobs.formats.base import Options
from jobs.formats.lines import Index
from millrace.protocol.errors import InvalidRequest

Made = tuple[Index, Mapping[str, Any]]


def indexed(path: Path, options: Options, make: Callable[[], Made]) -> Made:
    """The index with the arrays that go with it. Raises `InvalidRequest` where the file is another one by now."""
    if options.folder is None:
        return make()
    kept = options.folder / "index.npz"
    if not kept.exists():
        _write(kept, make())
    with np.load(kept, allow_pickle=False) as arrays:
        found = {name: arrays[name] for name in arrays.files}
    size, changed_ns = (int(each) for each in found.pop("stamp"))
    check_same(path, size, changed_ns)
    return Index(found.pop("rows"), found.pop("offsets"), size, changed_ns), found


def check_same(path: Path, size: int, changed_ns: int) -> None:
    """Raises `InvalidRequest` for a file that was written to since then; a folder's index has the names that count."""
    stat = path.stat()
    if path.is_file() and (stat.st_size, stat.st_mtime_ns) != (size, changed_ns):
        raise InvalidRequest(f"input: {path.name} was changed while the job ran")


def _write(kept: Path, made: Made) -> None:
    index, others = made
    kept.parent.mkdir(parents=True, exist_ok=True)
    writing = kept.with_name(f".{os.getpid()}.npz")
    stamp = np.array([index.size, index.changed_ns], np.int64)
    np.savez(writing, **{"stamp": stamp, "rows": index.rows, "offsets": index.offsets, **others})
    writing.replace(kept)
