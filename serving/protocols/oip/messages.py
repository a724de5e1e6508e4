"""The Open Inference Protocol's gRPC messages of inference: a request's to what it asks, outputs to a response's."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from millrace import rpc
from millrace.protocol.errors import InvalidRequest, NotSupported, PayloadTooLarge
from millrace.protocol.tensors import BYTES, DTYPES, Tensor, TensorSpec, string_tensor
from millrace.rpc import wire
from serving.models.registry import ServedModel
from serving.protocols import counted_messages, json_tensors
from serving.protocols.limits import MAX_NAMED, MAX_RANK, ReadLimits, check_count
from serving.protocols.oip import rest as oip
from serving.protocols.oip.rest import Wanted
from serving.protocols.verb import Body, Rendered, Verb
from serving.queueing.admission import Inference

_CONTENTS = {
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    **{"INT64": "int64_contents", "UINT64": "uint64_contents", "BOOL": "bool_contents"},
    **{"FP32": "fp32_contents", "FP64": "fp64_contents", BYTES: "bytes_contents"},
}

InferRequest = rpc.message("inference.ModelInferRequest")
_InferResponse = rpc.message("inference.ModelInferResponse")
_ID = wire.number_of(_InferResponse, "id")
_RAW_OUTPUT = wire.number_of(_InferResponse, "raw_output_contents")
_RAW_INPUT = wire.number_of(InferRequest, "raw_input_contents")
_WIDE = {
    **dict.fromkeys(("INT8", "INT16"), np.dtype(np.int32)),
    **dict.fromkeys(("UINT8", "UINT16"), np.dtype(np.uint32)),
}  # types that are sent as wider ones
_HEAVY = tuple(wire.number_of(InferRequest, name) for name in ("inputs", "outputs", "parameters", "raw_input_contents"))
_MOST = {
    **dict.fromkeys(("inputs", "outputs", "parameters", "raw_input_contents"), MAX_NAMED),
    "shape": 10 * MAX_RANK,  # bytes, where they are packed
}


class _Request(NamedTuple):
    """A request's message, and its raw contents beside it where they were left out of the message."""

    message: Any
    raw: Sequence[bytes | memoryview]


def read_request(data: bytes | memoryview) -> tuple[Any, _Request | None]:
    """What of a ModelInferRequest says who is asked for what; and all of it, where it is read in no time.

    Raw contents are not copied. Raises `InvalidRequest`, `PayloadTooLarge`.
    """
    if len(data) <= counted_messages.SMALL_BYTES:
        message = counted_messages.read(InferRequest, data)
        return message, _Request(message, message.raw_input_contents)
    try:
        light = counted_messages.without(InferRequest, data, (_RAW_INPUT,))
        return light.message, _Request(*light)
    except PayloadTooLarge:  # its inputs carry their elements, which others than the event loop have time for
        return counted_messages.without(InferRequest, data, _HEAVY).message, None


def identity_of(body: Body, data: bytes | memoryview) -> str:
    """The id that a request gives itself."""
    message = body.message.message if body.message else counted_messages.without(InferRequest, data, _HEAVY).message
    identity: str = message.id
    return identity


def _infer(body: Body, model: ServedModel, limits: ReadLimits) -> tuple[Inference, Wanted]:
    """What a ModelInferRequest asks for, and how its answer is written. Raises `InvalidRequest`, `NotSupported`."""
    request = body.message
    if request is None:
        whole = counted_messages.counted(InferRequest, body.data, _MOST, limits)
        request = _Request(whole, whole.raw_input_contents)
    message = request.message
    check_count("inputs", len(message.inputs))
    check_count("outputs", len(message.outputs))
    check_count("parameters", len(message.parameters))
    document = {
        "id": message.id,
        "parameters": _parameters(message),
        "outputs": [{"name": output.name, "parameters": _parameters(output)} for output in message.outputs],
    }
    return oip.read_infer(document, _inputs(request, model, limits), model)


def _parameters(message: Any) -> dict[str, Any]:
    if not message.parameters:
        return {}
    return {
        name: getattr(value, value.WhichOneof("parameter_choice") or "bool_param")
        for name, value in message.parameters.items()
    }


