"""What one protocol makes of one verb: how a body is read, how the outputs are written, in which words it fails.

All of it are pure functions of data that can cross a process boundary, so that the event loop and the processes of
`serving.offload` run the same ones.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from millrace.protocol.errors import MillraceError
from millrace.protocol.tensors import Tensor
from serving.models.registry import ServedModel
from serving.protocols.limits import QUICK_VALUES, ReadLimits
from serving.queueing.admission import Inference

_SMALL_BYTES = 4 * QUICK_VALUES  # in which there are no more strings, and no more numbers that are worth a thought
JSON_HEADERS = (("content-type", "application/json"),)


class Body(msgspec.Struct, frozen=True):
    """A request's body, without its content coding, and what is needed beside it to read it.

    `json_length` is the header Inference-Header-Content-Length; `task` counts the tasks of a MultiInferenceRequest.
    `message` is the body's message where it was read already. `content_type` is that of a body of files, None of any
    other (see `uploads`).
    """

    data: bytes | memoryview
    json_length: bytes | None = None
    task: int = 0
    message: Any = None
    content_type: bytes | None = None


class Rendered(NamedTuple):
    """A response's body in one protocol's form, and the headers that describe it."""

    body: bytes
    headers: tuple[tuple[str, str], ...] = JSON_HEADERS


class Verb(NamedTuple):
    """One protocol's form of one verb.

    `parse` reads a body: what is asked, and the form that the response takes, of type `form`. `render` writes the
    outputs in that form. Both raise `MillraceError`, and `NotQuick` where the limits say that time is short.
    `priority` is the highest that a body may name; `packs` says whether responses get a content coding.
    """

    name: str
    protocol: str
    form: Any
    parse: Callable[[Body, ServedModel, ReadLimits], tuple[Inference, Any]]
    render: Callable[[ServedModel, Mapping[str, Tensor], Any, ReadLimits], Rendered]
    error_text: Callable[[MillraceError], str]
    priority: str
    packs: bool = False


def check_quick_to_write(outputs: Mapping[str, Tensor], limits: ReadLimits) -> None:
    """Raises `NotQuick` where writing the outputs as text takes longer than the limits allow."""
    if limits.max_quick and not are_small(outputs):
        limits.check_quick(sum(map(_effort, outputs.values())))


def are_small(outputs: Mapping[str, Tensor]) -> bool:
    """Whether the outputs are so small that no look at them is needed, however they are to be written."""
    size = 0
    for tensor in outputs.values():
        size += len(tensor.data)
    return size <= _SMALL_BYTES


def _effort(tensor: Tensor) -> int:
    """What writing a tensor costs: a string, or eight numbers, count as one value of those that are read."""
    if tensor.datatype != "BYTES":
        return len(tensor.data) >> 5
    elements = 1
    for size in tensor.shape:
        elements *= size
    return elements + (len(tensor.data) >> 7)
