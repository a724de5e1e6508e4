"""One request in every protocol, ready to paste into a shell or into Python.

Values that are many are written as an expression: `[[0.0]*28]*28`, `np.zeros((1, 28, 28), np.float32)`.
"""

import base64
import json
import math
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from millrace.protocol.messages import ModelAnnouncement
from millrace.protocol.tensors import BYTES, DEFAULT_SIGNATURE
from worker.check.report import Example

MOST_WRITTEN = 16  # elements of one tensor
_NOT_IN_JSON = "a dimension of 0 or bytes that are no text have no form in this protocol's JSON"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Inputs to one signature of a model, with the datatype of each.

    `is_batched` says that their first dimension counts rows.
    """

    model: str
    signature: str
    inputs: Mapping[str, npt.NDArray[Any]]
    datatypes: Mapping[str, str]
    is_batched: bool


def examples(request: Request, url: str, grpc: str) -> Iterator[Example]:
    """The request in each protocol that can say it. `url` is the API's, `grpc` its HOST:PORT."""
    is_default = request.signature == DEFAULT_SIGNATURE
    if _fits_rows(request):
        yield Example(protocol="TensorFlow Serving, REST", kind="shell", text=_tensorflow_rest(request, url))
    if is_default and _fits_open_inference(request):
        yield Example(protocol="Open Inference Protocol, REST", kind="shell", text=_open_inference_rest(request, url))
    yield Example(protocol="TensorFlow Serving, gRPC", kind="python", text=_tensorflow_grpc(request, grpc))
    if is_default:
        yield Example(protocol="Open Inference Protocol, gRPC", kind="python", text=_tritonclient(request, grpc))
    yield Example(protocol="millrace_client", kind="python", text=_millrace_client(request, url))


def of_files(model: ModelAnnouncement, url: str) -> Iterator[Example]:
    """An image's file sent to a model whose one input takes such files."""
    signature = model.signatures.get(DEFAULT_SIGNATURE)
    if signature and [spec.media for spec in signature.inputs if not spec.optional] == ["image"]:
        command = "curl -s --data-binary @image.jpg -H 'Content-Type: image/jpeg'"
        text = f"{command} {shlex.quote(_predict_url(url, model.name))}"
        yield Example(protocol="an image file, TensorFlow Serving's answer", kind="shell", text=text)


def unsaid(request: Request) -> Iterator[str]:
    """The protocols that have no example, and why."""
    if not _fits_rows(request):
        yield f"TensorFlow Serving, REST: {_NOT_IN_JSON}"
    if request.signature != DEFAULT_SIGNATURE:
        yield f"Open Inference Protocol: it asks {DEFAULT_SIGNATURE} only, which this model has not"
    elif not _fits_open_inference(request):
        yield "Open Inference Protocol, REST: bytes that are no text have no form in its JSON; send them as binary data"


def _fits_rows(request: Request) -> bool:
    return all(array.size for array in request.inputs.values())


def _fits_open_inference(request: Request) -> bool:
    return all(_is_text(array) for name, array in request.inputs.items() if request.datatypes[name] == BYTES)


def _is_text(array: npt.NDArray[Any]) -> bool:
    try:
        return all(value.decode().isprintable() for value in array.ravel().tolist())
    except UnicodeDecodeError:
        return False


# As JSON, or as the Python expression that makes it


def _tensorflow_rest(request: Request, url: str) -> str:
    body: dict[str, Any] = {}
    if request.signature != DEFAULT_SIGNATURE:
        body["signature_name"] = request.signature
    if not request.is_batched or not request.inputs:
        body["inputs"] = dict(request.inputs)
    elif len(request.inputs) == 1:
        body["instances"] = next(iter(request.inputs.values()))
    else:
        rows = len(next(iter(request.inputs.values())))
        body["instances"] = [{name: array[row] for name, array in request.inputs.items()} for row in range(rows)]
    return _curl(_predict_url(url, request.model), body)


def _predict_url(url: str, model: str) -> str:
    return f"{url}/v1/models/{quote(model, safe='')}:predict"


def _open_inference_rest(request: Request, url: str) -> str:
    inputs = [
        {
            "name": name,
            "datatype": request.datatypes[name],
            "shape": [int(size) for size in array.shape],
            "data": array.reshape(-1),
        }
        for name, array in request.inputs.items()
    ]
    return _curl(f"{url}/v2/models/{quote(request.model, safe='')}/infer", {"inputs": inputs})


