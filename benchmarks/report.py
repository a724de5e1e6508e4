"""The measured figures as tables, as JSON and as a picture, and beside their targets."""

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot

_MEDIAN_OF = ("requests_per_s", "p50_ms", "p99_ms", "cpu_ms", "pss_mb", "rss_mb", "cold_s")
_SUM_OF = ("errors", "wrong", "checked", "paired")
_BASELINES = {"flask": ("flask", "instances"), "rq": ("rq", "instances")}

Row = dict[str, Any]


def summary(runs: Iterable[Row]) -> list[Row]:
    """One row for each server, request form and number of connections: medians over the rounds, with the ratios."""
    groups: dict[tuple[str, str, int], list[Row]] = defaultdict(list)
    for run in runs:
        groups[run["server"], run["request"], run["connections"]].append(run)
    rows = []
    for (server, request, connections), of in groups.items():
        row: Row = {"server": server, "request": request, "connections": connections}
        row |= {name: statistics.median(run[name] for run in of) for name in _MEDIAN_OF}
        row |= {name: sum(run[name] for run in of) for name in _SUM_OF}
        row["slowest_round"], row["fastest_round"] = (
            choose(run["requests_per_s"] for run in of) for choose in (min, max)
        )
        roles = {role for run in of for role in run["cpu_ms_by_role"]}
        row["cpu_ms_by_role"] = {
            role: statistics.median(run["cpu_ms_by_role"].get(role, 0.0) for run in of) for role in sorted(roles)
        }
        rows.append(row)
    for row in rows:
        for name, (server, request) in _BASELINES.items():
            row[f"ratio_to_{name}"] = _ratio(rows, row, (server, request))
    return rows


def _find(rows: list[Row], server: str, request: str, connections: int) -> Row | None:
    wanted = (server, request, connections)
    return next((row for row in rows if (row["server"], row["request"], row["connections"]) == wanted), None)


def _ratio(rows: list[Row], row: Row | None, other: tuple[str, str]) -> float | None:
    beside = row and _find(rows, *other, row["connections"])
    return row["requests_per_s"] / beside["requests_per_s"] if row and beside and beside["requests_per_s"] else None


# Targets


def targets(rows: list[Row], scenarios: dict[str, Any]) -> list[Row]:
    """Each target with what was measured; `measured` and `met` are None where this run did not measure it."""
    found = []

    def at_least(name: str, target: float, measured: float | None, unit: str = "x") -> None:
        met = None if measured is None else measured >= target
        wanted = f"≥ {target:g} {unit}"
        found.append({"name": name, "target": wanted, "measured": measured, "unit": unit, "met": met})

    def at_most(name: str, target: float, measured: float | None, unit: str) -> None:
        met = None if measured is None else measured <= target
        wanted = f"≤ {target:g} {unit}".strip()
        found.append({"name": name, "target": wanted, "measured": measured, "unit": unit, "met": met})

    for connections in (32, 128):
        for request, other, ratio, said in (
            ("v2 json", ("triton", "v2 json"), 1.3, "JSON beside Triton's"),
            ("instances", ("mosec", "instances"), 2.0, "JSON beside Mosec's"),
            ("instances", ("flask", "instances"), 3.0, "JSON beside Flask + gunicorn"),
            ("v2 binary", ("triton", "v2 binary"), 1.0, "binary beside Triton's"),
        ):
            ours = _find(rows, "millrace", request, connections)
            at_least(f"{said}, {connections} connections", ratio, _ratio(rows, ours, other))
    alone = _find(rows, "millrace", "instances", 1)
    at_most("one JSON image on a single connection, p50", 0.8, alone["p50_ms"] if alone else None, "ms")
    texts, thousand = scenarios.get("texts", {}), scenarios.get("rows", {})
    at_least("texts of mixed length beside all padded to the longest", 3.0, texts.get("ratio"))
    at_least("1,000 rows in one binary request beside ONNX Runtime", 0.8, thousand.get("ratio"))
    memory = scenarios.get("memory_mb", {})
    for role, name, limit in (("serving", "an API process", 120), ("worker", "a worker with the three models", 250)):
        at_most(f"memory (RSS) of {name}", limit, memory.get(role, {}).get("rss"), "MB")
    parts = [row for row in rows if row["server"] == "millrace"] + _parts(scenarios)
    faults = sum(part.get("errors", 0) + part.get("wrong", 0) for part in parts)
    at_most("wrong or failed answers of ours", 0, faults if parts else None, "")
    return found


