"""TensorFlow Serving's REST protocol: its JSON in, its JSON and its error texts out.

Follows the code of TensorFlow Serving 2.19 (`util/json_tensor.cc`, `model_servers/http_rest_api_handler.cc`), where its
documentation differs from it.
"""

import base64
import json
import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import orjson

from millrace.protocol.errors import InvalidRequest, MillraceError, ModelNotFound, VersionOutOfRange
from millrace.protocol.messages import ModelAnnouncement
from millrace.protocol.tensors import BYTES, DEFAULT_SIGNATURE, TENSORFLOW_NAMES, Signature, Tensor, TensorSpec
from serving.models.registry import ServedModel, only_input
from serving.protocols import json_tensors, uploads
from serving.protocols.examples import (
    Example,
    ScoredClasses,
    classifications,
    inputs_of,
    regressions,
    with_context,
)
from serving.protocols.limits import QUICK_BYTES, QUICK_VALUES, NotQuick, ReadLimits
from serving.protocols.tfs.shapes import fitted, without_last_axes
from serving.protocols.verb import Body, Rendered, Verb, check_quick_to_write
from serving.queueing.admission import Inference, check_rows, fits

Form = Literal["row", "column", "flat row", "flat column"]  # flat: without the outputs' last axis, which has size 1
_ANY = ReadLimits()
_TENSORFLOW = ("tensorflow_savedmodel", "tensorflow_serving")
_EXAMPLE_VALUES = 8  # reading an example costs as much as so many other values
_SLICE_VALUES = 1 << 18
_OTHER_STRINGS = 1024  # of keys that are passed over


def parse_predict(body: bytes, model: ServedModel, limits: ReadLimits = _ANY) -> tuple[Inference, Form]:
    """What a `:predict` body asks for, and the form that the answer takes. Raises `InvalidRequest`, `NotQuick`."""
    limits.check_quick_length(len(body))
    is_short = not limits.max_quick or len(body) <= QUICK_BYTES
    if is_short and (spec := model.only_input) and (fast := json_tensors.fast_rows(body, spec)):
        key, tensor = fast
        if spec.shape[0] in (-1, tensor.shape[0]):
            return Inference(model, DEFAULT_SIGNATURE, {spec.name: tensor}), "row" if key == "instances" else "column"
    most_strings = _most_strings(model, limits) if len(body) > QUICK_VALUES else None
    document = _document(body, limits, most_strings)
    name = _signature_name(document)
    signature = model.signature(name)
    if "instances" in document and "inputs" in document:
        raise InvalidRequest(
            f"JSON Value: {json_tensors.quote(document)} Not formatted correctly expecting only one of 'inputs' or "
            "'instances' keys to exist "
        )
    _check_rows(model, document.get("instances", document.get("inputs")), limits)
    if "instances" in document:
        inputs, form = _rows(document["instances"], signature), "row"
    elif "inputs" in document:
        inputs, form = _columns(document["inputs"], signature), "column"
    else:
        raise InvalidRequest("Missing 'inputs' or 'instances' key")
    if is_tensorflow(model):
        return inference_of(model, name, inputs), form  # type: ignore[return-value]
    inputs, lacking = fitted(inputs, signature)
    if lacking == 1:
        form = f"flat {form}"
    return Inference(model, name, inputs), form  # type: ignore[return-value]


def is_tensorflow(model: ServedModel) -> bool:
    """Whether TensorFlow runs it: TensorFlow Serving holds no request against the shapes of such a signature."""
    return model.announcement.platform in _TENSORFLOW


def inference_of(model: ServedModel, signature: str, inputs: dict[str, Tensor]) -> Inference:
    """What is asked of TensorFlow. Inputs of other shapes than the signature's, or no rows, go to the model alone."""
    is_alone = not fits(model.signature(signature), inputs) or any(not t.shape[0] for t in inputs.values() if t.shape)
    return Inference(model, signature, inputs, is_alone=is_alone)


def _most_strings(model: ServedModel, limits: ReadLimits) -> float | None:
    """How many strings, keys among them, a body of as many rows as there may be can have; None: no end of them."""
    if not model.max_batch_size:
        return None
    return max((_strings_of(each, limits) for each in model.announcement.signatures.values()), default=0) or None


