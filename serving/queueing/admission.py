"""What is checked before a request is queued, so that one bad request cannot fail its neighbours in a batch."""

import time
from collections.abc import Iterable, Mapping

import msgspec

from millrace.protocol.errors import InvalidRequest, PayloadTooLarge
from millrace.protocol.tensors import BYTES, Signature, Tensor, TensorSpec, read_layout
from serving.models.registry import ServedModel
from serving.queueing.requests import InferenceRequest

_MAX_FILE_BYTES = 16 * 2**20


class Inference(msgspec.Struct, frozen=True):
    """What a request asks of a model, as its protocol's parser read it.

    `timeout_ms` is None where the body names none. `is_alone`: its shapes may be others than the signature's, so it
    runs with no other, and the model says whether it takes them.
    """

    model: ServedModel
    signature: str
    inputs: dict[str, Tensor]
    timeout_ms: float | None = None
    priority: str = "normal"
    is_alone: bool = False


def admit(
    inference: Inference, *, trace: str, deadline: float, max_queue_rows: int, caller: str = ""
) -> InferenceRequest:
    """The request for the queue, checked against the model's signature.

    `deadline` is a time of `time.perf_counter`. Raises as `check` does, with the words that Triton's users know.
    """
    return request_of(inference, check(inference, max_queue_rows), trace=trace, deadline=deadline, caller=caller)


def check(inference: Inference, max_queue_rows: int) -> int:
    """Check what is asked against the model's signature: how many rows it has.

    Raises `InvalidRequest`, or `PayloadTooLarge` for more rows than the queue takes.
    """
    model = inference.model
    if inference.is_alone:
        return _check_alone(model, model.signature(inference.signature), inference.inputs, max_queue_rows)
    rows = _check_inputs(model, model.signature(inference.signature), inference.inputs)
    check_rows(model, rows, max_queue_rows)
    return rows


def check_rows(model: ServedModel, rows: int, max_queue_rows: int) -> None:
    """Raises `PayloadTooLarge` for more rows than the queue takes, or than a batch where requests are not cut.

    Where the model does not batch, a request has no rows.
    """
    most = min(max_queue_rows, model.max_batch_size) if model.has_whole_requests else max_queue_rows
    if model.max_batch_size and rows > most:
        why = "the rows that its queue may hold are set by MILLRACE_SERVING_MAX_QUEUE_ROWS"
        if most < max_queue_rows:
            why = "the model needs all rows of a request in one batch"
        raise PayloadTooLarge(f"inference request batch-size must be <= {most} for '{model.name}', got {rows}; {why}")


def check_shape(
    model: ServedModel,
    spec: TensorSpec | None,
    datatype: str,
    shape: tuple[int, ...],
    max_queue_rows: int,
) -> None:
    """Check what an input says of itself, before its elements are looked at. Raises as `check` does.

    `spec` is None for an input that the signature does not know: `check` has the words for it.
    """
    if shape:
        check_rows(model, shape[0], max_queue_rows)
    if spec:
        _check_described(model, spec, datatype, shape)


def request_of(inference: Inference, rows: int, *, trace: str, deadline: float, caller: str = "") -> InferenceRequest:
    """The request for the queue, of what `check` found to have so many rows."""
    model = inference.model
    return InferenceRequest(
        model=model.name,
        version=model.version,
        signature=inference.signature,
        inputs=inference.inputs,
        rows=rows,
        max_batch_size=0 if inference.is_alone else model.max_batch_size,
        largest_batch=model.max_batch_size,
        timeout_s=deadline - time.perf_counter(),
        trace=trace,
        priority=inference.priority,
        caller=caller,
        is_whole=model.has_whole_requests,
    )


def _check_inputs(model: ServedModel, signature: Signature, inputs: Mapping[str, Tensor]) -> int:
    """How many rows the inputs have; 1 where requests are not cut into rows."""
    specs = signature.inputs
    if len(specs) == len(inputs) == 1 and specs[0].name in inputs:
        return _check_tensor(model, specs[0], inputs[specs[0].name])
    _check_names(model.name, signature, inputs)
    rows = {_check_tensor(model, spec, inputs[spec.name]) for spec in specs if spec.name in inputs}
    if not model.max_batch_size:
        return 1
    if len(rows) != 1:
        raise InvalidRequest(f"the inputs of model '{model.name}' have different numbers of rows: {sorted(rows)}")
    return rows.pop()


