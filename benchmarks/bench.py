"""Start each server in turn, load it, stop it, over interleaved rounds; then say what was measured beside the targets.

    make bench                                                # about six minutes; results in .runs/bench/
    make bench ARGS="--seconds 1 --rounds 1"                  # a quick look
    make bench ARGS="--out benchmarks/results"                # in place of the results that are committed
    make bench ARGS="--peers DIR"                             # also Triton and Mosec, by the peers' harness in DIR

Exits with 1 when a server failed, or gave a wrong answer; a missed target does not matter to it.
"""

import argparse
import http.client
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import cnn, load, report, scenarios, servers
from benchmarks.forms import FORMS, Refused, ask
from benchmarks.load import Target
from benchmarks.servers import Entry, Server, StartError
from millrace import provenance

HERE = Path(__file__).parent
_ITEMS = 64
_WARM_UP_S, _WARM_UP_CONNECTIONS = 1.0, 16
_PEERS = ("triton", "mosec", "mosec-raw")


def main(argv: list[str] | None = None) -> int:
    """Measure, write, print."""
    options = _arguments(argv)
    entries = _entries(options)
    with_wrk = options.generator == "wrk" or (options.generator == "auto" and load.has_wrk())
    runs: list[dict[str, Any]] = []
    notes: list[str] = []
    failed: set[str] = set()
    stamp = provenance.stamp()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        model = Path(folder) / "cnn.onnx"
        cnn.write(model)
        images, expected = cnn.distinct_images(model, _ITEMS)
        for number in range(options.rounds):
            turn = number * len(entries) // options.rounds  # each round begins elsewhere in the list
            for entry in entries[turn:] + entries[:turn]:
                try:
                    runs += _measure(entry, model, (list(images[:, None]), expected), options, with_wrk, notes)
                except (StartError, OSError, http.client.HTTPException, subprocess.CalledProcessError) as error:
                    _note(notes, f"{entry.name} failed: {error}")
                    failed.add(entry.name)
    others: dict[str, Any] = {}
    if not options.no_scenarios:
        others = scenarios.run(
            scenarios.STACK, rounds=options.rounds, seconds=options.seconds, with_wrk=with_wrk, say=_say
        )
    rows = report.summary(runs)
    data = {
        "machine": stamp,
        "generator": "wrk" if with_wrk else "the bundled generator",
        "rounds": options.rounds,
        "seconds": options.seconds,
        "targets": report.targets(rows, others),
        "rows": rows,
        "scenarios": others,
        "notes": notes,
        "runs": runs,
    }
    paths = report.write(data, options.out)
    print(paths[0].read_text())
    print("written:", *paths)
    has_fault = any(row["errors"] or row["wrong"] for row in rows) or any(t["measured"] for t in data["targets"][-1:])
    return 1 if has_fault or failed or not rows else 0


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="how often each server is measured (%(default)s)")
    parser.add_argument("--seconds", type=float, default=4, help="for one figure of one round (%(default)s)")
    parser.add_argument("--connections", default="1,32,128", help="numbers of connections (%(default)s)")
    parser.add_argument("--servers", help="names, by commas (all of servers.toml, and of the peers' triton and mosec)")
    parser.add_argument("--peers", type=Path, metavar="DIR", help="the peers' harness; $WORK is its working folder")
    parser.add_argument("--generator", choices=["auto", "wrk", "own"], default="auto", help="auto: wrk where installed")
    parser.add_argument("--no-scenarios", action="store_true", help="only one image a request")
    parser.add_argument(
        "--out", type=Path, default=Path(".runs/bench"), help="the folder for the results (%(default)s)"
    )
    return parser.parse_args(argv)


def _entries(options: argparse.Namespace) -> list[Entry]:
    found = servers.read(HERE / "servers.toml")
    wanted = [entry.name for entry in found]
    if options.peers:
        work = Path(os.environ.get("WORK") or Path(tempfile.gettempdir(), "peers"))  # as the harness has it
        peers = servers.read(options.peers.resolve() / "peers.toml", work)
        found += [entry for entry in peers if entry.name not in wanted]  # it has a flask and an rq of its own
        wanted += _PEERS
    if options.servers:
        wanted = options.servers.split(",")
    chosen = [entry for entry in found if entry.name in wanted]
    if missing := set(wanted) - {entry.name for entry in chosen}:
        raise SystemExit(f"no such server: {', '.join(sorted(missing))}")
    return chosen


def _measure(
    entry: Entry,
    model: Path,
    images: tuple[list[Any], Any],
    options: argparse.Namespace,
    with_wrk: bool,
    notes: list[str],
) -> list[dict[str, Any]]:
    """All figures of one start of one server. A form that it refuses is noted and left out."""
    items, expected = images
    runs = []
    with Server(entry, model) as server:
        cold_s = server.wait_ready(items[0])
        for request in entry.requests:
            target = Target(url=server.url(request), form=FORMS[request["kind"]], items=items, expected=expected)
            try:
                ask(target.url, target.form, items[0])
            except (Refused, ValueError) as error:
                _note(notes, f"{entry.name}, {request['kind']}: not measured, the server refused it: {error}")
                continue
            load.run(target, connections=_WARM_UP_CONNECTIONS, seconds=_WARM_UP_S, with_wrk=False)
            for connections in (int(number) for number in options.connections.split(",")):
                run = _figure(server, target, connections, options.seconds, with_wrk)
                runs.append({"server": entry.name, "request": request["kind"], "cold_s": cold_s} | run)
                _say(
                    f"{entry.name}, {request['kind']}, {connections}: {run['requests_per_s']:,.0f} req/s, "
                    f"p50 {run['p50_ms']:.2f}, p99 {run['p99_ms']:.2f} ms, CPU {run['cpu_ms']:.3f} ms, "
                    f"{run['errors']} errors, {run['wrong']} wrong"
                )
                notes += [f"{entry.name}, {request['kind']}: {fault}" for fault in run["faults"]]
    return runs


def _figure(server: Server, target: Target, connections: int, seconds: float, with_wrk: bool) -> dict[str, Any]:
    before = server.cpu_s()
    outcome = load.run(target, connections=connections, seconds=seconds, with_wrk=with_wrk)
    after = server.cpu_s()
    memory = server.memory_mb()
    by_role: dict[str, float] = {}
    for (pid, role), spent in after.items():
        spent_ms = 1000 * (spent - before.get((pid, role), 0.0)) / max(1, outcome.requests)
        by_role[role] = by_role.get(role, 0.0) + spent_ms
    return {
        "connections": connections,
        "requests_per_s": outcome.requests / outcome.seconds,
        "cpu_ms": sum(by_role.values()),
        "cpu_ms_by_role": by_role,
        "pss_mb": sum(pss for pss, _ in memory.values()),
        "rss_mb": sum(rss for _, rss in memory.values()),
    } | {
        name: getattr(outcome, name)
        for name in (
            "requests",
            "seconds",
            "p50_ms",
            "p99_ms",
            "max_ms",
            "errors",
            "checked",
            "paired",
            "wrong",
            "faults",
        )
    }


def _note(notes: list[str], text: str) -> None:
    _say(text)
    if text not in notes:
        notes.append(text)


def _say(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
