"""What a roll-out is to do: the shares that a version gets one after the other, and what must hold to go on."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from millrace_client.rolloutnumbers import Numbers

_CONDITION = re.compile(r"\s*(p[1-9]\d(?:(?<!10)\d)?|errors|agreement)\s*([<>])\s*(\d+(?:\.\d+)?)\s*(ms|s|%)?\s*")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing that must hold, such as p99<20ms; `bound` is in seconds, or a share from 0 to 1."""

    text: str
    name: str
    is_below: bool
    bound: float

    def seen(self, numbers: Numbers) -> float:
        """How many requests, answers or rows that were compared say what is measured."""
        known = {"agreement": numbers.compared, "errors": numbers.requests}
        return known.get(self.name, numbers.answered)

    def value(self, numbers: Numbers, least: int) -> float | None:
        """What was measured, None where fewer than `least` say so."""
        if self.seen(numbers) < least:
            return None
        if self.name == "agreement":
            return numbers.agreement
        return numbers.errors if self.name == "errors" else numbers.percentile(float(f"0.{self.name[1:]}"))

    def holds(self, value: float) -> bool:
        """Whether it holds for what was measured."""
        return value < self.bound if self.is_below else value > self.bound

    def shown(self, value: float) -> str:
        """What was measured, in its unit."""
        return f"{value * 1000:.3g} ms" if self.name.startswith("p") else f"{value:.4g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`steps` are percentages of the requests, each held for `every_s`; all conditions must hold to go on.

    `shadow_percent` of the other versions' requests are copied, to compare answers, where a condition asks for that.
    Nothing is decided by fewer than `least` requests.
    """

    version: int
    steps: tuple[float, ...]
    every_s: float
    conditions: tuple[Condition, ...]
    shadow_percent: float = 10.0
    least: int = 50

    @property
    def compares(self) -> bool:
        """Whether answers are compared."""
        return any(condition.name == "agreement" for condition in self.conditions)

    @property
    def promote_if(self) -> str:
        """The conditions as they were given."""
        return ", ".join(condition.text for condition in self.conditions)


def conditions_of(text: str) -> tuple[Condition, ...]:
    """The conditions in `p99<20ms, errors<0.1%, agreement>0.99`. Raises `ValueError`."""
    return tuple(_condition(part) for part in text.split(","))


def _condition(text: str) -> Condition:
    found = _CONDITION.fullmatch(text)
    if not found:
        raise ValueError(f"{text.strip()!r} is no condition: p99<20ms, errors<0.1% or agreement>0.99 is one")
    name, sign, number, unit = found.groups()
    is_time = name.startswith("p")
    if is_time != (unit in ("ms", "s")) or (sign == "<") != (name != "agreement"):
        raise ValueError(
            f"{text.strip()!r} is no condition: times are below so many ms or s, agreement is above a share"
        )
    scale = _SECONDS[unit] if is_time else 0.01 if unit == "%" else 1.0
    return Condition(text.strip(), name, sign == "<", float(number) * scale)


def steps_of(text: str) -> tuple[float, ...]:
    """The percentages in `5,25,100`, each larger than the one before, and at the end 100. Raises `ValueError`."""
    steps = tuple(percent_of(part) for part in text.split(","))
    if list(steps) != sorted(set(steps)) or steps[-1] != 100:
        raise ValueError("the steps grow, and the last one is 100")
    return steps


def least_of(text: str) -> int:
    """The number of requests to decide by, in `50`. Raises `ValueError`."""
    if not text.strip().isdecimal() or not int(text):
        raise ValueError(f"a roll-out decides by 1 request or more, got {text.strip()}")
    return int(text)


def percent_of(text: str) -> float:
    """The number in `5%` or `5`. Raises `ValueError`."""
    percent = float(text.strip().removesuffix("%"))
    if not 0 < percent <= 100:
        raise ValueError(f"a share is above 0 and at most 100 percent, got {text.strip()}")
    return percent


def seconds_of(text: str) -> float:
    """The time in `2m`, `30s`, `500ms` or `1h`, in seconds. Raises `ValueError`."""
    found = _DURATION.fullmatch(text.strip())
    if not found:
        raise ValueError(f"{text!r} is no time: 30s, 2m or 1h is one")
    return float(found[1]) * _SECONDS[found[2]]


def starting_with(first: float | None, steps: Sequence[float]) -> tuple[float, ...]:
    """The steps from the first share on, which is put before them where it is none of them."""
    return tuple(steps) if first is None else (first, *(step for step in steps if step > first))
