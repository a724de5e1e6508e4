"""A page to show to others: one HTML file without scripts and without anything from the network."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from millrace_client.load.objectives import Verdict
from millrace_client.load.reports.charts import Chart, over_load, over_time, spread
from millrace_client.load.reports.plain import capacity_text
from millrace_client.load.reports.svg import svg

Document = Mapping[str, Any]
_STYLE = Path(__file__).with_name("page.css")
_NO_ANSWER = "No request was answered."
_BAND = "The band reaches from the p50 to the p99 of the requests due in each second."


def page(runs: Sequence[Document], verdicts: Sequence[Verdict] = (), capacity: Document | None = None) -> str:
    """The page of one run, or of several at different rates."""
    last = runs[-1]
    title = f"Load on {', '.join(last['target']['models'])}"
    parts = [f"<h1>{escape(title)}</h1>", _subtitle(last)]
    parts += [f'<p class="bad">Invalid run: {escape(reason)}</p>' for run in runs[-1:] for reason in run["invalid"]]
    if capacity:
        parts.append(f'<p class="answer">{escape(capacity_text(capacity))}</p>')
    if len(runs) > 1:
        curve = _figure(over_load(runs, capacity), "No valid run.", "Values above the axis are drawn at its end.")
        parts += ["<h2>Latency over load</h2>", curve, _runs_table(runs)]
        parts.append(f"<h2>The last run: {escape(_rate(last))}</h2>")
    parts += [_tiles(last), _verdicts(verdicts)]
    if last["windows"]:
        parts += ["<h2>Latency over time</h2>", _figure(over_time(last), _NO_ANSWER, _BAND)]
        parts += ["<h2>How the latencies are spread</h2>", _figure(spread(last), _NO_ANSWER)]
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


def _figure(chart: Chart | None, otherwise: str, caption: str = "") -> str:
    if chart is None:
        return f"<p>{escape(otherwise)}</p>"
    legend = "".join(f'<span class="key {name}">{name}</span> ' for name in chart.lines)
    return f"<figure>{svg(chart)}<figcaption>{legend}{escape(caption)}</figcaption></figure>"


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
