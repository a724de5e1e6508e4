"""`millrace load MODEL…`: load on models of a server, and what came of it; `millrace load compare A.json B.json`.

Exit status: 0 all went as it should, 1 an objective was missed, 2 wrong usage, 3 the run is invalid: its figures say
nothing, 4 it could not run.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from millrace_client.errors import MillraceError
from millrace_client.load import capacity
from millrace_client.load.comparing import compare
from millrace_client.load.faults import CannotRun
from millrace_client.load.objectives import Objective, Verdict
from millrace_client.load.options import DEFAULT_SECONDS, RunOptions, declare_run, run_options
from millrace_client.load.reports import plain
from millrace_client.load.reports.junit import junit
from millrace_client.load.reports.page import page
from millrace_client.load.reports.plots import require_matplotlib, write_plots
from millrace_client.load.results import MAX_SEND_LAG_MS
from millrace_client.load.running import Generator, require_locust

MET, MISSED, USAGE, INVALID, CANNOT_RUN = 0, 1, 2, 3, 4
_INTERRUPTED = 130
_BLANK = "\n\n"
_EXAMPLES = """examples:
  millrace load digits --rate 500 --for 30s
  millrace load digits --find-capacity --p99-ms 50 --html capacity.html
  millrace load mine --host triton:8000 --protocol oip-binary --rate 200..2000 --step 200
  millrace load digits --users 32 -- --csv stats --html locust.html    # what follows -- goes to Locust
  millrace load compare before.json after.json"""
_OPEN_USERS, _CLOSED_USERS = 512, 32
_CAPACITY_SECONDS, _CAPACITY_P99_MS, _CAPACITY_FIRST = 10.0, 100.0, 50.0
Document = Mapping[str, Any]


def main(argv: list[str] | None = None) -> int:
    """`millrace load`."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments[:1] == ["compare"]:
        return _compare(arguments[1:])
    own, extra = _split(arguments)
    parser = _parser()
    options = parser.parse_args(own)
    if options.seconds is None:
        options.seconds = _CAPACITY_SECONDS if options.find_capacity else DEFAULT_SECONDS
    try:
        run = run_options(options, options.models)
        objectives = [Objective.of(text) for text in options.fail]
        if any(each.figure == "goodput" for each in objectives) and options.p99_ms is None:
            raise ValueError("goodput is the share within an objective: give it with --p99-ms")
        _check(options, run)
    except ValueError as error:
        parser.error(str(error))
    require_locust()
    try:
        return _run(options, run, objectives, ("millrace", "load", *arguments), tuple(extra))
    except (CannotRun, MillraceError, OSError) as error:
        print(f"millrace load: {error}", file=sys.stderr)
        return CANNOT_RUN
    except KeyboardInterrupt:
        return _INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="millrace load",
        description="Put load on models of a server, and say what came of it.",
        epilog=f"{_EXAMPLES}\n\n{__doc__.partition(_BLANK)[2]}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("models", nargs="+", metavar="model", help="NAME or NAME/VERSION; several are asked in turn")
    add("--host", default="http://127.0.0.1:8000", help="the server; for gRPC its gRPC port (default: %(default)s)")
    declare_run(parser)
    parser.set_defaults(seconds=None)
    add("--users", type=int, help="without --rate: this many, each of which waits for its answer (default: 32)")
    add("--connections", type=int, default=_OPEN_USERS, help="with --rate: at most this many (default: %(default)s)")
    add("--processes", type=int, default=1, help="of the generator (default: %(default)s)")
    add("--step", type=float, help="with --rate A..B: one run for each rate, this far apart")
    add("--find-capacity", action="store_true", help="search the highest rate that holds --p99-ms (default: 100)")
    add("--p99-ms", type=float, metavar="MS", help="the objective: for --find-capacity, and for goodput")
    add("--max-send-lag", type=float, default=MAX_SEND_LAG_MS, metavar="MS", help="valid up to this (default: 5)")
    add("--server-counts", default="", metavar="URL", help="where its statistics or metrics are, if not at --host")
    add("--fail", action="append", default=[], metavar="OBJECTIVE", help='"p99<50ms", "errors<0.1%%", "goodput>0.95"')
    for name, what in (("json", "all figures"), ("csv", "one line a run"), ("md", "Markdown"), ("html", "a page")):
        add(f"--{name}", type=Path, metavar="FILE", help=f"write {what} to this file")
    add("--png", type=Path, metavar="DIR", help="write the charts of the page into this folder, as PNG files")
    add("--junit", type=Path, metavar="FILE", help="write the objectives as test cases to this file")
    return parser


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    at = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:at], arguments[at + 1 :]