def _strings_of(signature: Signature, limits: ReadLimits) -> float:
    """Of each row: every input's key, and each string of it, base64 perhaps, which has a key of its own."""
    if any(size < 0 for spec in signature.inputs for size in spec.shape[1:]):
        return math.inf
    row = sum(1 + 2 * (math.prod(spec.shape[1:]) if spec.datatype == BYTES else 1) for spec in signature.inputs)
    return limits.max_rows * row + _OTHER_STRINGS


def _check_rows(model: ServedModel, value: Any, limits: ReadLimits) -> None:
    """Count the rows before any of them is looked at."""
    for each in value.values() if isinstance(value, dict) else (value,):
        if isinstance(each, list):
            check_rows(model, len(each), limits.max_rows)


def parse_examples(body: bytes, model: ServedModel, limits: ReadLimits = _ANY) -> Inference:
    """What a `:classify` or `:regress` body asks for. Raises `InvalidRequest`, `NotQuick`."""
    limits.check_quick_length(len(body))
    document = _document(body, limits)
    name = _signature_name(document)
    signature = model.signature(name)
    context = _example(document.get("context", {}))
    items = document.get("examples")
    if "examples" not in document:
        raise InvalidRequest("When method is classify, key 'examples' is expected and was not found")
    if not isinstance(items, list):
        raise InvalidRequest("Expecting 'examples' value to be an list/array")
    if not items:
        raise InvalidRequest("'examples' value is an empty array")
    check_rows(model, len(items), limits.max_rows)
    limits.check_quick(_EXAMPLE_VALUES * len(items) * (1 + len(context)))
    examples = with_context(context, [_example(item) for item in items])
    return Inference(model, name, inputs_of(examples, signature))


def _document(body: bytes, limits: ReadLimits, most_strings: float | None = None) -> dict[str, Any]:
    document = json_tensors.load_first(body, limits, most_strings)
    if not isinstance(document, dict):
        raise InvalidRequest(f"JSON Value: {json_tensors.quote(document)} Is not object")
    return document


def _signature_name(document: dict[str, Any]) -> str:
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise InvalidRequest(
            f"JSON Value: {json_tensors.quote(document)} not formatted correctly. 'signature_name' key must be a "
            "string value."
        )
    return name or DEFAULT_SIGNATURE


def _example(item: Any) -> Example:
    """The features: whole numbers and booleans as int, other numbers as float, strings and base64 as bytes."""
    if not isinstance(item, dict):
        raise InvalidRequest(f"Example must be JSON object but got {json_tensors.quote(item)}")
    return {
        name: [_feature_value(name, value) for value in (values if isinstance(values, list) else [values])]
        for name, values in item.items()
    }


def _feature_value(name: str, value: Any) -> Any:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int | float):
        return value
    if isinstance(value, str) or json_tensors.is_b64(value):
        return json_tensors.to_bytes(value)
    raise InvalidRequest(f"Feature: {name} has element with unexpected JSON type: {json_tensors.quote(value)}")


def _rows(instances: Any, signature: Signature) -> dict[str, Tensor]:
    if not isinstance(instances, list):
        raise InvalidRequest(f"JSON Value: {json_tensors.quote(instances)} Expecting 'instances' to be an list/array")
    if not instances:
        raise InvalidRequest("JSON Value: [] No values in 'instances' array")
    only = only_input(signature)
    if only and not _is_named(instances[0], signature):
        return {only.name: _column(instances, only)}
    specs = {spec.name: spec for spec in signature.inputs}
    _check_keys(instances, specs)
    return {name: _column([row[name] for row in instances], specs[name], name) for name in instances[0]}


