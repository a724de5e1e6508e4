"""The W3C trace context: where a request stands in a trace that may have begun elsewhere.

https://www.w3.org/TR/trace-context/: `traceparent: 00-TRACE_ID-PARENT_ID-FLAGS`, in lower-case hexadecimal.
"""

import random
import re
from collections.abc import Callable
from typing import NamedTuple

_TRACEPARENT = re.compile(rb"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 1


class Parent(NamedTuple):
    """What the caller's header says: the trace, the caller's own span, and whether it is sampled."""

    trace_id: int
    span_id: int
    is_sampled: bool


class TraceContext:
    """One request's place in a trace: its own span in the trace, below the caller's where there is one (else 0).

    `received_at` is when its body began to arrive, as a time of `time.perf_counter`; 0 where it came at once.
    """

    __slots__ = ("is_sampled", "parent_id", "received_at", "span_id", "trace_id")

    def __init__(self, trace_id: int, parent_id: int, span_id: int, *, is_sampled: bool, received_at: float) -> None:
        self.trace_id = trace_id
        self.parent_id = parent_id
        self.span_id = span_id
        self.is_sampled = is_sampled
        self.received_at = received_at

    @property
    def traceparent(self) -> str:
        """The header for whatever is asked on the request's behalf, and for its answer."""
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-{int(self.is_sampled):02x}"

    def beside(self, request_id: str) -> str:
        """What travels with the request through the queue: its id, and the header where it is sampled."""
        return f"{request_id} {self.traceparent}" if self.is_sampled else request_id


def read(header: bytes | None) -> Parent | None:
    """What the header says; None for none, and for one that does not keep to the form: a new trace begins then."""
    found = _TRACEPARENT.fullmatch(header.strip()) if header and len(header) <= 512 else None
    if not found or (found[1] == b"00" and found[5]):
        return None
    trace_id, span_id = int(found[2], 16), int(found[3], 16)
    return Parent(trace_id, span_id, bool(int(found[4], 16) & _SAMPLED)) if trace_id and span_id else None


def new_id(bits: int, draw: Callable[[int], int] = random.getrandbits) -> int:
    """An id by chance, never 0."""
    return draw(bits) or 1
