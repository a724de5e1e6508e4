"""The work of an offload process: a job to its outcome, by the functions that the event loop uses too."""

import traceback
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import msgspec

from millrace.protocol.errors import MillraceError, PayloadTooLarge
from millrace.protocol.messages import ModelAnnouncement
from serving.models.registry import ServedModel
from serving.offload.files import Buffer, buffers_of
from serving.offload.jobs import (
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
from serving.transport.content_encoding import coding_for, pack

NO_MEMORY = "reading the request, or writing its response, needs more memory than one request may have"


class Done(NamedTuple):
    """An outcome and its buffers, or the body that is a file of its own."""

    outcome: Outcome
    buffers: Sequence[Buffer] = ()
    body: Buffer | None = None


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
    model, verb = _model(msgspec.msgpack.encode(job.model)), VERBS[job.verb]
    inference, form = verb.parse(
        Body(data, job.json_length, job.task, content_type=job.content_type), model, ReadLimits(job.max_rows)
    )
    rows = check(inference, job.max_rows)
    raw = msgspec.Raw(encoder.encode(form))
    tensors = inference.inputs
    parsed = Parsed(
        signature=inference.signature,
        timeout_ms=inference.timeout_ms,
        priority=inference.priority,
        rows=rows,
        form=raw,
        tensors=describe(tensors),
        is_alone=inference.is_alone,
    )
    return Done(parsed, [tensor.data for tensor in tensors.values()])


def _render(job: RenderJob, contents: memoryview) -> Done:
    verb = VERBS[job.verb]
    tensors = with_elements(job.tensors, buffers_of(contents, [each.size for each in job.tensors]))
    form = msgspec.msgpack.decode(job.form, type=verb.form)
    rendered = verb.render(_model(msgspec.msgpack.encode(job.model)), tensors, form, ReadLimits())
    rendered = packed(rendered, job.accepted)
    return Done(Written(rendered.headers), (), rendered.body)


def packed(rendered: Rendered, accepted: bytes | None) -> Rendered:
    """The response in the content coding that the caller prefers."""
    coding = coding_for(accepted, len(rendered.body))
    if not coding:
        return rendered
    return Rendered(pack(rendered.body, coding), (*rendered.headers, ("content-encoding", coding)))


@lru_cache(maxsize=16)
def _model(announcement: bytes) -> ServedModel:
    return ServedModel(msgspec.msgpack.decode(announcement, type=ModelAnnouncement))