def _check_keys(instances: list[Any], specs: Mapping[str, TensorSpec]) -> None:
    """Raises `InvalidRequest` where rows do not all name the same inputs, those that the signature has."""
    if not isinstance(instances[0], dict):
        raise InvalidRequest(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map"
        )
    required = {name for name, spec in specs.items() if not spec.optional}
    first = instances[0].keys()
    for i, instance in enumerate(instances):
        if not isinstance(instance, dict):
            raise InvalidRequest(f"Expecting object but got list at item {i} of input list")
        for name in instance.keys() - specs.keys():
            raise InvalidRequest(
                f"Failed to process element: {i} key: {json_tensors.quote(name)[1:-1]} of 'instances' list. Error: "
                f"INVALID_ARGUMENT: JSON object: does not have named input: {json_tensors.quote(name)[1:-1]}"
            )
        if not required <= instance.keys() or instance.keys() != first:
            raise InvalidRequest(
                f"Failed to process element: {i} of 'instances' list. JSON object: {json_tensors.quote(instance)} "
                f"keys must be equal to: {','.join(sorted(specs))}"
            )


def _column(rows: list[Any], spec: TensorSpec, key: str = "") -> Tensor:
    """The rows of one input. Raises `InvalidRequest`, naming the row that is wrong, of that `key` if there is one."""
    try:
        return json_tensors.to_tensor(rows, spec)
    except InvalidRequest as error:
        raise _of_element(rows, spec, key) or error from None


def _of_element(rows: list[Any], spec: TensorSpec, key: str) -> InvalidRequest | None:
    """What is wrong with the first row that is wrong in itself, or of another shape than those before it."""
    first: tuple[int, ...] | None = None
    of_key = f" key: {key}" if key else ""
    for i, row in enumerate(rows):
        where = f"Failed to process element: {i}{of_key} of 'instances' list. Error: INVALID_ARGUMENT: "
        if not key and isinstance(row, dict) and not json_tensors.is_b64(row):
            return InvalidRequest(f"Expecting value/list but got object at item {i} of input list")
        try:
            shape = json_tensors.to_tensor(row, spec).shape
        except InvalidRequest as error:
            return InvalidRequest(where + str(error))
        first = shape if first is None else first
        if math.prod(shape) != math.prod(first):
            return InvalidRequest(f"{where}Expecting tensor size: {math.prod(first)} but got: {math.prod(shape)}")
        if shape != first:
            return InvalidRequest(f"{where}Expecting shape {_listed(first)} but got: {_listed(shape)}")
    return None


