"""What the API and the workers say to each other.

    API ──RequestBlock──► request stream ──► worker ──ReplyBlock──► reply stream ──► API

A block is what travels: requests to one signature of one model version that came together at one API process, their
rows laid end to end, one buffer per input. A reply block answers requests of one API process out of one batch in the
same way. Times are milliseconds of the broker's clock; durations are milliseconds.
"""

import msgspec

from millrace.protocol.tensors import Signature, Tensor

NO_VERSION = -1  # of a model that is announced, and has none


class RequestItem(msgspec.Struct, array_like=True, frozen=True):
    """One request, or one part of a request that was cut; `id` is the API process's own.

    `trace` is the X-Request-Id, and of a request that is traced, after a space, the W3C `traceparent`.
    """

    id: int
    trace: str
    rows: int
    deadline_ms: int


def request_id_of(trace: str) -> str:
    """The X-Request-Id in what `RequestItem.trace` says."""
    return trace.partition(" ")[0]


def traceparent_of(trace: str) -> str:
    """The W3C `traceparent` in it, "" where the request is not traced."""
    return trace.partition(" ")[2]


class RequestBlock(msgspec.Struct, frozen=True, kw_only=True):
    """Requests on their way to a worker; every tensor has as many rows as the items together, in their order.

    Where the model does not batch (`max_batch_size` 0), or the request has other shapes than its signature, `has_rows`
    is False: there is one item of one row, and each tensor has a first dimension of 1 before the shape that the caller
    sent. The worker goes by that, for another one may have announced the model in another way.

    `via` names the models that call this one to answer their own requests, the first caller first; it is empty where an
    API process asks.
    """

    reply_to: str
    model: str
    version: int
    signature: str
    sent_ms: float
    items: tuple[RequestItem, ...]
    tensors: dict[str, Tensor]
    has_rows: bool = True
    via: tuple[str, ...] = ()


class ReplyItem(msgspec.Struct, array_like=True, frozen=True):
    """The answer to one request item: its rows in the block's tensors, or an error and no rows.

    `queue_ms` is from sending to a worker's taking it, `batch_ms` from there to the start of the batch's run.
    """

    id: int
    rows: int
    queue_ms: float
    batch_ms: float
    code: str = ""
    message: str = ""


class ReplyBlock(msgspec.Struct, frozen=True, kw_only=True):
    """Answers on their way to one API process. `batch_rows` and `compute_ms` tell of the batch they were part of."""

    worker: str
    compute_ms: float
    batch_rows: int
    items: tuple[ReplyItem, ...]
    tensors: dict[str, Tensor] = {}


class ModelAnnouncement(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One model version at one worker, or `NO_VERSION` where the model has none.

    `state` is TensorFlow Serving's; `error` says why a version failed to load, or is not loaded yet.

    `labels` are the names of classes, `version_labels` those that the configuration gives to this version.
    `available_ms` is since when it is AVAILABLE there. `has_whole_requests` says that a request's rows must run in one
    batch: its outputs are as long as the longest of them. `warmed` is False where its first run is a caller's.
    `instances` are the threads that run it there, 0 where the worker does not say.
    `notes` are sentences: what of its files is left out or special, why its rows are not batched, or it is not warmed
    up.
    `triton_config` is what its `config.pbtxt` says, as a serialized `inference.ModelConfig`.
    """

    name: str
    version: int
    state: str
    error: str = ""
    platform: str = ""
    description: str = ""
    signatures: dict[str, Signature] = {}
    labels: tuple[str, ...] = ()
    max_batch_size: int = 0
    version_labels: tuple[str, ...] = ()
    available_ms: int = 0
    has_whole_requests: bool = False
    warmed: bool = True
    notes: tuple[str, ...] = ()
    triton_config: bytes = b""
    instances: int = 0

    @property
    def shown_version(self) -> str:
        """The version as a list has it, "0" where there is none: the protocols have no number less."""
        return str(max(0, self.version))


class WorkerAnnouncement(msgspec.Struct, frozen=True, kw_only=True):
    """A worker's heartbeat, of `sent_ms`; it counts as live until `expires_ms`, both on the broker's clock.

    `generations` says, by model, what it was asked for at run time and has done (`control.py`). A worker that
    `is_leaving` takes no more requests: `models` are the versions of which it may still have some, and their state is
    END.
    """

    worker: str
    expires_ms: int
    models: tuple[ModelAnnouncement, ...]
    generations: dict[str, int] = {}
    sent_ms: int = 0
    is_leaving: bool = False
