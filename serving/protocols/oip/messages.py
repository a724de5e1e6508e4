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
from serving.protocols.oip.known_messages import Described, KnownMessage, KnownMessages
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
_KNOWN = KnownMessages(_RAW_INPUT, wire.number_of(InferRequest, "id"))
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

    @property
    def id(self) -> str:
        identity: str = self.message.id
        return identity


_Read = _Request | KnownMessage


def read_request(data: bytes | memoryview) -> tuple[str, str, _Read | None]:
    """The model that a ModelInferRequest asks for and its version as text; and all of it, where it is read in no time.

    Raw contents are not copied. Raises `InvalidRequest`, `PayloadTooLarge`.
    """
    if known := _KNOWN.find(data):
        return known.form.model, known.form.version, known
    if len(data) <= counted_messages.SMALL_BYTES:
        message = counted_messages.read(InferRequest, data)
        return message.model_name, message.model_version, _Request(message, message.raw_input_contents)
    try:
        light = counted_messages.without(InferRequest, data, (_RAW_INPUT,))
        return light.message.model_name, light.message.model_version, _Request(*light)
    except PayloadTooLarge:  # its inputs carry their elements, which others than the event loop have time for
        message = counted_messages.without(InferRequest, data, _HEAVY).message
        return message.model_name, message.model_version, None


def identity_of(body: Body, data: bytes | memoryview) -> str:
    """The id that a request gives itself."""
    read: _Read | None = body.message
    if read is None:
        read = _Request(counted_messages.without(InferRequest, data, _HEAVY).message, ())
    return read.id


def _infer(body: Body, model: ServedModel, limits: ReadLimits) -> tuple[Inference, Wanted]:
    """What a ModelInferRequest asks for, and how its answer is written. Raises `InvalidRequest`, `NotSupported`."""
    request: _Read | None = body.message
    if isinstance(request, KnownMessage):
        return _known(request, model, limits)
    if request is None:
        whole = counted_messages.counted(InferRequest, body.data, _MOST, limits)
        request = _Request(whole, whole.raw_input_contents)
    message = request.message
    check_count("inputs", len(message.inputs))
    check_count("outputs", len(message.outputs))
    check_count("parameters", len(message.parameters))
    document = oip.read_document(
        {
            "id": message.id,
            "parameters": _parameters(message),
            "outputs": [{"name": output.name, "parameters": _parameters(output)} for output in message.outputs],
        }
    )
    described = [_described(item) for item in message.inputs]
    asked = oip.read_infer(document, _inputs(request, described, model, limits), model)
    if request.raw:
        _KNOWN.remember(body.data, message.model_name, message.model_version, document, described)
    return asked


def _known(request: KnownMessage, model: ServedModel, limits: ReadLimits) -> tuple[Inference, Wanted]:
    form = request.form
    inference, wanted = oip.read_infer(form.document, _raw_tensors(form.inputs, request.raw, model, limits), model)
    return inference, wanted if wanted.identity == request.id else wanted._replace(identity=request.id)


def _parameters(message: Any) -> dict[str, Any]:
    if not message.parameters:
        return {}
    return {
        name: getattr(value, value.WhichOneof("parameter_choice") or "bool_param")
        for name, value in message.parameters.items()
    }


def _inputs(
    request: _Request, described: Sequence[Described], model: ServedModel, limits: ReadLimits
) -> list[tuple[str, Tensor]]:
    message, raw = request
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
    return _raw_tensors(described, raw, model, limits)


def _raw_tensors(
    inputs: Sequence[Described], raw: Sequence[bytes | memoryview], model: ServedModel, limits: ReadLimits
) -> list[tuple[str, Tensor]]:
    return [
        (name, oip.binary_tensor(name, datatype, shape, data, model, limits))
        for (name, datatype, shape, _), data in zip(inputs, raw, strict=True)
    ]


def _described(item: Any) -> Described:
    name, datatype = item.name, item.datatype
    check_count(f"dimensions in the shape of input '{name}'", len(item.shape), MAX_RANK)
    shape = list(item.shape)
    if datatype not in DTYPES:
        raise InvalidRequest(f"invalid datatype for input '{name}': {json_tensors.quote(datatype)}")
    if "shared_memory_region" in item.parameters:
        raise NotSupported("tensors in shared memory are not supported; send them with the request")
    return Described(name, datatype, tuple(shape), json_tensors.element_count(name, shape, datatype))


def _typed_tensor(described: Described, item: Any, limits: ReadLimits) -> Tensor:
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
