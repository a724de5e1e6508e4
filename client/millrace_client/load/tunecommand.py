"""`millrace tune MODEL`: measure settings of a stack on this machine, and say which is the best, and why."""

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from millrace_client.errors import MillraceError
from millrace_client.load.faults import CannotRun
from millrace_client.load.options import RunOptions, declare_run, duration, run_options
from millrace_client.load.running import Generator, require_locust
from millrace_client.load.stacks import CandidateStack, newest_version, write_batching
from millrace_client.load.tuning import Candidate, Measured, Search, Trial
from millrace_client.tables import print_table

_DEFAULT_BATCH = 32
_MAX_BATCH, _MAX_INSTANCES = 256, 8


def main(argv: list[str] | None = None) -> int:
    """`millrace tune`. Exit status: 0 found, 1 nothing holds the objective, 2 wrong usage, 4 could not run."""
    parser = _parser()
    options = parser.parse_args(argv)
    try:
        run = replace(run_options(options, [options.model]), rate=None, trace=None)
        require_locust()
    except ValueError as error:
        parser.error(str(error))
    try:
        return _tune(options, run)
    except (CannotRun, MillraceError, OSError) as error:
        print(f"millrace tune: {error}", file=sys.stderr)
        return 4
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="millrace tune",
        description="Start this machine's stack with one setting after the other, and find those with the most answers "
        "a second within an objective.",
        epilog="examples:\n  millrace tune digits --p99-ms 50\n  millrace tune mine --models DIR --write",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", help="a model of the repository")
    parser.add_argument("--models", type=Path, default=Path("models"), help="the repository (default: %(default)s)")
    parser.add_argument(
        "--p99-ms", type=float, default=100.0, metavar="MS", help="the objective (default: %(default)g)"
    )
    parser.add_argument("--budget", type=duration, default=300.0, metavar="TIME", help="stop after this (default: 5m)")
    parser.add_argument("--write", action="store_true", help="publish a new version with the best max_batch_size")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was tried to this file")
    declare_run(parser)
    parser.set_defaults(seconds=3.0, warm_up=1.0)
    return parser


def _tune(options: argparse.Namespace, run: RunOptions) -> int:
    version = newest_version(options.models, options.model)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limits = {"max_batch_size": _MAX_BATCH, "workers": cores, "instances": _MAX_INSTANCES, "threads": cores}
    stacks = _Stacks(version, run)
    search = Search(
        measure=stacks.measure,
        close=stacks.close,
        p99_ms=options.p99_ms,
        limits=limits,
        seconds=options.budget,
        say=lambda trial: print(f"  {trial.candidate}: {_said(trial)}", flush=True),
    )
    print(f"{options.model}, version {version.name}: p99 ≤ {options.p99_ms:g} ms, for at most {options.budget:g} s")
    start = Candidate(_batch_size(version), 2, 1, max(1, cores // 2))
    best = search.run(start)
    _print(search, best, start)
    if options.json:
        options.json.write_text(json.dumps(_document(search, best), indent=1) + "\n", encoding="utf-8")
    if best.best is None:
        return 1
    if options.write:
        new = version.with_name(str(int(version.name) + 1))
        _publish(version, new, best.candidate.max_batch_size)
        print(f"published {new}")
    return 0


class _Stacks:
    """One stack at a time: the next candidate's, when the last one's was closed."""

    def __init__(self, version: Path, run: RunOptions) -> None:
        self._version, self._run = version, run
        self._stack: CandidateStack | None = None
        self._folder: Path | None = None

    def measure(self, candidate: Candidate, users: int) -> Measured:
        """A closed loop of that many users. Raises `CannotRun`."""
        if self._stack is None:
            self._folder = Path(tempfile.mkdtemp(prefix="millrace-tune-"))
            self._stack = CandidateStack(self._version, candidate, self._folder)
            self._stack.wait_until_ready()
        before_s = self._stack.cpu_s()
        run = Generator(host=self._stack.url, users=users, processes=1).run(self._run)
        cpu_s = self._stack.cpu_s() - before_s
        answers = run["ok_per_s"] * (self._run.seconds + self._run.warm_up_s)
        is_right = run["ok"] and run["ok"] == run["requests"]
        return Measured(
            users=users,
            ok_per_s=run["ok_per_s"],
            p99_ms=run["latency_ms"]["p99"] if is_right else float("inf"),
            cpu_s=1000 * cpu_s / answers if answers else float("inf"),
        )

    def close(self) -> None:
        """Stop the stack, and remove its folder."""
        if self._stack is not None:
            self._stack.close()
        if self._folder is not None:
            shutil.rmtree(self._folder)
        self._stack = self._folder = None


def _batch_size(version: Path) -> int:
    """That of the manifest, where it says one."""
    file = version / "manifest.json"
    manifest: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return int(manifest.get("batching", {}).get("max_batch_size") or _DEFAULT_BATCH)


def _publish(version: Path, new: Path, max_batch_size: int) -> None:
    """The new version appears at once and whole, for workers that watch the repository."""
    with tempfile.TemporaryDirectory(prefix=".", dir=version.parent) as beside:
        written = Path(beside) / new.name
        write_batching(version, written, max_batch_size)
        written.rename(new)


def _print(search: Search, best: Trial, start: Candidate) -> None:
    rows: list[tuple[str, ...]] = [
        ("BATCH", "INSTANCES", "THREADS", "WORKERS", "USERS", "ANSWERS/S", "P99 MS", "CPU S/1000", "")
    ]
    for candidate, trial in search.trials.items():
        shown = trial.best or trial.measured[-1]
        settings = (candidate.max_batch_size, candidate.instances, candidate.threads, candidate.workers, shown.users)
        figures = (f"{shown.ok_per_s:.0f}", f"{shown.p99_ms:.1f}", f"{shown.cpu_s:.2f}")
        word = "best" if trial is best and trial.best else trial.note
        rows.append((*map(str, settings), *figures, word))
    print()
    print_table(rows)
    first = search.trials[start]
    if best.best is None:
        print("\nnothing that was tried holds the objective")
        return
    gain = f", {best.best.ok_per_s / first.best.ok_per_s:.2f} times those of the first" if first.best else ""
    print(
        f"\nbest: {best.candidate} – {best.best.ok_per_s:.0f} answers/s at p99 {best.best.p99_ms:.1f} ms{gain}\n"
        f'  manifest.json     "batching": {{"max_batch_size": {best.candidate.max_batch_size}}}\n'
        f"  environment       MILLRACE_WORKER_INSTANCES={best.candidate.instances} "
        f"MILLRACE_WORKER_THREADS={best.candidate.threads}\n"
        f"  command           millrace up --workers {best.candidate.workers}"
    )


def _said(trial: Trial) -> str:
    shown = trial.best or trial.measured[-1]
    return f"{shown.ok_per_s:.0f}/s, p99 {shown.p99_ms:.1f} ms" + (f" ({trial.note})" if trial.note else "")


def _document(search: Search, best: Trial) -> dict[str, Any]:
    return {
        "schema": "millrace-tune/1",
        "p99_ms": search.p99_ms,
        "best": _of(best.candidate) if best.best else None,
        "tried": [
            {
                **_of(trial.candidate),
                "measured": [
                    {name: _finite(getattr(each, name)) for name in each.__slots__} for each in trial.measured
                ],
                "note": trial.note,
            }
            for trial in search.trials.values()
        ],
    }


def _of(candidate: Candidate) -> dict[str, int]:
    return {name: getattr(candidate, name) for name in candidate.__slots__}


def _finite(value: float) -> float | None:
    return value if value < float("inf") else None
