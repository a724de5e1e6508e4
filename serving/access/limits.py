"""How many requests a key may make: a rate, and how many at once. Time is passed in, in seconds."""

import re
from typing import NamedTuple

_RATE = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)/(s|min|h)")
_SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0}


class Rate(NamedTuple):
    """So many requests in that time."""

    requests: float
    seconds: float


def read_rate(text: str) -> Rate:
    """The rate in a text such as 50/s, 100/min or 1000/h. Raises `ValueError`."""
    match = _RATE.fullmatch(text)
    if not match or not float(match[1]):
        raise ValueError(f"a rate is a number above 0 and /s, /min or /h, such as 50/s; got {text[:50]!r}")
    return Rate(float(match[1]), _SECONDS[match[2]])


class Bucket:
    """Tokens that come in at a rate, as many as its requests at most; each request takes one.

    `share` is the part of the rate that is this process's.
    """

    __slots__ = ("_filled_s", "_tokens", "rate", "share")

    def __init__(self, rate: Rate, now_s: float, share: float = 1.0) -> None:
        self.rate = rate
        self.share = share
        self._tokens = self._most
        self._filled_s = now_s

    @property
    def _most(self) -> float:
        return max(1.0, self.rate.requests * self.share)

    def take(self, now_s: float) -> float:
        """Take a token; 0 where there is one, else in how many seconds there will be."""
        missing_s = self.missing_s(now_s)
        if not missing_s:
            self._tokens -= 1
        return missing_s

    def missing_s(self, now_s: float) -> float:
        """In how many seconds there will be a token; 0 where there is one."""
        per_s = self.rate.requests * self.share / self.rate.seconds
        self._tokens = min(self._most, self._tokens + (now_s - self._filled_s) * per_s)
        self._filled_s = now_s
        return 0.0 if self._tokens >= 1 else (1 - self._tokens) / per_s