def fits(signature: Signature, inputs: Mapping[str, Tensor]) -> bool:
    """Whether the inputs have the shapes that the signature says, as far as it knows them."""
    return all(
        _fits(inputs[spec.name].shape, spec.shape) or bool(spec.media) or spec.unknown_rank
        for spec in signature.inputs
        if spec.name in inputs
    )


def _check_alone(model: ServedModel, signature: Signature, inputs: Mapping[str, Tensor], max_queue_rows: int) -> int:
    """Check all but the shapes, for a request that counts as one row."""
    _check_names(model.name, signature, inputs)
    for spec in signature.inputs:
        if tensor := inputs.get(spec.name):
            _check_datatype(model, spec, tensor.datatype)
            _check_longest(model, spec, tensor)
            check_rows(model, max(tensor.shape[:1], default=1), max_queue_rows)
    return 1


def _check_names(model: str, signature: Signature, inputs: Mapping[str, Tensor]) -> None:
    names = {spec.name for spec in signature.inputs}
    required = {spec.name for spec in signature.inputs if not spec.optional}
    for name in inputs:
        if name not in names:
            raise InvalidRequest(f"unexpected inference input '{name}' for model '{model}'")
    if missing := required - inputs.keys():
        raise InvalidRequest(
            f"expected {_between(len(required), len(names))} but got {len(inputs)} inputs for model '{model}'. "
            f"Got input(s) {_listed(inputs)}, but missing required input(s) {_listed(missing)}. "
            "Please provide all required input(s)."
        )


def _between(least: int, most: int) -> str:
    return f"{least} inputs" if least == most else f"number of inputs between {least} and {most}"


def _listed(names: Iterable[str]) -> str:
    """The names as Triton lists them."""
    return "[" + ",".join(f"'{name}'" for name in sorted(names)) + "]"


def _check_tensor(model: ServedModel, spec: TensorSpec, tensor: Tensor) -> int:
    """How many rows the tensor has."""
    shape = tensor.shape
    if not (tensor.datatype == spec.datatype and _fits(shape, spec.shape)):  # the usual case needs no more looks
        _check_described(model, spec, tensor.datatype, shape)
    if model.max_batch_size and not shape[0]:
        raise InvalidRequest(f"input '{spec.name}' of model '{model.name}' is empty: its shape is {_shape(shape)}")
    if tensor.datatype == BYTES:
        _check_longest(model, spec, tensor)
    return shape[0] if model.max_batch_size else 1


def _check_longest(model: ServedModel, spec: TensorSpec, tensor: Tensor) -> None:
    most = _MAX_FILE_BYTES if spec.media and tensor.datatype == BYTES else spec.max_bytes
    if most and tensor.datatype == BYTES and (longest := _longest(tensor)) > most:
        raise InvalidRequest(
            f"input '{spec.name}' of model '{model.name}' takes at most {most} bytes an element, got {longest}"
        )


def _longest(tensor: Tensor) -> int:
    """The length of the longest string."""
    layout = tensor.layout or read_layout(tensor.data, tensor.shape)
    return layout.longest


def _check_described(model: ServedModel, spec: TensorSpec, datatype: str, shape: tuple[int, ...]) -> None:
    """Raises `InvalidRequest` where a datatype and a shape are not what the signature says."""
    _check_datatype(model, spec, datatype)
    is_file = bool(spec.media) and datatype == BYTES
    expected = (-1,) if is_file else spec.shape
    if not _fits(shape, expected) and not spec.unknown_rank:
        raise InvalidRequest(
            f"unexpected shape for input '{spec.name}' for model '{model.name}'. "
            f"Expected {_shape(expected)}, got {_shape(shape)}"
        )


def _check_datatype(model: ServedModel, spec: TensorSpec, datatype: str) -> None:
    if datatype != spec.datatype and not (spec.media and datatype == BYTES):
        also = f" or, for {spec.media} files, BYTES" if spec.media else ""
        raise InvalidRequest(
            f"inference input '{spec.name}' data-type is '{datatype}', but model '{model.name}' expects "
            f"'{spec.datatype}'{also}"
        )


def _fits(shape: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    if len(shape) != len(expected):
        return False
    if shape[1:] == expected[1:] and expected[:1] == (-1,):  # the usual case, at a tenth of the time
        return True
    return all(want in (-1, got) for want, got in zip(expected, shape, strict=True))


def _shape(shape: tuple[int, ...]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"
