"""Jobs of the offload processes and what comes of them, as they are written to files."""

from collections.abc import Mapping

import msgspec

from millrace.protocol import errors
from millrace.protocol.errors import Internal, MillraceError, SignatureNotFound
from millrace.protocol.messages import ModelAnnouncement
from millrace.protocol.tensors import StringLayout, Tensor


class DescribedTensor(msgspec.Struct, array_like=True, frozen=True):
    """A tensor without its elements, which are a buffer of `size` bytes."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    size: int
    layout: StringLayout | None


class ParseJob(msgspec.Struct, tag="parse", frozen=True):
    """Read a body: the buffer of `body_bytes`, or a file of its own. Its outcome is `Parsed`."""

    verb: str
    model: ModelAnnouncement
    body_bytes: int
    max_rows: int
    json_length: bytes | None
    task: int
    content_type: bytes | None = None


class RenderJob(msgspec.Struct, tag="render", frozen=True):
    """Write a response of the tensors in the buffers. Its outcome is `Written`. `accepted` is the Accept-Encoding."""

    verb: str
    model: ModelAnnouncement
    form: msgspec.Raw
    tensors: tuple[DescribedTensor, ...]
    accepted: bytes | None


class Parsed(msgspec.Struct, tag="parsed", frozen=True):
    """What a body asks for; its tensors are in the buffers."""

    signature: str
    timeout_ms: float | None
    priority: str
    rows: int
    form: msgspec.Raw
    tensors: tuple[DescribedTensor, ...]
    is_alone: bool = False


class Written(msgspec.Struct, tag="written", frozen=True):
    """A response's headers; its body is a file of its own."""

    headers: tuple[tuple[str, str], ...]


class Failed(msgspec.Struct, tag="failed", frozen=True):
    """An error: the name of its class, its text, and for one that nobody expected the trace."""

    kind: str
    text: str
    trace: str = ""

    @classmethod
    def of(cls, error: MillraceError) -> "Failed":
        """What is said of an error."""
        text = error.signature if isinstance(error, SignatureNotFound) else str(error)
        return cls(type(error).__name__, text)

    def error(self) -> MillraceError:
        """The error again."""
        kind = getattr(errors, self.kind, Internal)
        error: MillraceError = kind(self.text)
        return error


Job = ParseJob | RenderJob
Outcome = Parsed | Written | Failed
encoder = msgspec.msgpack.Encoder()
job_decoder = msgspec.msgpack.Decoder(Job)
outcome_decoder = msgspec.msgpack.Decoder(Outcome)


def describe(tensors: Mapping[str, Tensor]) -> tuple[DescribedTensor, ...]:
    """The tensors without their elements."""
    return tuple([DescribedTensor(name, t.datatype, t.shape, len(t.data), t.layout) for name, t in tensors.items()])


def with_elements(described: tuple[DescribedTensor, ...], buffers: list[memoryview]) -> dict[str, Tensor]:
    """The tensors, views of the buffers."""
    return {d.name: Tensor(d.datatype, d.shape, data, d.layout) for d, data in zip(described, buffers, strict=True)}
