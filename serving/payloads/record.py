"""One request and its answer, as the API hands it to the writer, and as a line of the log."""

import base64
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
import orjson

from millrace.protocol.tensors import BYTES, Tensor

Content = tuple[str, tuple[int, ...], bytes]  # datatype, shape and data of a tensor


class Record(msgspec.Struct, frozen=True, array_like=True):
    """A request that was answered at `time_s`, in seconds since 1970."""

    time_s: float
    id: str
    model: str
    version: int
    signature: str
    inputs: dict[str, Content]
    outputs: dict[str, Content]


def line(record: Record) -> bytes:
    """The record as a line of JSON: tensors are nested lists, and strings that are no UTF-8 are {"b64": …}."""
    fields = {
        "time": datetime.fromtimestamp(record.time_s, UTC).isoformat(timespec="milliseconds"),
        "id": record.id,
        "model": record.model,
        "version": record.version,
        "signature": record.signature,
        "inputs": _shown(record.inputs),
        "outputs": _shown(record.outputs),
    }
    return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)


def _shown(tensors: Mapping[str, Content]) -> dict[str, Any]:
    return {name: _nested(*content) for name, content in tensors.items()}


def _nested(datatype: str, shape: tuple[int, ...], data: bytes) -> Any:
    array = Tensor(datatype, shape, data).to_numpy()
    if datatype == BYTES:
        for at, element in enumerate(array.flat):
            array.flat[at] = _text(element)
    return array.tolist()


def _text(element: bytes) -> str | dict[str, str]:
    try:
        return element.decode()
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(element).decode()}