def _curl(url: str, body: Mapping[str, Any]) -> str:
    if not _is_long(body):
        return f"curl -s {url} -d {shlex.quote(json.dumps(_plain(body)))}"
    code = f"import json; print(json.dumps({_expression(body)}))"
    return f"python3 -c {shlex.quote(code)} | curl -s {url} -d @-"


def _is_long(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.size > MOST_WRITTEN
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return any(_is_long(part) for part in parts)


def _plain(value: Any) -> Any:
    """What `json.dumps` takes, with arrays as lists and strings as text where they are."""
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, bytes):
        text = value.decode(errors="replace")
        return text if text.encode() == value else {"b64": base64.b64encode(value).decode()}
    return value


def _expression(value: Any) -> str:
    """The same as Python, where what is many is multiplied; all elements of such an array are alike."""
    if isinstance(value, np.ndarray) and value.size > MOST_WRITTEN:
        text = repr(_plain(value.flat[0]))
        for size in reversed(value.shape):
            text = f"[{text}]*{size}"
        return text
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)}: {_expression(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_expression(part) for part in value) + "]"
    plain = _plain(value)
    return json.dumps(plain, ensure_ascii=False) if isinstance(plain, str) else repr(plain)


# As Python


def _tensorflow_grpc(request: Request, grpc: str) -> str:
    lines = [
        "import grpc",
        "import numpy as np",
        "import tensorflow as tf",
        "from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc",
        "",
        f"stub = prediction_service_pb2_grpc.PredictionServiceStub(grpc.insecure_channel({grpc!r}))",
        "request = predict_pb2.PredictRequest()",
        f"request.model_spec.name = {request.model!r}",
    ]
    if request.signature != DEFAULT_SIGNATURE:
        lines.append(f"request.model_spec.signature_name = {request.signature!r}")
    for name, array in request.inputs.items():
        tensor = f"tf.make_tensor_proto({_numpy(array, request.datatypes[name])})"
        lines.append(f"request.inputs[{name!r}].CopyFrom({tensor})")
    lines.append("outputs = stub.Predict(request, timeout=30).outputs")
    return "\n".join([*lines, "print({name: tf.make_ndarray(tensor) for name, tensor in outputs.items()})"])


def _tritonclient(request: Request, grpc: str) -> str:
    lines = ["import numpy as np", "import tritonclient.grpc as grpcclient", "", "inputs = []"]
    for name, array in request.inputs.items():
        datatype = request.datatypes[name]
        lines.append(f"inputs.append(grpcclient.InferInput({name!r}, {list(map(int, array.shape))}, {datatype!r}))")
        lines.append(f"inputs[-1].set_data_from_numpy({_numpy(array, datatype)})")
    lines += [
        f"client = grpcclient.InferenceServerClient({grpc!r})",
        f"result = client.infer({request.model!r}, inputs)",
        "print({output.name: result.as_numpy(output.name) for output in result.get_response().outputs})",
    ]
    return "\n".join(lines)


def _millrace_client(request: Request, url: str) -> str:
    inputs = ", ".join(f"{name!r}: {_numpy(a, request.datatypes[name])}" for name, a in request.inputs.items())
    signature = f", signature={request.signature!r}" if request.signature != DEFAULT_SIGNATURE else ""
    return "\n".join(
        [
            "import numpy as np",
            "from millrace_client import Client",
            "",
            f"with Client({url!r}, transport='binary') as client:",
            f"    print(client.predict({request.model!r}, {{{inputs}}}{signature}).outputs)",
        ]
    )


def _numpy(array: npt.NDArray[Any], datatype: str) -> str:
    shape = "(" + ", ".join(map(str, array.shape)) + ("," if array.ndim == 1 else "") + ")"
    dtype = "object" if datatype == BYTES else f"np.{'bool_' if array.dtype.kind == 'b' else array.dtype.name}"
    if not array.size:
        return f"np.zeros({shape}, {dtype})"
    if math.prod(array.shape) > MOST_WRITTEN:
        value = array.flat[0]
        return f"np.full({shape}, {value if isinstance(value, bytes) else value.item()!r}, {dtype})"
    return f"np.array({array.tolist()!r}, {dtype})"