def _listed(shape: tuple[int, ...]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"


def _columns(inputs: Any, signature: Signature) -> dict[str, Tensor]:
    only = only_input(signature)
    if only and not _is_named(inputs, signature):
        return {only.name: json_tensors.to_tensor(inputs, only)}
    if not isinstance(inputs, dict):
        raise InvalidRequest(
            "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
            "tensorinfo_map"
        )
    for spec in signature.inputs:
        if spec.name not in inputs and not spec.optional:
            raise InvalidRequest(f"Missing named input: {spec.name} in 'inputs' object.")
    return {
        spec.name: json_tensors.to_tensor(inputs[spec.name], spec) for spec in signature.inputs if spec.name in inputs
    }


def _is_named(value: Any, signature: Signature) -> bool:
    """Whether the value names its inputs, and is not an encoded string, for a signature that takes one input."""
    if not isinstance(value, dict):
        return False
    return value.keys() != {"b64"} or any(spec.name == "b64" for spec in signature.inputs)


def render_predict(outputs: Mapping[str, Tensor], form: Form) -> Rendered:
    """The answer to `:predict`. Raises `InvalidRequest` where an output has no rows to show by row."""
    if form.startswith("flat"):
        outputs = without_last_axes(outputs, 1)
    if form.endswith("column"):
        return Rendered(b'{"outputs":%b}' % _columns_of(outputs))
    count = _row_count(outputs)
    if len(outputs) == 1:
        (name,) = outputs
        return Rendered(b'{"predictions":%b}' % _value(name, outputs[name]))
    columns = {name: _row_values(name, tensor) for name, tensor in outputs.items()}
    predictions = [{name: column[i] for name, column in columns.items()} for i in range(count)]
    return Rendered(b'{"predictions":%b}' % orjson.dumps(predictions))


def _row_count(outputs: Mapping[str, Tensor]) -> int:
    """How many rows all outputs have."""
    count = -1
    for name, tensor in outputs.items():
        if not tensor.shape:
            raise InvalidRequest(
                f"Tensor name: {name} has no shape information, so it can't be shown by row; send 'inputs'"
            )
        if count not in (-1, tensor.shape[0]):
            raise InvalidRequest(
                f"Tensor name: {name} has inconsistent batch size: {tensor.shape[0]} expecting: {count}, so it can't "
                "be shown by row; send 'inputs'"
            )
        count = tensor.shape[0]
    return count


def _columns_of(outputs: Mapping[str, Tensor]) -> bytes:
    if len(outputs) == 1:
        (name,) = outputs
        return _value(name, outputs[name])
    members = (b"%b:%b" % (orjson.dumps(name), _value(name, tensor)) for name, tensor in outputs.items())
    return b"{%b}" % b",".join(members)


def _value(name: str, tensor: Tensor) -> bytes:
    array = tensor.to_numpy()
    return orjson.dumps(_strings(name, array.tolist())) if tensor.datatype == BYTES else json_tensors.dumps_array(array)


def _row_values(name: str, tensor: Tensor) -> list[Any]:
    array = tensor.to_numpy()
    if tensor.datatype == BYTES:
        return [_strings(name, row) for row in array.tolist()]
    if array.ndim == 1:
        return [orjson.Fragment(json_tensors.dumps_array(array[i : i + 1])[1:-1]) for i in range(len(array))]
    return [orjson.Fragment(json_tensors.dumps_array(row)) for row in array]


def _strings(name: str, value: Any) -> Any:
    """Bytes as text, or as an object with base64 where the output's name asks for it."""
    if isinstance(value, list):
        return [_strings(name, item) for item in value]
    return {"b64": base64.b64encode(value).decode()} if name.endswith("_bytes") else value.decode("utf-8", "replace")


def render_classify(outputs: Mapping[str, Tensor], signature: Signature, labels: Sequence[str]) -> Rendered:
    """The answer to `:classify`. Raises `InvalidRequest` where the signature's outputs name no classes."""
    found = classifications(outputs, signature, labels)
    rows, count = found.scores.shape
    step = max(1, _SLICE_VALUES // max(1, count))
    slices = [_pairs(found, start, min(rows, start + step)) for start in range(0, rows, step)]
    return Rendered(b'{"results":[%b]}' % b",".join(slices))


def _pairs(found: ScoredClasses, start: int, stop: int) -> bytes:
    """Some rows, each as a list of pairs of a label and its score."""
    count = found.scores.shape[1]
    if not count:
        return b",".join([b"[]"] * (stop - start))
    scores = json_tensors.dumps_array(found.scores[start:stop].reshape(-1))[1:-1].split(b",")
    shared = len(found.names) == count
    labels = [_label(name) for name in found.names_of(0)] if shared else []
    rows = []
    for row in range(stop - start):
        of_row = labels if shared else [_label(name) for name in found.names_of(start + row)]
        rows.append(b"[%b]]" % b"],".join(map(operator.add, of_row, scores[row * count : (row + 1) * count])))
    return b",".join(rows)


def _label(name: str) -> bytes:
    return b"[%b," % json.dumps(name).encode()


def render_regress(outputs: Mapping[str, Tensor], signature: Signature) -> Rendered:
    """The answer to `:regress`. Raises `InvalidRequest` where the signature's outputs are not one value a row."""
    return Rendered(b'{"results":%b}' % json_tensors.dumps_array(regressions(outputs, signature)))


def render_status(versions: list[ModelAnnouncement]) -> dict[str, Any]:
    """The body of `GET /v1/models/NAME`; what TensorFlow Serving has no words for is there where it says something."""
    return {
        "model_version_status": [
            {
                "version": model.shown_version,
                "state": model.state,
                "status": {"error_code": "UNKNOWN" if model.error else "OK", "error_message": model.error},
                **({"notes": model.notes, "warmed": model.warmed} if model.notes else {}),
            }
            for model in versions
        ]
    }


def render_list(models: list[list[ModelAnnouncement]]) -> dict[str, Any]:
    """The body of `GET /v1/models`, which TensorFlow Serving has not: every model with its versions, newest first."""
    return {
        "models": [
            {
                "name": versions[0].name,
                "description": versions[0].description,
                "labels": versions[0].labels,
                "versions": [
                    {
                        "version": model.shown_version,
                        "state": model.state,
                        "error_message": model.error,
                        "notes": model.notes,
                        "warmed": model.warmed,
                    }
                    for model in versions
                ],
            }
            for versions in models
        ]
    }


def render_metadata(model: ServedModel) -> dict[str, Any]:
    """The body of `GET /v1/models/NAME/metadata`."""
    definitions = {
        name: {
            "inputs": {
                spec.name: _tensor_info(spec, spec.graph_name or f"{name}_{spec.name}:0") for spec in signature.inputs
            },
            "outputs": {
                spec.name: _tensor_info(spec, spec.graph_name or f"StatefulPartitionedCall:{i}")
                for i, spec in enumerate(signature.outputs)
            },
            "method_name": signature.method_name,
            "defaults": {},
        }
        for name, signature in model.announcement.signatures.items()
    }
    return {
        "model_spec": {"name": model.name, "signature_name": "", "version": str(model.version)},
        "metadata": {"signature_def": {"signature_def": definitions}},
    }


def _tensor_info(spec: TensorSpec, name: str) -> dict[str, Any]:
    shape = {"dim": [{"size": str(size), "name": ""} for size in spec.shape], "unknown_rank": spec.unknown_rank}
    return {"dtype": TENSORFLOW_NAMES[spec.datatype], "tensor_shape": shape, "name": name}


def predict_error_text(error: MillraceError) -> str:
    """The error in TensorFlow Serving's words, for `:predict`, `:classify` and `:regress`."""
    if isinstance(error, ModelNotFound):
        wanted = f"Latest({error.model})" if error.version is None else f"Specific({error.model}, {error.version})"
        return f"Servable not found for request: {wanted}"
    return _version_text(error)


def status_error_text(error: MillraceError) -> str:
    """The error in TensorFlow Serving's words, for the status and metadata of a model."""
    if isinstance(error, ModelNotFound):
        wanted = "any versions" if error.version is None else f"version {error.version}"
        return f"Could not find {wanted} of model {error.model}"
    return _version_text(error)


def _version_text(error: MillraceError) -> str:
    if isinstance(error, VersionOutOfRange):
        return f"Failed to convert version: {error.version} to numeric."
    return str(error)


def _predict(body: Body, model: ServedModel, limits: ReadLimits) -> tuple[Inference, Form]:
    if body.content_type is not None:
        return Inference(model, *uploads.read(body, body.content_type, model, limits)), "row"
    return parse_predict(as_bytes(body.data, limits), model, limits)


def _predicted(_model: ServedModel, outputs: Mapping[str, Tensor], form: Form, limits: ReadLimits) -> Rendered:
    check_quick_to_write(outputs, limits)
    return render_predict(outputs, form)


def _examples(body: Body, model: ServedModel, limits: ReadLimits) -> tuple[Inference, str]:
    if body.content_type is not None:
        upload = uploads.read(body, body.content_type, model, limits)
        return Inference(model, *upload), upload.signature
    inference = parse_examples(as_bytes(body.data, limits), model, limits)
    return inference, inference.signature


def _classified(model: ServedModel, outputs: Mapping[str, Tensor], name: str, limits: ReadLimits) -> Rendered:
    limits.check_quick(
        sum(tensor.shape[0] * math.prod(tensor.shape[1:]) for tensor in outputs.values() if tensor.shape)
    )
    return render_classify(outputs, model.signature(name), model.announcement.labels)


def _regressed(model: ServedModel, outputs: Mapping[str, Tensor], name: str, limits: ReadLimits) -> Rendered:
    check_quick_to_write(outputs, limits)
    return render_regress(outputs, model.signature(name))


def as_bytes(data: bytes | memoryview, limits: ReadLimits) -> bytes:
    """The body in one piece. Raises `NotQuick` where that takes long."""
    if isinstance(data, bytes):
        return data
    if limits.max_quick and len(data) > QUICK_BYTES:
        raise NotQuick
    return bytes(data)


PREDICT = Verb("tfs/predict", "tfs", Form, _predict, _predicted, predict_error_text, "normal")
CLASSIFY = Verb("tfs/classify", "tfs", str, _examples, _classified, predict_error_text, "normal")
REGRESS = Verb("tfs/regress", "tfs", str, _examples, _regressed, predict_error_text, "normal")
