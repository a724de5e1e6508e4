"""What a call can raise, by the HTTP status of the answer.

MillraceError           status    tried again?
├── ConnectionFailed    none      yes    no connection, or lost before the answer was complete
├── InvalidRequest      400, 4xx  no     the request is wrong; status is None if found out before it was sent
│   ├── NotAuthenticated 401      no     an API key is needed, and the client's is none that the server knows
│   └── NotAllowed      403       no     the key, or the server's settings, do not let the client do it
├── NotFound            404       no     no such model, or no such version of it
├── PayloadTooLarge     413       no     larger than the server takes
├── Overloaded          429       yes    the model's queue is full; `retry_after_s` says when to come again
├── ServerError         500, 5xx  no     the model or the server failed
├── NotSupported        501       no     part of a protocol that the server does not offer
├── Unavailable         503       yes    no live worker has the model, or the queue is away
├── DeadlineExceeded    504       no     not answered in time; status is None if it was the client that gave up
├── InvalidResponse     any       no     the answer is not what the protocol promises, for instance not JSON
└── JobFailed           none      no     a background job has failed or was canceled: it has no result

"Tried again" is what the client does by itself while its retries and its time allow; then the last error is raised.
"""

import json
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import ClassVar

_EXCERPT = 200  # characters of an unexpected body that go into the message


class MillraceError(Exception):
    """The base of all; `str(error)` is the server's own message where there was one.

    `status` is the HTTP status of the answer, over gRPC the one that says the same; None where no answer came.
    `request_id` finds the request in the server's log; None where the request was never sent. `retry_after_s` is what
    the answer's Retry-After said.
    """

    can_retry: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        request_id: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.request_id = request_id
        self.retry_after_s = retry_after_s


class ConnectionFailed(MillraceError):
    """The server cannot be reached, or the connection was lost before the answer was complete."""

    can_retry = True


class InvalidRequest(MillraceError):
    """The request is wrong in itself: shape, datatype, a missing input; trying again cannot help."""


class NotAuthenticated(InvalidRequest):
    """The server wants an API key, and does not know the one that the client has, or it has none."""


class NotAllowed(InvalidRequest):
    """The client's API key, or the server's settings, do not let the client do this."""


class NotFound(MillraceError):
    """The server has no such model, or no such version of it."""


class PayloadTooLarge(MillraceError):
    """The request's body is larger than the server takes."""


class Overloaded(MillraceError):
    """The model's queue is full; nothing was queued. `retry_after_s` is when the server hopes to have room."""

    can_retry = True


class ServerError(MillraceError):
    """The model or the server failed; the server's log has the trace under the request's id."""


class NotSupported(MillraceError):
    """Part of a protocol that this server does not offer."""


class Unavailable(MillraceError):
    """No live worker has the model, or the server's queue cannot be reached."""

    can_retry = True


class DeadlineExceeded(MillraceError):
    """No answer before the deadline: the server said so (504), or the client stopped waiting (`status` is None)."""


class InvalidResponse(MillraceError):
    """The answer is not what the protocol promises: not JSON, or a tensor that does not fill its shape."""


class JobFailed(MillraceError):
    """A background job has failed, or was canceled; there is no result."""


_BY_STATUS: dict[int, type[MillraceError]] = {
    401: NotAuthenticated,
    403: NotAllowed,
    404: NotFound,
    413: PayloadTooLarge,
    429: Overloaded,
    501: NotSupported,
    503: Unavailable,
    504: DeadlineExceeded,
}


def error_of(status: int, headers: Mapping[str, str], body: bytes, request_id: str) -> MillraceError | None:
    """The error that an answer stands for, None for a success. Header names are in lower case."""
    if 200 <= status < 300:
        return None
    return error_class(status)(
        _message(status, body),
        status=status,
        request_id=headers.get("x-request-id", request_id),
        retry_after_s=retry_after_s(headers),
    )


def error_class(status: int) -> type[MillraceError]:
    """The class of the errors with that HTTP status."""
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if 400 <= status < 500:
        return InvalidRequest
    return ServerError if status >= 500 else InvalidResponse


def timed_out(url: str, timeout_s: float) -> DeadlineExceeded:
    """The error of a client that stopped waiting."""
    return DeadlineExceeded(f"no answer from {url} within {timeout_s:.3g} s")


def excerpt(body: bytes) -> str:
    """The beginning of a body, fit for one line of an error message."""
    text = " ".join(body[: _EXCERPT * 4].decode("utf-8", "replace").split())
    return repr(text if len(text) <= _EXCERPT else text[:_EXCERPT] + "…") if text else "an empty body"


def _message(status: int, body: bytes) -> str:
    try:
        message = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        return f"the server answered {status} without a JSON error: {excerpt(body)}"
    return message if isinstance(message, str) else json.dumps(message)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Retry-After in seconds: a number, or a date compared with the answer's own, so that no clock need agree."""
    value = headers.get("retry-after", "").strip()
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        return _seconds_between(headers.get("date", ""), value)
    return seconds if 0 <= seconds < float("inf") else None


def _seconds_between(now: str, then: str) -> float | None:
    try:
        return max(0.0, (parsedate_to_datetime(then) - parsedate_to_datetime(now)).total_seconds())
    except (ValueError, TypeError):  # not dates, or one with and one without a time zone
        return None
