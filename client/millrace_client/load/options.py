"""What a run is, as options: `millrace load` and the locustfile have the same ones."""

import argparse
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from millrace_client.load.payloads import PayloadOptions
from millrace_client.load.schedules import Arrivals, Profile, Times, arrivals, trace
from millrace_client.load.targets import PROTOCOLS, ProtocolName

DEFAULT_SECONDS = 30.0
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)?")
_UNITS = {"ms": 0.001, "s": 1.0, None: 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """A run: what is asked, when, and for how long. Without a `rate` or a `trace` each user waits for its answer."""

    models: tuple[str, ...]
    protocol: ProtocolName
    payload: PayloadOptions
    seconds: float
    warm_up_s: float
    rate: str | None
    trace: Path | None
    arrivals: Arrivals
    seed: int
    is_checked: bool
    timeout_s: float

    @property
    def is_open(self) -> bool:
        """Whether requests are sent at the times of a schedule."""
        return self.rate is not None or self.trace is not None

    def times(self) -> Times:
        """The schedule of an open run, the warm-up first. Raises `ValueError`, `OSError`."""
        if self.trace is not None:
            recorded = trace(self.trace)
            return recorded[recorded < self.warm_up_s + self.seconds]
        profile = Profile.of(self.rate or "")
        measured = arrivals(profile, self.seconds, self.arrivals, self.seed) + self.warm_up_s
        before = arrivals(Profile.of(str(profile.first)), self.warm_up_s, self.arrivals, self.seed + 1)
        return np.concatenate([before, measured])


def declare_run(parser: Any) -> None:
    """Add the options of a run, all but the models, to a parser of argparse's kind."""
    add = parser.add_argument
    add("--protocol", choices=PROTOCOLS, default="oip-json", help="how the server is spoken to (default: %(default)s)")
    add("--rate", help="requests a second, sent on schedule: 500, steps 100,200,400, or a ramp 100..2000")
    add("--arrivals", choices=("poisson", "constant"), default="poisson", help="(default: %(default)s)")
    add("--trace", type=Path, metavar="FILE", help="replay the times in this file, one a line, in seconds")
    add(
        "--for",
        dest="seconds",
        type=duration,
        default=DEFAULT_SECONDS,
        metavar="TIME",
        help="how long to measure: 30s, 5m (default: 30s)",
    )
    add("--warm-up", type=duration, default=2.0, metavar="TIME", help="load before that, not measured (default: 2s)")
    add("--seed", type=int, default=7, help="of the schedule and the payloads (default: %(default)s)")
    add("--fill", choices=("random", "zeros"), default="random", help="what made payloads hold (default: random)")
    add("--batch", type=int, default=1, metavar="ROWS", help="rows of a request (default: %(default)s)")
    add("--payloads", type=int, default=16, metavar="N", help="different requests (default: %(default)s)")
    add(
        "--shape",
        action="append",
        default=[],
        metavar="INPUT:SIZES",
        help="an input's dimensions without the first: name:3,224,224",
    )
    add("--data", type=Path, help="send this: a .npz file, a .jsonl file, or a folder of images")
    add("--check", action="store_true", help="compare each answer with the one that the request gets alone")
    add("--request-timeout", type=duration, default=30.0, metavar="TIME", help="wait this long (default: 30s)")


def run_options(options: argparse.Namespace, models: list[str]) -> RunOptions:
    """What was given. Raises `ValueError`, which says what is wrong."""
    if options.rate is not None and options.trace is not None:
        raise ValueError("--rate and --trace are two schedules: give one")
    made = RunOptions(
        models=tuple(models),
        protocol=options.protocol,
        payload=PayloadOptions(
            fill=options.fill,
            batch=options.batch,
            count=options.payloads,
            seed=options.seed,
            shapes=dict(map(_shape, options.shape)),
            data=Path(options.data) if options.data else None,
        ),
        seconds=options.seconds,
        warm_up_s=options.warm_up,
        rate=options.rate,
        trace=Path(options.trace) if options.trace else None,
        arrivals=options.arrivals,
        seed=options.seed,
        is_checked=options.check,
        timeout_s=options.request_timeout,
    )
    if made.rate is not None:
        Profile.of(made.rate)
    return made


def run_arguments(options: RunOptions) -> list[str]:
    """The same, as arguments of the locustfile."""
    given: Mapping[str, Any] = {
        "--protocol": options.protocol,
        "--rate": options.rate,
        "--arrivals": options.arrivals,
        "--trace": options.trace,
        "--for": options.seconds,
        "--warm-up": options.warm_up_s,
        "--seed": options.seed,
        "--fill": options.payload.fill,
        "--batch": options.payload.batch,
        "--payloads": options.payload.count,
        "--data": options.payload.data,
        "--request-timeout": options.timeout_s,
    }
    arguments = [part for name, value in given.items() if value is not None for part in (name, str(value))]
    for model in options.models:
        arguments += ["--model", model]
    for name, sizes in options.payload.shapes.items():
        arguments += ["--shape", f"{name}:{','.join(map(str, sizes))}"]
    return arguments + ["--check"] * options.is_checked


def duration(text: str) -> float:
    """Seconds: 30, 30s, 500ms, 5m or 1h. Raises `argparse.ArgumentTypeError`."""
    if not (found := _DURATION.fullmatch(str(text).strip())):
        raise argparse.ArgumentTypeError(f"{text!r} is no time: give 30s, 500ms or 5m")
    return float(found[1]) * _UNITS[found[2]]


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    name, _, sizes = text.rpartition(":")
    try:
        return name, tuple(int(size) for size in sizes.split(","))
    except ValueError:
        raise ValueError(f"--shape {text}: give it as name:3,224,224") from None
