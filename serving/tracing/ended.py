"""What is kept of a sampled call that has ended, until its spans are made."""

import time
from typing import NamedTuple

from serving.call import Call
from serving.queueing.requests import Timings
from serving.tracing.context import TraceContext


class Ended(NamedTuple):
    """A call that has ended; `end_ns` is Unix time, `receive_s` how long its body took to arrive."""

    context: TraceContext
    end_ns: int
    seconds: float
    receive_s: float
    parse_ms: float
    timings: Timings | None
    model: str
    version: int
    protocol: str
    request_id: str
    status: int
    error: str

    @classmethod
    def of(cls, context: TraceContext, call: Call) -> "Ended":
        """What is to be told of the call, which has ended now."""
        return cls(
            context=context,
            end_ns=time.time_ns(),
            seconds=call.seconds,
            receive_s=max(0.0, call.started - context.received_at) if context.received_at else 0.0,
            parse_ms=call.parse_ms,
            timings=call.timings,
            model=call.model or call.target_model[:128],
            version=call.version,
            protocol=call.protocol,
            request_id=call.request_id,
            status=call.status,
            error=call.error.code if call.error else "",
        )
