"""Frames that cost us something and bring nothing, of which each client may send a bounded number."""


class Allowance:
    """A bucket of `burst` tokens into which `per_s` flow each second. Times are passed in."""

    __slots__ = ("_burst", "_left", "_per_s", "_since")

    def __init__(self, burst: float, per_s: float) -> None:
        self._burst = burst
        self._per_s = per_s
        self._left = burst
        self._since = 0.0

    def refill(self, now: float) -> None:
        """Let the time until now count."""
        self._left = min(self._burst, self._left + (now - self._since) * self._per_s)
        self._since = now

    def earn(self, tokens: float) -> None:
        """The client did something useful."""
        left = self._left + tokens
        self._left = left if left < self._burst else self._burst

    def spend(self, tokens: float = 1.0) -> bool:
        """Take a token; False where none is left."""
        self._left -= tokens
        return self._left >= 0
