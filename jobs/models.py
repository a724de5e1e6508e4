"""Which version of a model a job uses: chosen once, when the job is planned, so that all parts have the same one."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping

from jobs.failures import NoModel
from jobs.link import Link
from millrace.protocol.errors import InvalidRequest, Unavailable
from millrace.protocol.messages import ModelAnnouncement
from millrace.protocol.tensors import Signature

_log = logging.getLogger(__name__)
_EVERY_S = 0.25
_TURN_S = 0.5  # how long one process waits for a model; then other jobs have their turn


async def chosen(
    link: Link,
    name: str,
    version: int | None,
    label: str | None,
    wait_s: float,
    clock: Callable[[], float] = time.monotonic,
) -> ModelAnnouncement:
    """The version that is named, or that has the label, or else the newest; waits for a worker, for a moment alone.

    Raises `NoModel`.
    """
    ends = clock() + min(wait_s, _TURN_S)
    while True:
        try:
            await link.beat()
        except Unavailable as error:
            _log.warning("the queue does not answer", extra={"reason": str(error)})
        found = _pick(link.versions(name), version, label)
        if found:
            return found
        if clock() >= ends:
            which = f" version {version}" if version is not None else f" with the label {label!r}" if label else ""
            raise NoModel(f"no live worker has model {name!r}{which}, for {wait_s:g} s")
        await asyncio.sleep(_EVERY_S)


def signature_of(model: ModelAnnouncement, name: str) -> Signature:
    """The signature of that name. Raises `InvalidRequest`."""
    try:
        return model.signatures[name]
    except KeyError:
        known = ", ".join(sorted(model.signatures))
        raise InvalidRequest(f"signature: model {model.name!r} has no signature {name!r}; it has {known}") from None


def _pick(
    versions: Mapping[int, ModelAnnouncement], version: int | None, label: str | None
) -> ModelAnnouncement | None:
    if version is not None:
        return versions.get(version)
    numbers = [number for number, model in versions.items() if label is None or label in model.version_labels]
    return versions[max(numbers)] if numbers else None
