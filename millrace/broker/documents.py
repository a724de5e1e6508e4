"""The JSON documents in Redis: what workers announce, and what operators want of models.

Every process reads all of them with each heartbeat. What has not changed since the last one is not decoded again.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import msgspec

from millrace.protocol.desired_state import DesiredState
from millrace.protocol.errors import Unavailable
from millrace.protocol.messages import ModelAnnouncement, WorkerAnnouncement

_log = logging.getLogger(__name__)
_Document = TypeVar("_Document")
_UNREADABLE = (ValueError, RecursionError)  # what is no JSON, of another form, no UTF-8, or nested too deep


class _Announced(msgspec.Struct, frozen=True, kw_only=True):
    """`WorkerAnnouncement` with its models as they are written."""

    worker: str
    expires_ms: int
    models: msgspec.Raw
    generations: dict[str, int] = {}
    sent_ms: int = 0


_decode_announced = msgspec.json.Decoder(_Announced).decode
_decode_models = msgspec.json.Decoder(tuple[ModelAnnouncement, ...]).decode
_decode_desired_state = msgspec.json.Decoder(DesiredState).decode


def _readable(values: Iterable[bytes], decode: Callable[[bytes], _Document], what: str) -> list[_Document]:
    """The documents that can be read; one of another version's form must not hide the others."""
    readable = []
    for value in values:
        try:
            readable.append(decode(value))
        except _UNREADABLE as error:
            _log.warning("%s cannot be read", what, extra={"reason": str(error)})
    return readable


class Documents:
    """Reads the documents of each heartbeat. Models that are announced again as before are the same objects."""

    def __init__(self) -> None:
        self._models: dict[str, tuple[bytes, tuple[ModelAnnouncement, ...]]] = {}
        self._desired_states: dict[bytes, DesiredState] = {}

    def announcements(self, values: Sequence[bytes]) -> list[WorkerAnnouncement]:
        """The announcements that can be read."""
        found = _readable(values, self._announcement, "a worker's announcement")
        here = {announcement.worker for announcement in found}
        self._models = {worker: models for worker, models in self._models.items() if worker in here}
        return found

    def desired_states(self, values: Sequence[bytes]) -> list[DesiredState]:
        """What is wanted of the models, as far as it can be read."""
        read = {value: self._desired_state(value) for value in values}
        self._desired_states = {value: document for value, document in read.items() if document is not None}
        return list(self._desired_states.values())

    def _desired_state(self, value: bytes) -> DesiredState | None:
        known = self._desired_states.get(value)
        return known or next(iter(_readable([value], _decode_desired_state, "a desired state")), None)

    def _announcement(self, value: bytes) -> WorkerAnnouncement:
        # The times in an announcement change with every heartbeat, its models seldom.
        announced = _decode_announced(value)
        written = bytes(announced.models)
        before, models = self._models.get(announced.worker, (b"", ()))
        if before != written:
            models = _decode_models(written)
            self._models[announced.worker] = written, models
        return WorkerAnnouncement(
            worker=announced.worker,
            expires_ms=announced.expires_ms,
            models=models,
            generations=announced.generations,
            sent_ms=announced.sent_ms,
        )


def newer_desired_state(answer: bytes | None) -> DesiredState | None:
    """The document that was found in the place of ours. Raises `Unavailable` where it is of a form not known here."""
    try:
        return None if answer is None else _decode_desired_state(answer)
    except _UNREADABLE as error:
        raise Unavailable(f"what is wanted of the model was written by another version of Millrace: {error}") from error
