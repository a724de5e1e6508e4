"""As text for the terminal, as Markdown for a pull request, and as CSV: one line a run."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from millrace_client.load.comparing import Difference
from millrace_client.load.objectives import Verdict

Document = Mapping[str, Any]
_COLUMNS = (
    "started_at",
    "host",
    "protocol",
    "models",
    "mode",
    "rate",
    "users",
    "seconds",
    "requests",
    "ok",
    "refused",
    "failed",
    "ok_per_s",
    "p50_ms",
    "p90_ms",
    "p99_ms",
    "p999_ms",
    "max_ms",
    "send_lag_p99_ms",
    "goodput",
    "valid",
)


def text(run: Document, verdicts: Sequence[Verdict] = ()) -> str:
    """For the terminal."""
    latency, lag = run["latency_ms"], run["send_lag_ms"]
    failures = ", ".join(f"{count} {kind}" for kind, count in run["failures"].items() if count)
    lines = [
        f"{' + '.join(run['target']['models'])} at {run['target']['host']}, {run['target']['protocol']}: {_load(run)}",
        f"  requests   {run['requests']} in {run['seconds']:g} s: {run['ok']} ok ({run['ok_per_s']:.1f}/s), "
        f"{run['refused']} refused, {run['failed']} failed{f' ({failures})' if failures else ''}",
        "  latency    " + "  ".join(f"{name} {_ms(latency[name])}" for name in ("p50", "p90", "p99", "p999", "max")),
    ]
    if run["goodput"]:
        lines.append(f"  goodput    {run['goodput']['share']:.2%} within {run['goodput']['objective_ms']:g} ms")
    for side in ("client", "server"):
        if stages := run["stages_ms"][side]:
            lines.append(f"  {side:<10} " + "  ".join(f"{name} {_ms(each['mean'])}" for name, each in stages.items()))
    if lag:
        lines.append(f"  send lag   p50 {_ms(lag['p50'])}  p99 {_ms(lag['p99'])}  max {_ms(lag['max'])}")
    lines += [f"  error      {count} × {message}" for message, count in list(run["errors"].items())[:5]]
    lines += [f"  note       {note}" for note in run["notes"]]
    lines += [f"  INVALID    {reason}" for reason in run["invalid"]]
    lines += [f"  {'met' if each.is_met else 'MISSED':<10} {_verdict(each)}" for each in verdicts]
    return "\n".join(lines)


def markdown(runs: Sequence[Document], verdicts: Sequence[Verdict] = (), capacity: Document | None = None) -> str:
    """A table of the runs, and what was to be reached."""
    first = runs[0]
    target = first["target"]
    lines = [f"### Load on {', '.join(target['models'])} ({target['protocol']})", ""]
    if capacity:
        lines += [_capacity(capacity), ""]
    header = (
        "load",
        "requests",
        "ok/s",
        "refused",
        "failed",
        "p50 ms",
        "p90 ms",
        "p99 ms",
        "p99.9 ms",
        "max ms",
        "valid",
    )
    lines += ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    for run in runs:
        latency = [_number(run["latency_ms"][name]) for name in ("p50", "p90", "p99", "p999", "max")]
        cells = [_load(run), run["requests"], f"{run['ok_per_s']:.1f}", run["refused"], run["failed"], *latency]
        lines.append("| " + " | ".join(map(str, [*cells, "yes" if run["valid"] else "**no**"])) + " |")
    lines += ["", *(f"- {'met' if each.is_met else '**missed**'}: {_verdict(each)}" for each in verdicts)]
    lines += [f"- invalid: {reason}" for run in runs for reason in run["invalid"]]
    machine = first["environment"]
    lines += [
        "",
        f"{machine['processor']}, {machine['cores']} cores, commit {machine['commit']}, {first['started_at']}",
    ]
    return "\n".join(lines) + "\n"


def table(runs: Iterable[Document]) -> str:
    """As CSV, with a header."""
    written = io.StringIO()
    writer = csv.DictWriter(written, _COLUMNS)
    writer.writeheader()
    for run in runs:
        latency = {f"{name}_ms": value for name, value in run["latency_ms"].items()}
        flat = {
            **run,
            **run["target"],
            **run["load"],
            **latency,
            "models": " ".join(run["target"]["models"]),
            "send_lag_p99_ms": run["send_lag_ms"]["p99"] if run["send_lag_ms"] else None,
            "goodput": run["goodput"]["share"] if run["goodput"] else None,
        }
        writer.writerow({name: flat.get(name) for name in _COLUMNS})
    return written.getvalue()


def differences(found: Sequence[Difference]) -> str:
    """A comparison, for the terminal."""
    rows = [("", "A", "B", "B ÷ A", "95 % interval", "")]
    for each in found:
        interval = f"{each.low:.3f} … {each.high:.3f}"
        word = each.word if each.word != "same" else "no difference shown"
        rows.append((each.figure, f"{each.a:.3f}", f"{each.b:.3f}", f"{each.ratio:.3f}", interval, word))
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def capacity_text(capacity: Document) -> str:
    """The answer of a search, for the terminal."""
    return _capacity(capacity)


def _capacity(capacity: Document) -> str:
    if not capacity["rate"]:
        return f"no rate holds p99 ≤ {capacity['objective_ms']:g} ms: {capacity['limit']}"
    p99, ok = capacity["p99_ms"], capacity["ok_per_s"]
    return (
        f"carries {capacity['rate']:.0f} requests/s at p99 ≤ {capacity['objective_ms']:g} ms: "
        f"{ok['median']:.1f} answered a second ({ok['min']:.1f} … {ok['max']:.1f}), p99 {p99['median']:.1f} ms "
        f"({p99['min']:.1f} … {p99['max']:.1f}) in {capacity['confirmed_by']} runs; missed at {capacity['limit']}"
    )


def _load(run: Document) -> str:
    load = run["load"]
    if load["mode"] == "closed":
        return f"{load['users']} users"
    if "trace" in load:
        return f"trace {load['trace']}"
    rate = f"{load['rate']:g}" if isinstance(load["rate"], float) else load["rate"]
    return f"{rate}/s {load['arrivals']}"


def _verdict(verdict: Verdict) -> str:
    value = "no figure" if verdict.value is None else f"{verdict.value:.4g}"
    return f"{verdict.objective} (is {value}{'' if verdict.is_claimed else ', from too few requests'})"


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} ms" if value < 100 else f"{value:.0f} ms"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
