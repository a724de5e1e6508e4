"""TensorFlow Serving's warm-up requests: PredictionLogs in a TFRecord file beside a SavedModel."""

import struct
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from millrace import rpc
from millrace.protocol.tensors import DEFAULT_SIGNATURE, Signature
from millrace.rpc import tensorprotos
from worker.backends.base import Arrays
from worker.protofields import Field, Source, fields_of

FILE = Path("assets.extra/tf_serving_warmup_requests")
_MOST_BYTES = 2**26
_RECORD_HEAD, _RECORD_TAIL = struct.Struct("<Q4x"), 4
_CLASSIFY_LOG, _REGRESS_LOG, _MULTI_INFERENCE_LOG, _PREDICT_LOG = 2, 3, 4, 6  # fields of PredictionLog
_REQUEST = 1  # of each of them
_EXAMPLES = {
    _CLASSIFY_LOG: rpc.message("tensorflow.serving.ClassificationRequest"),
    _REGRESS_LOG: rpc.message("tensorflow.serving.RegressionRequest"),
}
_PredictRequest = rpc.message("tensorflow.serving.PredictRequest")
_MultiInferenceRequest = rpc.message("tensorflow.serving.MultiInferenceRequest")


def records(path: Path, most: int) -> Iterator[bytes]:
    """The first records of the file: each has its length, a checksum of that, its bytes and theirs.

    Raises `OSError`, and `ValueError` for a file that is cut off, or a record that is too large.
    """
    with path.open("rb") as file:
        for _ in range(most):
            if not (head := file.read(_RECORD_HEAD.size)):
                return
            if len(head) < _RECORD_HEAD.size:
                raise ValueError("its last record is cut off")
            (size,) = _RECORD_HEAD.unpack(head)
            if size > _MOST_BYTES:
                raise ValueError(f"a record has {size} bytes")
            record = file.read(size + _RECORD_TAIL)
            if len(record) < size + _RECORD_TAIL:
                raise ValueError("its last record is cut off")
            yield record[:size]


def requests(record: bytes, graph: Mapping[str, Signature]) -> Iterator[tuple[str, Arrays]]:
    """The signature and the inputs of each request in a record. `graph` are the signatures of the model's file.

    Raises `ValueError` for what the model does not take, `InvalidRequest`, `NotSupported`, `Malformed` or `DecodeError`
    for what cannot be read.
    """
    for log in fields_of(Source(record)):
        if log.number == _PREDICT_LOG:
            for data in _request(log):
                yield _predict(_PredictRequest.FromString(data))
        elif log.number in _EXAMPLES:
            for data in _request(log):
                request = _EXAMPLES[log.number].FromString(data)
                yield _examples(request.model_spec, request.input, graph)
        elif log.number == _MULTI_INFERENCE_LOG:
            for data in _request(log):
                request = _MultiInferenceRequest.FromString(data)
                yield from (_examples(task.model_spec, request.input, graph) for task in request.tasks)


def _request(log: Field) -> Iterator[bytes]:
    return islice((field.data for field in log.fields() if field.number == _REQUEST), 1)


def _predict(request: Any) -> tuple[str, Arrays]:
    inputs = {name: tensorprotos.to_tensor(proto, name).to_numpy() for name, proto in request.inputs.items()}
    return request.model_spec.signature_name or DEFAULT_SIGNATURE, inputs


def _examples(spec: Any, given: Any, graph: Mapping[str, Signature]) -> tuple[str, Arrays]:
    name = spec.signature_name or DEFAULT_SIGNATURE
    alias = graph[name].examples_input if name in graph else ""
    if not alias:
        raise ValueError(f"signature {name!r} takes no serialized examples")
    context = given.example_list_with_context.context.SerializeToString()
    examples = given.example_list.examples or given.example_list_with_context.examples
    array = np.empty(len(examples), object)
    # Serialized messages one after the other are one message: an example's features win over those of its context.
    array[:] = [context + example.SerializeToString() for example in examples]
    return name, {alias: array}
