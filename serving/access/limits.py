"""How many requests a key may make: a rate, and how many at once. Time is passed in, in seconds."""

import math
import re
from typing import NamedTuple

_RATE = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)/(s|min|h)")
EXCHANGE_S = 1.0  # how often the processes tell each other what they took
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

    Several API processes have one bucket together: each has a copy, and takes out of it what the others took when they
    tell it (`others_took`). Until they tell again, it may spend no more than a part of what is there: `may_spend`.
    `taken` counts the tokens that were taken here.
    """

    __slots__ = ("_filled_s", "_most", "_per_s", "_tokens", "may_spend", "rate", "taken")

    def __init__(self, rate: Rate, now_s: float) -> None:
        self.rate = rate
        self._per_s, self._most = rate.requests / rate.seconds, max(1.0, rate.requests)
        self.may_spend = math.inf
        self.taken = 0
        self._tokens = self._most
        self._filled_s = now_s

    def take(self, now_s: float) -> float:
        """Take a token; 0 where there is one, else in how many seconds there will be."""
        if self.tokens(now_s) < 1 or self.may_spend < 1:
            return self.missing_s(now_s)
        self._tokens -= 1
        self.may_spend -= 1
        self.taken += 1
        return 0.0

    def missing_s(self, now_s: float) -> float:
        """In how many seconds there will be a token; 0 where there is one."""
        tokens = self.tokens(now_s)
        if tokens < 1:
            return (1 - tokens) / self._per_s
        return 0.0 if self.may_spend >= 1 else EXCHANGE_S

    def tokens(self, now_s: float) -> float:
        """How many there are now; below 0 where the processes took more than there were before they knew it."""
        tokens = self._tokens + (now_s - self._filled_s) * self._per_s
        self._tokens = tokens = tokens if tokens < self._most else self._most
        self._filled_s = now_s
        return tokens

    def others_took(self, count: float, now_s: float) -> None:
        """Take out what the other processes took."""
        self._tokens = self.tokens(now_s) - count

    def have_at_most(self, tokens: float, now_s: float) -> None:
        """Another process, which knows more of the past, has so many."""
        self._tokens = min(self.tokens(now_s), tokens)

    def share(self, part: float, now_s: float) -> None:
        """Until the next exchange this process may spend that part of what is there and comes in, and one at least."""
        coming = self._per_s * EXCHANGE_S
        self.may_spend = math.inf if part >= 1 else max(1.0, (self.tokens(now_s) + coming) * part)
