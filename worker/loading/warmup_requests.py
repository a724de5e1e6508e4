"""Requests that a version's files hold to warm it up with: the likeliest inputs that there are.

    manifest.json                               `example`, a body of TensorFlow Serving's REST protocol
    assets.extra/tf_serving_warmup_requests     TensorFlow Serving's: PredictionLogs in a TFRecord file
    config.pbtxt                                Triton's `model_warmup`

A request that cannot be read, or does not fit the model, is left out, with a note.
"""

import base64
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError

from millrace.artifacts.configs import CONFIG_PBTXT, TritonConfig, WarmupInput
from millrace.artifacts.manifest import FILE_NAME, Manifest
from millrace.protocol.errors import MillraceError
from millrace.protocol.tensors import BYTES, DEFAULT_SIGNATURE, DTYPES, Signature, Tensor
from worker.backends.base import Arrays
from worker.backends.texts import reason_of
from worker.loading import tfserving_warmup
from worker.preprocessing.preparation import Preparation
from worker.protofields import Malformed

_MOST_REQUESTS, _MOST_BYTES = 8, 2**26
_UNREADABLE = (MillraceError, Malformed, DecodeError, OSError, ValueError, KeyError, TypeError, struct.error)


class GivenRequests:
    """Requests by signature, with the graph's inputs, and `notes` on those that were left out."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self._requests: dict[str, list[Arrays]] = {}

    def of(self, signature: str) -> list[Arrays]:
        """Those to one signature."""
        return self._requests.get(signature, [])

    def add(self, signature: str, request: Arrays) -> None:
        """One more; beyond a few none is kept."""
        requests = self._requests.setdefault(signature, [])
        if len(requests) < _MOST_REQUESTS:
            requests.append(request)


def read(
    folder: Path,
    manifest: Manifest | None,
    config: TritonConfig,
    graph: Mapping[str, Signature],
    preparation: Preparation,
    *,
    has_rows: bool,
) -> GivenRequests:
    """What the files of a version's folder give. `graph` are the signatures of the model's file.

    `has_rows` says whether the first dimension counts rows, which `model_warmup` leaves out then.
    """
    found = GivenRequests()
    if manifest and manifest.example:
        with _Noted(found, f"the example in {FILE_NAME}"):
            _add_example(found, manifest, preparation)
    if (folder / tfserving_warmup.FILE).exists():
        with _Noted(found, tfserving_warmup.FILE.name):
            for record in tfserving_warmup.records(folder / tfserving_warmup.FILE, _MOST_REQUESTS):
                _add_tfserving(found, record, graph)
    for sample in config.warmup:
        with _Noted(found, f"model_warmup in {CONFIG_PBTXT}"):
            rows = max(1, sample.batch_size) if has_rows else 0
            inputs = {tensor.name: _triton_input(folder.parent, tensor, rows) for tensor in sample.inputs}
            name = DEFAULT_SIGNATURE if DEFAULT_SIGNATURE in graph else next(iter(graph))
            _check_names(name, inputs, graph)
            found.add(name, inputs)
    return found


class _Noted:
    """Notes what cannot be read, in place of raising it."""

    def __init__(self, found: GivenRequests, what: str) -> None:
        self._found = found
        self._what = what

    def __enter__(self) -> None:
        """Nothing is done."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, _UNREADABLE):
            return False
        self._found.notes.append(f"A warm-up request of {self._what} was left out: {reason_of(error)}.")
        return True


def _add_tfserving(found: GivenRequests, record: bytes, graph: Mapping[str, Signature]) -> None:
    with _Noted(found, tfserving_warmup.FILE.name):
        for name, inputs in tfserving_warmup.requests(record, graph):
            _check_names(name, inputs, graph)
            found.add(name, inputs)