def _inputs(request: _Request, model: ServedModel, limits: ReadLimits) -> list[tuple[str, Tensor]]:
    message, raw = request
    described = [_described(item) for item in message.inputs]
    if not raw:
        return [(d.name, _typed_tensor(d, item, limits)) for d, item in zip(described, message.inputs, strict=True)]
    for item in message.inputs:
        if item.HasField("contents"):
            raise InvalidRequest(
                "contents field must not be specified when using raw_input_contents for "
                f"'{item.name}' for model '{model.name}'"
            )
    if len(raw) != len(described):
        raise InvalidRequest(
            f"expected {len(described)} raw_input_contents, one for each input of the request, got {len(raw)}, "
            f"for model '{model.name}'"
        )
    return [
        (d.name, oip.binary_tensor(d.name, d.datatype, d.shape, data, model, limits))
        for d, data in zip(described, raw, strict=True)
    ]


class _Described(NamedTuple):
    """An input without its values; `elements` is how many there must be."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    elements: int


def _described(item: Any) -> _Described:
    name, datatype = item.name, item.datatype
    check_count(f"dimensions in the shape of input '{name}'", len(item.shape), MAX_RANK)
    shape = list(item.shape)
    if datatype not in DTYPES:
        raise InvalidRequest(f"invalid datatype for input '{name}': {json_tensors.quote(datatype)}")
    if "shared_memory_region" in item.parameters:
        raise NotSupported("tensors in shared memory are not supported; send them with the request")
    return _Described(name, datatype, tuple(shape), json_tensors.element_count(name, shape, datatype))


def _typed_tensor(described: _Described, item: Any, limits: ReadLimits) -> Tensor:
    """The tensor in an input's `contents`."""
    name, datatype, shape, count = described
    if datatype not in _CONTENTS:
        raise InvalidRequest(f"{datatype} data can only be sent as raw_input_contents, input '{name}'")
    values = getattr(item.contents, _CONTENTS[datatype])
    if len(values) != count:
        raise InvalidRequest(f"unexpected number of contents for input '{name}': got {len(values)}, expecting {count}")
    if datatype == BYTES:
        limits.check_quick(count)
        return string_tensor(values, shape)
    limits.check_quick(count >> 3)
    wide = np.fromiter(values, _WIDE.get(datatype, DTYPES[datatype]), count)
    narrow = wide.astype(DTYPES[datatype])
    if datatype in _WIDE and not np.array_equal(wide, narrow):
        outside = wide[wide != narrow][:1].tolist()
        json_tensors.to_tensor(outside, TensorSpec(name=name, datatype=datatype, shape=(-1,)))  # has the words for it
    return Tensor(datatype, shape, narrow.view(np.uint8).data)


def _inferred(model: ServedModel, outputs: Mapping[str, Tensor], wanted: Wanted, limits: ReadLimits) -> Rendered:
    oip.check_quick_to_show(outputs, wanted, limits, is_binary=True)
    shown = oip.wanted_tensors(model, outputs, wanted)
    described = tuple([(name, tensor.datatype, tensor.shape) for name, tensor, _ in shown])
    parts: list[bytes | memoryview] = [_described_on_wire(model.name, model.version, described)]
    if wanted.identity:
        parts += wire.field(_ID, wanted.identity.encode())
    for _, tensor, _ in shown:
        parts += wire.field(_RAW_OUTPUT, tensor.data)
    return Rendered(b"".join(parts), ())


@lru_cache(maxsize=1024)
def _described_on_wire(model: str, version: int, outputs: Sequence[tuple[str, str, tuple[int, ...]]]) -> bytes:
    """The part of a ModelInferResponse that says what answered, and what its outputs are."""
    answer = _InferResponse(model_name=model, model_version=str(version))
    for name, datatype, shape in outputs:
        answer.outputs.add(name=name, datatype=datatype, shape=shape)
    written: bytes = answer.SerializeToString()
    return written


INFER = Verb("oip-grpc/infer", "oip-grpc", Wanted, _infer, _inferred, oip.error_text, "high")
