"""The tree of errors that a caller can meet, with the HTTP status of each and whether trying again can help.

MillraceError                       status  code                 again?
├── InvalidRequest                  400     INVALID_ARGUMENT     no      the request itself is wrong
│   ├── SignatureNotFound           400     INVALID_ARGUMENT     no
│   └── VersionOutOfRange           400     INVALID_ARGUMENT     no
├── NotAuthenticated                401     UNAUTHENTICATED      no      a key is needed, and none that is known came
├── NotAllowed                      403     PERMISSION_DENIED    no      neither settings nor the caller's key let it
├── NotFound                        404     NOT_FOUND            no      no such thing
│   └── ModelNotFound               404     NOT_FOUND            no      no such model, or no such version of it
├── Conflict                        409     ALREADY_EXISTS       no      it is there already, and is something else
├── PayloadTooLarge                 413     INVALID_ARGUMENT     no      larger than the server takes
├── CodingNotSupported              415     INVALID_ARGUMENT     no      the body is packed in a way that is not known
├── QueueFull                       429     RESOURCE_EXHAUSTED   yes     refused at once; `retry_after_s` says when
│   └── LimitReached                429     RESOURCE_EXHAUSTED   yes     the caller's key may not make more requests now
├── Cancelled                       499     CANCELLED            no      the caller went away
├── ModelFailed                     500     INTERNAL             no      the model raised, or answered nonsense
├── Internal                        500     INTERNAL             no      a fault of ours
├── NotSupported                    501     UNIMPLEMENTED        no
├── Unavailable                     503     UNAVAILABLE          yes     the queue cannot be reached or takes no writes
│   └── NoWorker                    503     UNAVAILABLE          yes     no live worker has the model
│       └── NotReady                503     UNAVAILABLE          yes     one has it, and it cannot answer yet
├── DeadlineExceeded                504     DEADLINE_EXCEEDED    yes     not answered before the request's deadline
└── StorageFull                     507     RESOURCE_EXHAUSTED   yes     the files that are kept leave no room for more

Errors cross the queue as `{code, message}` (see `from_wire`), never as a pickled exception.
"""

from collections.abc import Mapping
from typing import ClassVar

from millrace.protocol.paths import without_paths


class MillraceError(Exception):
    """The base of all; `str(error)` is the text for the caller.

    `request_id` is that of the request where it stands in a record already, else "".
    """

    request_id = ""
    code: ClassVar[str] = "INTERNAL"
    status: ClassVar[int] = 500
    can_retry: ClassVar[bool] = False


class InvalidRequest(MillraceError):
    """The request is wrong in itself: shape, datatype, missing input, malformed body."""

    code = "INVALID_ARGUMENT"
    status = 400


class SignatureNotFound(InvalidRequest):
    """The model has no signature of that name; gRPC words this in another way, hence the attribute."""

    def __init__(self, signature: str) -> None:
        super().__init__(f'Serving signature name: "{signature}" not found in signature def')
        self.signature = signature


class VersionOutOfRange(InvalidRequest):
    """A version is a number of 64 bits; each protocol words this in its own way, hence the attribute."""

    def __init__(self, version: int) -> None:
        super().__init__(f"the version {version} is not a number of 64 bits")
        self.version = version


class NotAuthenticated(MillraceError):
    """A key is needed, and the request has none that is known."""

    code = "UNAUTHENTICATED"
    status = 401


class NotAllowed(MillraceError):
    """What the server's settings do not let its callers do, or a caller's key does not let it do."""

    code = "PERMISSION_DENIED"
    status = 403


class NotFound(MillraceError):
    """Something that is asked for by its name, and is not here."""

    code = "NOT_FOUND"
    status = 404


class ModelNotFound(NotFound):
    """No live worker has announced that model, or that version of it.

    Each protocol words this in its own way, hence the attributes; `version` is None for "the latest". What `was_here`
    was unloaded or deleted.
    """

    def __init__(self, model: str, version: int | None = None, *, was_here: bool = False) -> None:
        super().__init__(
            f"model {model!r} not found" if version is None else f"model {model!r} has no version {version}"
        )
        self.model = model
        self.version = version
        self.was_here = was_here


class Conflict(MillraceError):
    """What is asked for under a name that something else has, or of something that is in another state."""

    code = "ALREADY_EXISTS"
    status = 409


class PayloadTooLarge(MillraceError):
    """The body is larger than the server takes."""

    code = "INVALID_ARGUMENT"
    status = 413


class CodingNotSupported(MillraceError):
    """The body is packed in a way that the server does not know."""

    code = "INVALID_ARGUMENT"
    status = 415


class QueueFull(MillraceError):
    """The model's queue holds all the rows that it may; nothing was queued."""

    code = "RESOURCE_EXHAUSTED"
    status = 429
    can_retry = True

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class LimitReached(QueueFull):
    """The caller's key may not make more requests now."""


class Cancelled(MillraceError):
    """The caller went away before the answer came."""

    code = "CANCELLED"
    status = 499


class ModelFailed(MillraceError):
    """The model raised while it ran, or answered something that does not fit its signature."""


class Internal(MillraceError):
    """A fault of the server's own; the log has the trace under the request's id."""


class NotSupported(MillraceError):
    """Part of a protocol that this server does not offer."""

    code = "UNIMPLEMENTED"
    status = 501


class Unavailable(MillraceError):
    """The queue cannot be reached or takes no writes; trying again may help."""

    code = "UNAVAILABLE"
    status = 503
    can_retry = True


class NoWorker(Unavailable):
    """No live worker has the model loaded."""


class NotReady(NoWorker):
    """A version that workers know and that cannot answer; Triton has words of its own, hence the attributes."""

    def __init__(self, model: str, version: int, reason: str) -> None:
        what = f"model {model!r}" + (f" version {version}" if version >= 0 else "")  # below, it has no version at all
        super().__init__(f"no live worker has {what} available: {reason}")
        self.model = model
        self.version = version
        self.reason = reason


class DeadlineExceeded(MillraceError):
    """The request's deadline passed before an answer came."""

    code = "DEADLINE_EXCEEDED"
    status = 504
    can_retry = True


class RowErrors(Exception):
    """Some rows of a batch are wrong in themselves: each bad row's number, from 0, and its error.

    A model raises it in place of an answer; the other rows then run again without them. Callers see the rows' errors,
    and never this one.
    """

    def __init__(self, errors: Mapping[int, MillraceError]) -> None:
        super().__init__(f"rows {sorted(errors)} are wrong: {next(iter(errors.values()))}")
        self.errors = dict(errors)


class StorageFull(MillraceError):
    """What is kept for callers fills the room that it may; what expires or is deleted makes room."""

    code = "RESOURCE_EXHAUSTED"
    status = 507
    can_retry = True


_BY_CODE: dict[str, type[MillraceError]] = {
    "INVALID_ARGUMENT": InvalidRequest,
    "CANCELLED": Cancelled,
    "INTERNAL": ModelFailed,
    "UNIMPLEMENTED": NotSupported,
    "UNAVAILABLE": Unavailable,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
}


def from_wire(code: str, message: str) -> MillraceError:
    """The error that a worker sent as `{code, message}`; a code that this version does not know becomes `Internal`.

    Callers read it, so that it names no path of the worker's.
    """
    return _BY_CODE.get(code, Internal)(without_paths(message))