def _parts(scenarios: dict[str, Any]) -> list[Row]:
    return [scenarios["texts"]["mixed"], scenarios["texts"]["padded"], scenarios["rows"]] if scenarios else []


# Markdown


def markdown(data: dict[str, Any]) -> str:
    """The whole result."""
    machine = data["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    parts = [
        "# Benchmark results",
        f"`{machine['command']}`, commit {machine['commit']}, {machine['date']}.\n\n"
        f"{machine['cpu']}, {machine['cores']} cores shared by servers and load generator ({data['generator']}), "
        f"{machine['memory_gb']} GB, {machine['kernel']}, Python {machine['python']}; {packages}. "
        f"Load average before: {machine['load_average_before']}.\n\n"
        f"Medians of {data['rounds']} interleaved rounds, {data['seconds']:g} s for each figure of a round. "
        "How to read them: [README](../README.md).",
        "## Targets",
        _table(["target", "wanted", "measured", "met"], [_target_cells(target) for target in data["targets"]]),
    ]
    for connections in sorted({row["connections"] for row in data["rows"]}):
        rows = [row for row in data["rows"] if row["connections"] == connections]
        rows.sort(key=lambda row: -row["requests_per_s"])
        parts += [f"## One image a request, {_connections(connections)}", _load_table(rows)]
    if data["scenarios"]:
        parts += ["## Other requests", *_scenario_lines(data["scenarios"])]
    parts += ["## Where the CPU time goes", _cpu_table(data["rows"])]
    if data["notes"]:
        parts += ["## Notes", "\n".join(f"- {note}" for note in data["notes"])]
    return "\n\n".join(parts) + "\n"


def _connections(number: int) -> str:
    return "1 connection" if number == 1 else f"{number} connections"


def _target_cells(target: Row) -> list[str]:
    measured = "–" if target["measured"] is None else f"{target['measured']:.3g} {target['unit']}".strip()
    return [target["name"], target["target"], measured, {True: "yes", False: "no", None: "not measured"}[target["met"]]]


def _load_table(rows: list[Row]) -> str:
    head = ["server", "request", "req/s", "(slowest, fastest round)", "p50 ms", "p99 ms", "CPU ms/req", "memory MB"]
    head += ["x flask", "x rq", "checked", "wrong", "errors"]
    body = [
        [
            row["server"],
            row["request"],
            f"{row['requests_per_s']:,.0f}",
            f"{row['slowest_round']:,.0f}, {row['fastest_round']:,.0f}",
            f"{row['p50_ms']:.2f}",
            f"{row['p99_ms']:.2f}",
            f"{row['cpu_ms']:.3f}",
            f"{row['pss_mb']:,.0f}",
            *("–" if row[f"ratio_to_{name}"] is None else f"{row[f'ratio_to_{name}']:.2f}" for name in _BASELINES),
            f"{row['checked']:,}",
            str(row["wrong"]),
            str(row["errors"]),
        ]
        for row in rows
    ]
    return _table(head, body)


def _cpu_table(rows: list[Row]) -> str:
    busiest = max((row["connections"] for row in rows), default=0)
    body = [
        [row["server"], row["request"], ", ".join(f"{role} {ms:.3f}" for role, ms in _costliest(row))]
        for row in rows
        if row["connections"] == busiest
    ]
    return _table(["server", "request", f"CPU ms per request by process, {_connections(busiest)}"], body)


