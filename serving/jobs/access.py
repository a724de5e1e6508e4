"""Which jobs a key is good for: those on models that it may use. A job without a model is for keys of all models."""

from typing import Any

from millrace.jobs.documents import JobDocument
from millrace.jobs.records import JobRecord
from millrace.protocol.errors import NotAllowed
from serving.access.gate import Key, check_model


def model_of(record: JobRecord) -> str:
    """The model that a job is about, "" for none."""
    return str(record.document.get("model") or "")


def check_document(key: Key | None, document: JobDocument) -> None:
    """Raises `NotAllowed` where the key is not good for such a job."""
    _check(key, getattr(document, "model", ""))


def check_record(key: Key | None, record: JobRecord) -> None:
    """Raises `NotAllowed` where the key is not good for the job."""
    _check(key, model_of(record))


def _check(key: Key | None, model: Any) -> None:
    if key is None or key.stored.models is None:
        return
    if not model:
        raise NotAllowed(f"the key {key.name!r} is good for some models, and this job names none")
    check_model(key, str(model))
