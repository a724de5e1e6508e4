"""A page to show to others: one HTML file without scripts and without anything from the network."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from millrace_client.load.histogram import Histogram
from millrace_client.load.objectives import Verdict
from millrace_client.load.reports.charts import Chart
from millrace_client.load.reports.plain import capacity_text

Document = Mapping[str, Any]
_STYLE = Path(__file__).with_name("page.css")
_BARS = 60


def page(runs: Sequence[Document], verdicts: Sequence[Verdict] = (), capacity: Document | None = None) -> str:
    """The page of one run, or of several at different rates."""
    last = runs[-1]
    title = f"Load on {', '.join(last['target']['models'])}"
    parts = [f"<h1>{escape(title)}</h1>", _subtitle(last)]
    parts += [f'<p class="bad">Invalid run: {escape(reason)}</p>' for run in runs[-1:] for reason in run["invalid"]]
    if capacity:
        parts.append(f'<p class="answer">{escape(capacity_text(capacity))}</p>')
    if len(runs) > 1:
        parts += ["<h2>Latency over load</h2>", _over_load(runs, capacity), _runs_table(runs)]
        parts.append(f"<h2>The last run: {escape(_rate(last))}</h2>")
    parts += [_tiles(last), _verdicts(verdicts)]
    if last["windows"]:
        parts += ["<h2>Latency over time</h2>", _over_time(last)]
        parts += ["<h2>How the latencies are spread</h2>", _spread(last)]
    parts += ["<h2>Where the time went</h2>", _stages(last), "<h2>Errors by kind</h2>", _errors(last)]
    parts += ["<h2>Where and how it was measured</h2>", _environment(last)]
    style = _STYLE.read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style></head><body><main>{''.join(parts)}</main></body></html>\n"
    )


def _subtitle(run: Document) -> str:
    target = run["target"]
    return f"<p>{escape(target['protocol'])} at {escape(target['host'])}, {escape(run['started_at'])}</p>"


def _tiles(run: Document) -> str:
    latency, lag = run["latency_ms"], run["send_lag_ms"]
    tiles = [
        ("load", _rate(run)),
        ("answered", f"{run['ok_per_s']:.1f}/s"),
        *((name.replace("p999", "p99.9"), _ms(latency[name])) for name in ("p50", "p90", "p99", "p999", "max")),
        ("requests", str(run["requests"])),
        ("refused (429)", str(run["refused"])),
        ("failed", str(run["failed"])),
    ]
    if run["goodput"]:
        tiles.append((f"within {run['goodput']['objective_ms']:g} ms", f"{run['goodput']['share']:.2%}"))
    if lag:
        tiles.append(("send lag p99", _ms(lag["p99"])))
    inside = "".join(f"<div><b>{escape(value)}</b><span>{escape(name)}</span></div>" for name, value in tiles)
    notes = "".join(f"<p>{escape(note)}</p>" for note in run["notes"])
    return f'<div class="tiles">{inside}</div>{notes}'


def _verdicts(verdicts: Sequence[Verdict]) -> str:
    if not verdicts:
        return ""
    rows = [
        (each.objective, "–" if each.value is None else f"{each.value:.4g}", "met" if each.is_met else "missed")
        for each in verdicts
    ]
    return "<h2>Objectives</h2>" + _table(("objective", "value", ""), rows)


def _over_time(run: Document) -> str:
    windows = [window for window in run["windows"] if window["p50"] is not None]
    if not windows:
        return "<p>No request was answered.</p>"
    highest = max(window["p99"] for window in windows)
    last = max(windows[-1]["second"], 1)
    chart = Chart("latency over time", (0, last), (0, highest * 1.05), ("second of the run", "ms"))
    p50, p99 = ([(window["second"], window[name]) for window in windows] for name in ("p50", "p99"))
    chart.band(p50, p99)
    chart.line(p50, "p50")
    chart.line(p99, "p99")
    return _figure(
        chart, ("p50", "p99"), "The band reaches from the p50 to the p99 of the requests due in each second."
    )


def _over_load(runs: Sequence[Document], capacity: Document | None) -> str:
    valid = [run for run in runs if run["latency_ms"]["p99"] is not None and run["valid"]]
    measured = sorted(((run["requests_per_s"], run) for run in valid), key=lambda each: each[0])
    if not measured:
        return "<p>No valid run.</p>"
    highest = max(run["latency_ms"]["p99"] for _, run in measured)
    if capacity:
        highest = min(highest, capacity["objective_ms"] * 4)
    chart = Chart("latency over load", (0, measured[-1][0] * 1.05), (0, highest * 1.05), ("requests a second", "ms"))
    for name in ("p50", "p99"):
        chart.line([(rate, run["latency_ms"][name]) for rate, run in measured], name)
    if capacity:
        chart.level(capacity["objective_ms"], f"objective: {capacity['objective_ms']:g} ms")
    return _figure(chart, ("p50", "p99"), "Values above the axis are drawn at its end.")


def _spread(run: Document) -> str:
    bars = Histogram.of(run["raw"]["latency"]).bars()
    if not bars:
        return "<p>No request was answered.</p>"
    low, high = max(bars[0][0] * 0.9, 1.0), max(bars[-1][0] * 1.1, 2.0)
    step = (high / low) ** (1 / _BARS)
    counts = [0] * _BARS
    edges = [low * step**index for index in range(_BARS + 1)]
    index = 0
    for us, count in bars:
        while index < _BARS - 1 and us >= edges[index + 1]:
            index += 1
        counts[index] += count
    chart = Chart("latencies", (low / 1000, high / 1000), (0, max(counts)), ("ms", "requests"), log_x=True)
    for left, right, count in zip(edges, edges[1:], counts, strict=False):
        if count:
            chart.bar(left / 1000, right / 1000, count)
    return _figure(chart, (), "")


def _stages(run: Document) -> str:
    stages = run["stages_ms"]
    rows = [
        (side, name, _ms(each["mean"]), _ms(each["p50"]), _ms(each["p99"]))
        for side in ("client", "server")
        for name, each in stages[side].items()
    ]
    source = f"<p>The server's part is from its {escape(stages['source'])}.</p>" if stages["source"] else ""
    return _table(("", "stage", "mean", "p50", "p99"), rows) + source


def _errors(run: Document) -> str:
    kinds = [(kind, str(count)) for kind, count in {"refused": run["refused"], **run["failures"]}.items() if count]
    if not kinds:
        return "<p>None.</p>"
    messages = [(message, str(count)) for message, count in run["errors"].items()]
    return _table(("kind", "requests"), kinds) + _table(("message", "requests"), messages)


def _environment(run: Document) -> str:
    known = {**run["environment"], **run["load"], "seconds": run["seconds"], "generator_cpu": run["generator_cpu"]}
    rows = [(name, value if isinstance(value, str) else json.dumps(value)) for name, value in known.items()]
    return _table(("", ""), rows) + f"<pre>{escape(' '.join(run['command']))}</pre>"


def _runs_table(runs: Sequence[Document]) -> str:
    rows = [
        (
            _rate(run),
            f"{run['ok_per_s']:.1f}/s",
            _ms(run["latency_ms"]["p50"]),
            _ms(run["latency_ms"]["p99"]),
            str(run["refused"] + run["failed"]),
            "valid" if run["valid"] else "; ".join(run["invalid"]),
        )
        for run in runs
    ]
    return _table(("load", "answered", "p50", "p99", "not ok", ""), rows)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header) if any(header) else ""
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _figure(chart: Chart, names: Sequence[str], caption: str) -> str:
    legend = "".join(f'<span class="key {name}">{name}</span> ' for name in names)
    return f"<figure>{chart.svg()}<figcaption>{legend}{escape(caption)}</figcaption></figure>"


def _rate(run: Document) -> str:
    load = run["load"]
    if load["mode"] == "closed":
        return f"{load['users']} users"
    if "trace" in load:
        return "trace"
    return f"{load['rate']:.0f}/s" if isinstance(load["rate"], float) else f"{load['rate']}/s"


def _ms(value: float | None) -> str:
    """With a space that breaks no line."""
    return "–" if value is None else f"{value:.2f}\u00a0ms" if value < 100 else f"{value:.0f}\u00a0ms"