def _check_names(name: str, inputs: Arrays, graph: Mapping[str, Signature]) -> None:
    if name not in graph:
        raise ValueError(f"there is no signature {name!r}")
    known = {spec.name: spec for spec in graph[name].inputs}
    missing = [spec.name for spec in known.values() if not spec.optional and spec.name not in inputs]
    if unknown := [*missing, *(set(inputs) - known.keys())]:
        raise ValueError(f"its inputs are {sorted(inputs)}, but the model's {sorted(known)}: {unknown[0]!r} differs")
    for given, array in inputs.items():
        dtype = np.dtype(object) if known[given].datatype == BYTES else DTYPES[known[given].datatype]
        if array.dtype != dtype:
            raise ValueError(f"input {given!r} is {array.dtype}, but the model's {known[given].datatype}")


# manifest.json


def example(manifest: Manifest) -> tuple[str, Arrays]:
    """The signature and the inputs of the manifest's example, as callers send them.

    Raises `ValueError`, `KeyError` or `TypeError` for one that is no such request.
    """
    name = str(manifest.example.get("signature_name") or DEFAULT_SIGNATURE)
    signature = manifest.signatures[name]
    columns = _columns(manifest.example, signature)
    inputs = {
        spec.name: _array(columns[spec.name], spec.datatype, media=spec.media)
        for spec in signature.inputs
        if spec.name in columns
    }
    return name, inputs


def _add_example(found: GivenRequests, manifest: Manifest, preparation: Preparation) -> None:
    name, inputs = example(manifest)
    rows = min(len(array) for array in inputs.values())
    if preparation.has_steps:
        prepared = [
            preparation.before({name: array[i : i + 1] for name, array in inputs.items()})
            for i in range(min(rows, _MOST_REQUESTS))
        ]
        inputs = preparation.joined(prepared)
    found.add(name, inputs)


def _columns(body: Mapping[str, Any], signature: Signature) -> dict[str, Any]:
    """The values of each input, by row."""
    required = [spec.name for spec in signature.inputs if not spec.optional]
    values = body["instances"] if "instances" in body else body["inputs"]
    is_named = isinstance(values, dict) if "inputs" in body else isinstance(values[0], dict) and "b64" not in values[0]
    if not is_named:
        return {required[0]: values}
    return dict(values) if "inputs" in body else {key: [row[key] for row in values] for key in values[0]}


def _array(value: Any, datatype: str, *, media: str) -> npt.NDArray[Any]:
    leaves = np.array(value, object)
    first = leaves.flat[0] if leaves.size else ""
    if datatype == BYTES or (media and isinstance(first, dict)):
        as_bytes = [base64.b64decode(v["b64"]) if isinstance(v, dict) else str(v).encode() for v in leaves.ravel()]
        array = np.empty(len(as_bytes), object)
        array[:] = as_bytes
        return array.reshape(leaves.shape)
    return leaves.astype(DTYPES[datatype])


# Triton


def _triton_input(model_folder: Path, tensor: WarmupInput, rows: int) -> npt.NDArray[Any]:
    shape = (rows, *tensor.dims) if rows else tensor.dims
    if min(shape, default=0) < 0 or math.prod(shape) > _MOST_BYTES:
        raise ValueError(f"input {tensor.name!r} has the dims {list(tensor.dims)}")
    if tensor.file:
        return _from_file(model_folder / "warmup", tensor, rows, shape)
    if tensor.datatype == BYTES:
        return np.full(shape, b"", object)
    dtype = DTYPES[tensor.datatype]
    if not tensor.is_random:
        return np.zeros(shape, dtype)
    rng = np.random.default_rng(0)
    return rng.standard_normal(shape).astype(dtype) if dtype.kind == "f" else rng.integers(0, 2, shape).astype(dtype)


def _from_file(folder: Path, tensor: WarmupInput, rows: int, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """The elements that a file holds for one row, which all rows have."""
    path = folder / tensor.file
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{tensor.file!r} must be a file in the folder {folder.name}")
    if path.stat().st_size > _MOST_BYTES:
        raise ValueError(f"{tensor.file!r} is too large")
    array = Tensor(tensor.datatype, tuple(tensor.dims), path.read_bytes()).to_numpy()
    return np.broadcast_to(array, shape).copy() if rows else array
