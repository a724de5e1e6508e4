"""What is asked of the queue and what it answers, in no protocol's form."""

from collections.abc import Callable, Mapping

import msgspec

from millrace.protocol.errors import MillraceError
from millrace.protocol.tensors import Tensor

Clock = Callable[[], float]  # seconds since any fixed moment; `time.perf_counter`, unless a test passes another


class InferenceRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A valid request. `max_batch_size` 0: its tensors are not cut and not put beside another's; the model may still
    put others' together, up to `largest_batch` rows.

    `timeout_s` is what is left until the deadline; `trace` is the X-Request-Id; `caller` is the peer's address, ""
    where it is not known. `is_whole`: its rows are not cut, but go beside others'.
    """

    model: str
    version: int
    signature: str
    inputs: dict[str, Tensor]
    rows: int
    max_batch_size: int
    timeout_s: float
    trace: str
    priority: str = "normal"
    caller: str = ""
    is_whole: bool = False
    largest_batch: int = 0


class Timings(msgspec.Struct, frozen=True, gc=False):
    """Where a request's time went after it was parsed, in milliseconds; of several parts, the last one's.

    `batch_rows` are the rows of the batch that it was part of.
    """

    queue_ms: float
    batch_ms: float
    compute_ms: float
    reply_ms: float
    batch_rows: int = 0


class InferenceResponse(msgspec.Struct, frozen=True):
    """The outputs, with as many rows as the request had."""

    outputs: dict[str, Tensor]
    timings: Timings


def size_of(tensors: Mapping[str, Tensor]) -> int:
    """How many bytes the tensors have together."""
    return sum([len(tensor.data) for tensor in tensors.values()])


OnResponse = Callable[[InferenceResponse], None]
OnError = Callable[[MillraceError], None]
OnSent = Callable[[], None]