def _costliest(row: Row) -> list[tuple[str, float]]:
    roles = [(role, ms) for role, ms in row["cpu_ms_by_role"].items() if ms >= 0.01 * row["cpu_ms"]]
    return sorted(roles, key=lambda pair: -pair[1])


def _scenario_lines(scenarios: dict[str, Any]) -> list[str]:
    texts, thousand = scenarios["texts"], scenarios["rows"]
    lines = [
        f"Sentiment, {texts['connections']} connections, 5 to 400 words a text, {texts['mean_words']:.0f} on average:",
        _table(
            ["texts", "req/s", "p50 ms", "p99 ms", "checked", "wrong", "errors"],
            [_text_cells(name, texts[name]) for name in ("mixed", "padded")],
        ),
        f"Mixed beside padded: {texts['ratio']:.2f}; if time were proportional to words it would be "
        f"{texts['best_possible_ratio']:.2f}.",
        "1,000 digits in one binary request, one request at a time:",
    ]
    if "refused" in thousand:
        lines.append(f"Not measured, the server refused it: {thousand['refused']}")
    else:
        body = [[name, f"{per_s:,.0f}"] for name, per_s in thousand["rows_per_s"].items()]
        lines.append(_table(["way", "rows/s"], body))
        lines.append(f"{thousand['checked']:,} rows compared in order, {thousand['wrong']} wrong.")
    memory = [[role, f"{of['pss']:.0f}", f"{of['rss']:.0f}"] for role, of in scenarios["memory_mb"].items()]
    return [
        *lines,
        "Memory of that stack, with the three bundled models:",
        _table(["process", "PSS MB", "RSS MB"], memory),
    ]


def _text_cells(name: str, of: Row) -> list[str]:
    figures = [f"{of['requests_per_s']:,.0f}", f"{of['p50_ms']:.1f}", f"{of['p99_ms']:.1f}", f"{of['checked']:,}"]
    return [name, *figures, str(of["wrong"]), str(of["errors"])]


def _table(head: list[str], body: list[list[str]]) -> str:
    lines = [head, ["---" if i < 2 else "---:" for i in range(len(head))], *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


# Files


def write(data: dict[str, Any], folder: Path) -> list[Path]:
    """Write bench.md, bench.json and bench.png into the folder, and name them."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"bench.{ending}" for ending in ("md", "json", "png")]
    paths[0].write_text(markdown(data))
    paths[1].write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n")
    _plot(data, paths[2])
    return paths


def _plot(data: dict[str, Any], path: Path) -> None:
    """Requests per second, and p50 to p99, of every server and form at each number of connections."""
    rows = data["rows"]
    levels = sorted({row["connections"] for row in rows})
    names = list(dict.fromkeys((row["server"], row["request"]) for row in rows))
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 1.2 + 0.5 * max(4, len(names))), sharey=True)
    height = 0.8 / max(1, len(levels))
    for number, level in enumerate(levels):
        found = [(i, row) for i, name in enumerate(names) if (row := _find(rows, *name, level))]
        at = [i + (number - (len(levels) - 1) / 2) * height for i, _ in found]
        colour = f"C{number}"
        left.barh(at, [row["requests_per_s"] for _, row in found], height, color=colour, label=_connections(level))
        right.hlines(at, [r["p50_ms"] for _, r in found], [r["p99_ms"] for _, r in found], color=colour, linewidth=3)
        right.plot([row["p50_ms"] for _, row in found], at, "o", color=colour, markersize=4)
    left.set_yticks(range(len(names)), [f"{server}, {request}" for server, request in names])
    left.invert_yaxis()
    left.set_xlabel("requests per second")
    left.legend()
    right.set_xscale("log")
    right.set_xlabel("latency in ms: p50 (dot) to p99")
    machine = data["machine"]
    figure.suptitle(
        f"One 28x28 image a request; {machine['cores']} cores, commit {machine['commit']}, {machine['date']}"
    )
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
