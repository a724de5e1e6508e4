"""Which version of a model a job uses: chosen once, when the job is planned, so that all parts have the same one."""

import asyncio
import logging
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from jobs.failures import NoModel
from millrace.broker.redis import RedisBroker
from millrace.calling.caller import QueueCaller
from millrace.protocol.errors import InvalidRequest, NoWorker, Unavailable
from millrace.protocol.messages import ModelAnnouncement
from millrace.protocol.tensors import Signature

_log = logging.getLogger(__name__)
_EVERY_S = 0.25
_TURN_S = 0.5  # how long one process waits for a model; then other jobs have their turn


@asynccontextmanager
async def queue_caller(redis_url: str) -> AsyncIterator[QueueCaller]:
    """A link to the queue for one unit; `chosen` connects it."""
    caller = QueueCaller(RedisBroker(redis_url).producer(f"jobs-{os.getpid()}-{secrets.token_hex(4)}"))
    try:
        yield caller
    finally:
        await caller.close()


async def chosen(
    caller: QueueCaller,
    name: str,
    version: int | None,
    label: str | None,
    wait_s: float,
    clock: Callable[[], float] = time.monotonic,
) -> ModelAnnouncement:
    """The version that is named, or that has the label, or else that a request gets; waits for a worker, for a moment.

    Raises `NoModel`.
    """
    ends = clock() + min(wait_s, _TURN_S)
    while True:
        try:
            await caller.refresh()
            return caller.served.choose(name, version, label)
        except NoWorker:
            if clock() >= ends:
                which = f" version {version}" if version is not None else f" with the label {label!r}" if label else ""
                raise NoModel(f"no live worker has model {name!r}{which}, for {wait_s:g} s") from None
        except Unavailable as error:
            _log.warning("the queue does not answer", extra={"reason": str(error)})
            if clock() >= ends:
                raise NoModel(f"{error}, for {wait_s:g} s") from None
        await asyncio.sleep(_EVERY_S)


def signature_of(model: ModelAnnouncement, name: str) -> Signature:
    """The signature of that name. Raises `InvalidRequest`."""
    try:
        return model.signatures[name]
    except KeyError:
        known = ", ".join(sorted(model.signatures))
        raise InvalidRequest(f"signature: model {model.name!r} has no signature {name!r}; it has {known}") from None
