"""What a run has shown, as one document: its schema is in docs/reference/load-results.md."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from millrace_client.load.histogram import Histogram
from millrace_client.load.tally import KINDS, Tally

SCHEMA = "millrace-load/1"
PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p999": 99.9}
# A generator may be late by this much at its p99, or by a tenth of the p99 that it measures.
MAX_SEND_LAG_MS = 5.0
MAX_CPU = 0.95  # of a core: a generator that needs more is the limit, and not the server


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How a run was made: what the document says of it beside its figures."""

    host: str
    protocol: str
    models: tuple[str, ...]
    load: Mapping[str, Any]
    seconds: float
    started_at: str
    command: tuple[str, ...]
    environment: Mapping[str, Any]
    objective_ms: float | None = None
    max_send_lag_ms: float = MAX_SEND_LAG_MS


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What the generator's processes counted together. `cpu` is the share of a core that each of them used.

    `server_ms` are the means of the stages that the server counted itself, and `server_source` says where.
    """

    tally: Tally
    cpu: tuple[float, ...]
    outstanding: int = 0
    server_ms: Mapping[str, float] = field(default_factory=dict)
    server_source: str = ""


def result(setting: Setting, counted: Counted) -> dict[str, Any]:
    """The document of a run."""
    tally = counted.tally
    ok, refused = tally.kinds["ok"], tally.kinds["refused"]
    failures = {kind: tally.kinds[kind] for kind in KINDS if kind not in ("ok", "refused")}
    reasons = _why_invalid(setting, counted)
    return {
        "schema": SCHEMA,
        "started_at": setting.started_at,
        "command": list(setting.command),
        "environment": dict(setting.environment),
        "target": {"host": setting.host, "protocol": setting.protocol, "models": list(setting.models)},
        "load": dict(setting.load),
        "seconds": setting.seconds,
        "requests": tally.requests,
        "ok": ok,
        "refused": refused,
        "failed": sum(failures.values()),
        "failures": failures,
        "errors": dict(tally.messages),
        "requests_per_s": tally.requests / setting.seconds,
        "ok_per_s": ok / setting.seconds,
        "latency_ms": _latency(tally.latency),
        "send_lag_ms": _lag(tally.lag),
        "goodput": _goodput(setting, tally),
        "stages_ms": _stages(counted),
        "generator_cpu": [round(share, 3) for share in counted.cpu],
        "valid": not reasons,
        "invalid": reasons,
        "notes": _notes(tally),
        "windows": _windows(tally),
        "raw": tally.document(),
    }


def ms(us: float) -> float | None:
    """Microseconds in milliseconds; None for NaN, which JSON has not."""
    return None if math.isnan(us) else round(us / 1000, 4)


def needed(percent: float) -> int:
    """The fewest requests from which a percentile is claimed: ten have to lie above it."""
    return math.ceil(10 / (1 - percent / 100) - 1e-6)


def _latency(latency: Histogram) -> dict[str, float | None]:
    shown = {name: ms(latency.percentile_us(percent)) for name, percent in PERCENTILES.items()}
    return shown | {"mean": ms(latency.mean_us()), "max": ms(latency.max_us if latency.count else math.nan)}


def _lag(lag: Histogram) -> dict[str, float | None] | None:
    if not lag.count:
        return None
    return {"p50": ms(lag.percentile_us(50)), "p99": ms(lag.percentile_us(99)), "max": ms(lag.max_us)}


def _goodput(setting: Setting, tally: Tally) -> dict[str, float] | None:
    if setting.objective_ms is None:
        return None
    within = tally.latency.within(setting.objective_ms * 1000)
    share = within / tally.requests if tally.requests else 0.0
    return {"objective_ms": setting.objective_ms, "share": share, "per_s": within / setting.seconds}


def _stages(counted: Counted) -> dict[str, Any]:
    """The client's parts and the server's: its own header's, or else its own counts' means over the run."""
    tally = counted.tally
    split: dict[str, dict[str, Any]] = {"client": {}, "server": {}}
    for name, histogram in tally.stages.items():
        side, _, stage = name.rpartition(":")
        split[side or "client"][stage] = {
            "mean": ms(histogram.mean_us()),
            "p50": ms(histogram.percentile_us(50)),
            "p99": ms(histogram.percentile_us(99)),
        }
    source = "Server-Timing" if split["server"] else None
    if source is None and counted.server_ms:
        source = counted.server_source
        split["server"] = {
            name: {"mean": round(mean, 4), "p50": None, "p99": None} for name, mean in counted.server_ms.items()
        }
    return {**split, "source": source}


def _windows(tally: Tally) -> list[dict[str, Any]]:
    seconds = sorted({*tally.windows, *tally.window_failures})
    empty = Histogram()
    return [
        {"second": second, "ok": window.count, "failed": tally.window_failures[second], **_latency(window)}
        for second, window in ((second, tally.windows.get(second, empty)) for second in seconds)
    ]


def _why_invalid(setting: Setting, counted: Counted) -> list[str]:
    tally, reasons = counted.tally, []
    if not tally.kinds["ok"]:
        reasons.append("no request was answered")
    if tally.lag.count:
        lag_ms, p99_ms = tally.lag.percentile_us(99) / 1000, tally.latency.percentile_us(99) / 1000
        if lag_ms > max(setting.max_send_lag_ms, 0.0 if math.isnan(p99_ms) else p99_ms / 10):
            reasons.append(f"the generator fell behind its schedule: send lag p99 {lag_ms:.1f} ms")
    if any(share > MAX_CPU for share in counted.cpu):
        reasons.append(f"the generator needed a whole core ({max(counted.cpu):.0%}): use more --processes")
    if tally.kinds["unfinished"]:
        reasons.append(f"{tally.kinds['unfinished']} requests were cut off: the run was stopped")
    if counted.outstanding:
        reasons.append(f"{counted.outstanding} processes of the generator were lost")
    return reasons


def _notes(tally: Tally) -> list[str]:
    few = [name for name, percent in PERCENTILES.items() if tally.latency.count < needed(percent)]
    return [f"too few requests to claim {', '.join(few)}"] if few else []
