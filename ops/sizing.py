"""How many API processes and workers a stack has, and how that is said."""

import argparse
import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from millrace.machine import fitting_apis, fitting_workers, usable_cores, usable_memory

_INSTANCES, _THREADS = "MILLRACE_WORKER_INSTANCES", "MILLRACE_WORKER_THREADS"
_DEFAULTS = {_INSTANCES: 2, _THREADS: 1}  # the worker's own


class Sizes(NamedTuple):
    """The processes of a stack; `instances` and `threads` are those of each worker. `cores` are what it may use."""

    cores: int
    apis: int
    workers: int
    instances: int
    threads: int

    def __str__(self) -> str:
        each = f"{_counted(self.instances, 'instance')} a model, {_counted(self.threads, 'thread')} a run"
        parts = (_counted(self.apis, "API process", "es"), f"{_counted(self.workers, 'worker')} ({each})")
        return f"{_counted(self.cores, 'core')}: {', '.join(parts)}"


def sizes(options: argparse.Namespace, environ: Mapping[str, str], models: Path | str) -> Sizes:
    """What the options ask for, and where they leave it open what fits the machine.

    A device other than the CPU has one worker: it would hold every model once for each of them.
    """
    cores, memory_bytes = usable_cores(), usable_memory()
    instances, threads = (_number(environ, name) for name in (_INSTANCES, _THREADS))
    workers = options.workers or 1
    if not options.workers and options.device == "cpu":
        busy = instances * threads
        workers = fitting_workers(
            cores, memory_bytes, threads=busy, models_bytes=_size(models) if isinstance(models, Path) else 0
        )
    return Sizes(cores, options.apis or fitting_apis(cores, memory_bytes), workers, instances, threads)


def _number(environ: Mapping[str, str], name: str) -> int:
    with contextlib.suppress(ValueError):  # the worker itself refuses what is no number
        return max(1, int(environ.get(name, "")))
    return _DEFAULTS[name]


def _size(models: Path) -> int:
    """The bytes of all files there; what cannot be read counts nothing."""
    files = [models, *models.rglob("*")] if models.is_dir() else [models]
    size = 0
    for file in files:
        with contextlib.suppress(OSError):
            size += file.stat().st_size if file.is_file() else 0
    return size


def _counted(number: int, name: str, plural: str = "s") -> str:
    return f"{number} {name}{plural if number != 1 else ''}"
