"""The work of an offload process: a job to its outcome, by the functions that the event loop uses too."""

import traceback
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import msgspec

from millrace.protocol.errors import MillraceError, PayloadTooLarge
from millrace.protocol.messages import ModelAnnouncement
from serving.models.registry import ServedModel
from serving.offload.memory import Buffer, buffers_of
from serving.offload.messages import (
    Failed,
    Job,
    Outcome,
    Parsed,
    ParseJob,
    RenderJob,
    Written,
    describe,
    encoder,
    with_elements,
)
from serving.protocols.limits import ReadLimits
from serving.protocols.verb import Body, Rendered
from serving.protocols.verbs import VERBS
from serving.queueing.admission import check
from serving.transport.content_encoding import coding_for, pack, unpack

NO_MEMORY = "reading the request, or writing its response, needs more memory than one request may have"
_MAX_RATIO = 256  # of a body to what was sent of it; numbers in JSON reach 10, images of one colour 200
_FREE_BYTES = 2**20


class Done(NamedTuple):
    """An outcome and its buffers."""

    outcome: Outcome
    buffers: Sequence[Buffer] = ()


def run(job: Job, contents: memoryview, body: memoryview | None) -> Done:
    """Do a job; errors are outcomes. `contents` is the job's file, `body` that of a body that has its own."""
    try:
        return _parse(job, contents, body) if isinstance(job, ParseJob) else _render(job, contents)
    except MillraceError as error:
        return Done(Failed.of(error))
    except MemoryError:
        return Done(Failed.of(PayloadTooLarge(NO_MEMORY)))
    except Exception as error:
        return Done(Failed("Internal", type(error).__name__, traceback.format_exc()))


def _parse(job: ParseJob, contents: memoryview, body: memoryview | None) -> Done:
    (data,) = (body,) if body is not None else buffers_of(contents, [job.body_bytes])
    plain: Buffer = unpacked(bytes(data), job.coding, job.max_body_bytes) if job.coding else data
    model, verb = _model(msgspec.msgpack.encode(job.model)), VERBS[job.verb]
    inference, form = verb.parse(Body(plain, job.json_length, job.task), model, ReadLimits(job.max_rows))
    rows = check(inference, job.max_rows)
    raw = msgspec.Raw(encoder.encode(form))
    tensors = inference.inputs
    parsed = Parsed(inference.signature, inference.timeout_ms, inference.priority, rows, raw, describe(tensors))
    return Done(parsed, [tensor.data for tensor in tensors.values()])


def unpacked(body: bytes, coding: bytes, max_body_bytes: int) -> bytes:
    """The body without its content coding, bounded in size and in its ratio to what was sent.

    Raises `PayloadTooLarge`, `CodingNotSupported`, and `InvalidRequest` where it cannot be unpacked.
    """
    most = min(max_body_bytes, max(_FREE_BYTES, _MAX_RATIO * len(body)))
    plain = unpack(body, coding, most)
    if plain is not None:
        return plain
    if most < max_body_bytes:
        raise PayloadTooLarge(f"the request body unpacks to more than {_MAX_RATIO} times its size, which is the limit")
    raise PayloadTooLarge(f"the request body is larger than the {max_body_bytes} bytes that are allowed")


def _render(job: RenderJob, contents: memoryview) -> Done:
    verb = VERBS[job.verb]
    tensors = with_elements(job.tensors, buffers_of(contents, [each.size for each in job.tensors]))
    form = msgspec.msgpack.decode(job.form, type=verb.form)
    rendered = verb.render(_model(msgspec.msgpack.encode(job.model)), tensors, form, ReadLimits())
    rendered = packed(rendered, job.accepted)
    return Done(Written(len(rendered.body), rendered.headers), [rendered.body])


def packed(rendered: Rendered, accepted: bytes | None) -> Rendered:
    """The response in the content coding that the caller prefers."""
    coding = coding_for(accepted, len(rendered.body))
    if not coding:
        return rendered
    return Rendered(pack(rendered.body, coding), (*rendered.headers, ("content-encoding", coding)))


@lru_cache(maxsize=16)
def _model(announcement: bytes) -> ServedModel:
    return ServedModel(msgspec.msgpack.decode(announcement, type=ModelAnnouncement))