def _check(options: argparse.Namespace, run: RunOptions) -> None:
    if options.png:
        require_matplotlib()
    if options.users is not None and run.is_open:
        raise ValueError("--users wait for their answers, and a schedule does not: give --users or --rate")
    if options.step is not None and ".." not in (run.rate or ""):
        raise ValueError("--step goes with a range: --rate 200..2000 --step 200")
    if options.find_capacity and (run.trace is not None or options.step is not None):
        raise ValueError("--find-capacity chooses the rates itself")


def _run(
    options: argparse.Namespace,
    run: RunOptions,
    objectives: Sequence[Objective],
    command: tuple[str, ...],
    extra: tuple[str, ...],
) -> int:
    is_open = run.is_open or options.find_capacity
    generator = Generator(
        host=options.host,
        users=options.connections if is_open else options.users or _CLOSED_USERS,
        processes=options.processes,
        objective_ms=options.p99_ms,
        max_send_lag_ms=options.max_send_lag,
        counts_url=options.server_counts,
        extra=extra,
        command=command,
    )
    if options.find_capacity:
        return _find_capacity(options, run, generator)
    runs = []
    for each in _steps(run, options.step):
        runs.append(generator.run(each))
        print(plain.text(runs[-1]), flush=True)
    verdicts = [objective.verdict(runs[-1]) for objective in objectives]
    for verdict in verdicts:
        print(f"{'met' if verdict.is_met else 'MISSED'}: {verdict.objective}")
    _write(options, runs, verdicts, None)
    return _status(runs[-1], verdicts)


def _steps(run: RunOptions, step: float | None) -> list[RunOptions]:
    """A run for each rate of a range with a step, else the one run."""
    if step is None:
        return [run]
    first, last = (float(part) for part in (run.rate or "").split(".."))
    count = int((last - first) / step + 1e-9) + 1
    return [replace(run, rate=f"{first + index * step:g}") for index in range(count)]


def _find_capacity(options: argparse.Namespace, run: RunOptions, generator: Generator) -> int:
    objective_ms = options.p99_ms or _CAPACITY_P99_MS
    generator = replace(generator, objective_ms=objective_ms)
    rules = capacity.Rules(p99_ms=objective_ms, seconds=run.seconds)

    def measure(rate: float, seconds: float) -> Document:
        measured = generator.at(run, rate, seconds)
        why = rules.why_missed(measured)
        print(f"  {rate:8.0f}/s  {'held' if why is None else f'missed: {why}'}", flush=True)
        return measured

    first = float(run.rate) if run.rate else _CAPACITY_FIRST
    found = capacity.find(measure, rules, first)
    answer = {**found.document(), "objective_ms": objective_ms}
    print(plain.capacity_text(answer))
    _write(options, found.runs, [], answer)
    return MET if found.rate else MISSED


def _write(
    options: argparse.Namespace, runs: Sequence[Document], verdicts: Sequence[Verdict], answer: Document | None
) -> None:
    """The files that are asked for. One run is its own document; several are in a list, beside the answer."""
    if options.json:
        document = runs[0] if len(runs) == 1 else {"schema": "millrace-load-curve/1", "capacity": answer, "runs": runs}
        options.json.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    if options.csv:
        options.csv.write_text(plain.table(runs), encoding="utf-8")
    if options.md:
        options.md.write_text(plain.markdown(runs, verdicts, answer), encoding="utf-8")
    if options.html:
        options.html.write_text(page(runs, verdicts, answer), encoding="utf-8")
    if options.png:
        write_plots(options.png, runs, answer)
    if options.junit:
        options.junit.write_text(junit(runs[-1], verdicts), encoding="utf-8")


def _status(run: Document, verdicts: Sequence[Verdict]) -> int:
    """An invalid run has shown nothing, neither that an objective is met nor that it is missed."""
    if not run["valid"]:
        return INVALID
    if any(not verdict.is_met for verdict in verdicts):
        return MISSED
    return MET if all(verdict.is_claimed for verdict in verdicts) else INVALID


def _compare(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="millrace load compare",
        description="Compare two runs. Exit status 1 where B is worse than A and the interval shows it.",
    )
    for name in ("a", "b"):
        parser.add_argument(name, type=Path, help="what millrace load wrote with --json, of one run")
    options = parser.parse_args(arguments)
    try:
        a, b = (json.loads(file.read_text(encoding="utf-8")) for file in (options.a, options.b))
        found = compare(a, b)
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"millrace load compare: {error}", file=sys.stderr)
        return CANNOT_RUN
    print(plain.differences(found))
    for file, run in ((options.a, a), (options.b, b)):
        for reason in run["invalid"]:
            print(f"{file} is invalid: {reason}")
    if not (a["valid"] and b["valid"]):
        return INVALID
    return MISSED if any(each.word == "worse" for each in found) else MET
