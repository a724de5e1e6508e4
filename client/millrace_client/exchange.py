"""One request and its answer, with all attempts, without the network: a generator says what to do next.

    exchange ──► Send ──► Response ─── success, or an error that no retry can help ──► done
                  ▲          │ 429, 503, connection failed
                  └── Wait ◄─┘ while retries and the deadline allow

Whoever drives it performs each `Send` and gives back the `Response`, or throws a `MillraceError` into it, such as
`ConnectionFailed`; after a `Wait` it gives back None. Client and AsyncClient are two such drivers.
"""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar

from millrace_client.errors import DeadlineExceeded, MillraceError, error_of
from millrace_client.transfers import Download, FileForm

BACK_OFF_S = (
    0.1  # the first wait without a Retry-After lasts at most this long, each further one at most twice the one before
)
MAX_BACK_OFF_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is sent; `path` follows the server's URL, and is the method's full name where gRPC carries it.

    The body of a successful response goes to the `sink`, if there is one. Over gRPC bodies are bytes.
    """

    method: str
    path: str
    body: bytes | FileForm | None = None
    sink: Download | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """What came back, complete; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Send:
    """Send the request, with its id and the time that it has, and read all of its answer within `timeout_s`."""

    request: Request
    timeout_s: float
    request_id: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Do nothing for `seconds`."""

    seconds: float


T = TypeVar("T")
Conversation = Generator[Send | Wait, Response | None, T]


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often an attempt is repeated, and how soon: as the server says, else a random part of a doubling time."""

    retries: int
    rng: Random

    def wait_s(self, error: MillraceError, attempt: int) -> float | None:
        """How long to wait after attempt number `attempt` (from 0) failed; None when it was the last."""
        if not error.can_retry or attempt >= self.retries:
            return None
        if error.retry_after_s is not None:
            return error.retry_after_s
        return self.rng.uniform(0, min(MAX_BACK_OFF_S, BACK_OFF_S * 2**attempt))


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadline:
    """The moment on `clock` by which a call, with all its requests and waits, has to be over."""

    clock: Callable[[], float]
    at_s: float
    timeout_s: float

    def left_s(self) -> float:
        """Seconds left. Raises `DeadlineExceeded` when there are none."""
        if (left := self.at_s - self.clock()) <= 0:
            raise DeadlineExceeded(f"no answer within {self.timeout_s:g} s")
        return left

    def allows(self, wait_s: float) -> bool:
        """Whether there is time left after such a wait."""
        return self.clock() + wait_s < self.at_s


def exchange(request: Request, *, deadline: Deadline, policy: RetryPolicy, request_id: str) -> Conversation[Response]:
    """The successful answer to the request. Raises the last attempt's error when there is none.

    No attempt begins after the deadline, and no wait that would end after it. The server is told how much time is left.
    """
    attempt = 0
    while True:
        try:
            return (yield from _attempt(request, deadline, request_id))
        except MillraceError as error:
            error.request_id = error.request_id or request_id
            wait_s = policy.wait_s(error, attempt)
            if wait_s is None or not deadline.allows(wait_s):
                raise
        yield Wait(wait_s)
        attempt += 1


def _attempt(request: Request, deadline: Deadline, request_id: str) -> Conversation[Response]:
    response = yield Send(request, deadline.left_s(), request_id)
    if not isinstance(response, Response):
        raise TypeError("a Send is to be followed by a Response")
    if error := error_of(response.status, response.headers, response.body, request_id):
        raise error
    return response
