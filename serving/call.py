"""One call: what a caller asked of a model and what was answered, in no protocol's form."""

import time

from millrace.protocol.errors import MillraceError
from millrace.protocol.tensors import Tensor
from serving.queueing.requests import Timings


class Call:
    """What was asked, and what was answered.

    Asked: `target_version` or `label` of `target_model`, None where any will do; `signature`, `inputs`, `timeout_ms`
    and `priority`, once the body is read. `caller` is the peer's address, "" where it is not known. The inputs are
    dropped when they are in the queue, the outputs when the response is written. `form` is how the protocol is to write
    it.

    Answered: the `model` and the `version` that did it, "" and 0 where none was found; `outputs` or `error`; `timings`.
    `started` is a time of `time.perf_counter`, `seconds` what passed until the end. `status` is HTTP's: 0 before the
    end, 499 where nobody waited.
    """

    __slots__ = (
        "caller", "error", "form", "inputs", "label", "model", "outputs", "parse_ms", "priority", "protocol",
        "request_id", "seconds", "signature", "started", "status", "target_model", "target_version",
        "timeout_ms", "timings", "version",
    )  # fmt: skip

    def __init__(
        self,
        protocol: str,
        request_id: str,
        *,
        model: str = "",
        version: int | None = None,
        label: str | None = None,
        timeout_ms: float = 0.0,
        caller: str = "",
    ) -> None:
        self.protocol = protocol
        self.request_id = request_id
        self.caller = caller
        self.target_model = model
        self.target_version = version
        self.label = label
        self.timeout_ms = timeout_ms
        self.priority = "normal"
        self.signature = ""
        self.inputs: dict[str, Tensor] = {}
        self.form: object = None
        self.started = time.perf_counter()
        self.model = ""
        self.version = 0
        self.outputs: dict[str, Tensor] = {}
        self.error: MillraceError | None = None
        self.timings: Timings | None = None
        self.parse_ms = 0.0
        self.seconds = 0.0
        self.status = 0

    @property
    def deadline(self) -> float:
        """Until when an answer is of use, as a time of `time.perf_counter`."""
        return self.started + self.timeout_ms / 1000
