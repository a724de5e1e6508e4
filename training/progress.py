"""A progress bar in one line of the terminal, which says how far an epoch is and how long it will take.

Where standard error is no terminal (a log file, a pipe) nothing is drawn: there a line per epoch is enough.
"""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

_WIDTH = 30
_EVERY_S = 0.2

Item = TypeVar("Item")


def shown(items: Iterable[Item], total: int, title: str) -> Iterator[Item]:
    """The items, while a bar tells how many of `total` were taken."""
    if not sys.stderr.isatty():
        yield from items
        return
    begun = drawn = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        if (now := time.monotonic()) - drawn >= _EVERY_S:
            drawn = now
            print(f"\r{bar(title, done, total, now - begun)}\033[K", end="", file=sys.stderr, flush=True)
    print("\r\033[K", end="", file=sys.stderr, flush=True)


def bar(title: str, done: int, total: int, elapsed_s: float) -> str:
    """The line itself; a total that was guessed too low is corrected to what is done."""
    total = max(done, total, 1)
    filled = _WIDTH * done // total
    left_s = elapsed_s / max(done, 1) * (total - done)
    return f"{title} |{'█' * filled}{' ' * (_WIDTH - filled)}| {done}/{total}, {left_s:.0f} s left"
