"""One call: what a caller asked of a model and what was answered, in no protocol's form."""

from typing import Any

import msgspec

from millrace.protocol.errors import MillraceError
from millrace.protocol.tensors import Tensor
from serving.queueing.requests import Timings


class Call(msgspec.Struct, eq=False):
    """What was asked, and what was answered.

    Asked: `target_version` or `label` of `target_model`, None where any will do; `signature`, `inputs`, `timeout_ms`
    and `priority`, once the body is read. `caller` is the peer's address, "" where it is not known; of a caller with a
    key or a certificate it is the `name`. `key` is what the call counts against until it has ended. The inputs are
    dropped when they are in the queue, the outputs when the response is written. `form` is how the protocol is to write
    it.

    Answered: the `model` and the `version` that did it, "" and 0 where none was found; `outputs` or `error`; `timings`.
    `started` is a time of `time.perf_counter`, `seconds` what passed until the end. `status` is HTTP's: 0 before the
    end, 499 where nobody waited.
    """

    protocol: str
    request_id: str
    started: float
    caller: str = ""
    target_model: str = ""
    target_version: int | None = None
    label: str | None = None
    timeout_ms: float = 0.0
    priority: str = "normal"
    signature: str = ""
    inputs: dict[str, Tensor] = {}
    form: object = None
    model: str = ""
    version: int = 0
    outputs: dict[str, Tensor] = {}
    error: MillraceError | None = None
    timings: Timings | None = None
    parse_ms: float = 0.0
    seconds: float = 0.0
    status: int = 0
    name: str = ""
    key: Any = None  # serving.access.gate.Key
    trace: Any = None  # serving.tracing.context.TraceContext, where requests are traced

    @property
    def deadline(self) -> float:
        """Until when an answer is of use, as a time of `time.perf_counter`."""
        return self.started + self.timeout_ms / 1000
