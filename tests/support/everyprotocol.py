"""One inference through every protocol of a running stack, with the answers as arrays."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import grpc
import httpx
import numpy as np
import numpy.typing as npt

from millrace import rpc
from millrace.protocol.tensors import BYTES, DTYPES, Tensor, datatype_of
from millrace.rpc import tensorprotos

Arrays = dict[str, npt.NDArray[Any]]


class Refused(Exception):
    """The server refused the request: its status, HTTP's number or gRPC's name, and its words."""

    def __init__(self, status: int | str, text: str) -> None:
        super().__init__(f"{status}: {text}")
        self.status = status
        self.text = text


class EveryProtocol:
    """Callers of a stack at `url` (HTTP) and `address` (gRPC), HOST:PORT. A context manager.

    `infer` are the protocols by name: each takes the model's name and its inputs, and returns its outputs.
    """

    def __init__(self, url: str, address: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=30)
        self._channel = grpc.insecure_channel(address)
        self.infer: dict[str, Callable[[str, Arrays], Arrays]] = {
            "TFS REST, columns": self.columns,
            "OIP REST, JSON": self.oip_json,
            "OIP REST, binary": self.oip_binary,
            "TFS gRPC": self.tfs_grpc,
            "OIP gRPC": self.oip_grpc,
        }

    def __enter__(self) -> "EveryProtocol":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()
        self._channel.close()

    def predict(self, model: str, body: Mapping[str, Any]) -> Any:
        """The answer to a body of TensorFlow Serving's. Raises `Refused`."""
        return json.loads(self._post(f"/v1/models/{model}:predict", json.dumps(body).encode()).content)

    def columns(self, model: str, inputs: Arrays) -> Arrays:
        answer = self.predict(model, {"inputs": {name: _listed(array) for name, array in inputs.items()}})["outputs"]
        outputs = self.metadata(model)["outputs"]
        named = answer if len(outputs) > 1 else {outputs[0]["name"]: answer}
        return {spec["name"]: _array(spec, named[spec["name"]]) for spec in outputs}

    def oip_json(self, model: str, inputs: Arrays) -> Arrays:
        described = [_described(name, array) | {"data": _listed(array.ravel())} for name, array in inputs.items()]
        body = json.dumps({"inputs": described}).encode()
        answer = json.loads(self._post(f"/v2/models/{model}/infer", body).content)
        return {output["name"]: _array(output, output["data"], output["shape"]) for output in answer["outputs"]}

    def oip_binary(self, model: str, inputs: Arrays) -> Arrays:
        data = {name: bytes(Tensor.from_numpy(array).data) for name, array in inputs.items()}
        described = [
            _described(name, array) | {"parameters": {"binary_data_size": len(data[name])}}
            for name, array in inputs.items()
        ]
        head = json.dumps({"inputs": described, "parameters": {"binary_data_output": True}}).encode()
        headers = {"Inference-Header-Content-Length": str(len(head))}
        answer = self._post(f"/v2/models/{model}/infer", head + b"".join(data.values()), headers)
        length = int(answer.headers["Inference-Header-Content-Length"])
        outputs, at = {}, length
        for output in json.loads(answer.content[:length])["outputs"]:
            size = output["parameters"]["binary_data_size"]
            tensor = Tensor(output["datatype"], tuple(output["shape"]), answer.content[at : at + size])
            outputs[output["name"]], at = tensor.to_numpy(), at + size
        assert at == len(answer.content)
        return outputs

    def tfs_grpc(self, model: str, inputs: Arrays) -> Arrays:
        request = rpc.message("tensorflow.serving.PredictRequest")()
        request.model_spec.name = model
        for name, array in inputs.items():
            wire = tensorprotos.to_wire(Tensor.from_numpy(array), as_content=True)
            request.inputs[name].MergeFromString(b"".join(wire))
        answer = self._call("tensorflow.serving.PredictionService/Predict", request)
        found = rpc.message("tensorflow.serving.PredictResponse").FromString(answer)
        return {name: tensorprotos.to_tensor(proto, name).to_numpy() for name, proto in found.outputs.items()}

    def oip_grpc(self, model: str, inputs: Arrays) -> Arrays:
        request = rpc.message("inference.ModelInferRequest")(model_name=model)
        for name, array in inputs.items():
            request.inputs.add(**_described(name, array))
            request.raw_input_contents.append(bytes(Tensor.from_numpy(array).data))
        answer = rpc.message("inference.ModelInferResponse").FromString(
            self._call("inference.GRPCInferenceService/ModelInfer", request)
        )
        return {
            output.name: Tensor(output.datatype, tuple(output.shape), data).to_numpy()
            for output, data in zip(answer.outputs, answer.raw_output_contents, strict=True)
        }

    def metadata(self, model: str) -> Any:
        return self._client.get(f"/v2/models/{model}").json()

    def config(self, model: str) -> Any:
        return self._client.get(f"/v2/models/{model}/config").json()

    def is_available(self, model: str) -> bool:
        return self._client.get(f"/v2/models/{model}/ready").status_code == 200

    def status(self, model: str) -> Any:
        (status,) = self._client.get(f"/v1/models/{model}").json()["model_version_status"]
        return status

    def _post(self, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> httpx.Response:
        answer = self._client.post(path, content=body, headers=dict(headers or {}))
        if answer.status_code != 200:
            raise Refused(answer.status_code, answer.json()["error"])
        return answer

    def _call(self, method: str, request: Any) -> bytes:
        try:
            answer: bytes = self._channel.unary_unary(f"/{method}")(request.SerializeToString(), timeout=30)
        except grpc.RpcError as error:
            raise Refused(error.code().name, error.details()) from error
        return answer


def _described(name: str, array: npt.NDArray[Any]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype_of(array.dtype), "shape": list(array.shape)}


def _listed(array: npt.NDArray[Any]) -> Any:
    def plain(value: Any) -> Any:
        return [plain(item) for item in value] if isinstance(value, list) else _text(value)

    return plain(array.tolist())


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def _array(spec: Mapping[str, Any], value: Any, shape: Any = None) -> npt.NDArray[Any]:
    if spec["datatype"] == BYTES:
        flat = np.array(value, object)
        array = np.array([text.encode() for text in flat.ravel()] or [], object).reshape(flat.shape)
    else:
        array = np.array(value, DTYPES[spec["datatype"]])
    return array if shape is None else array.reshape(shape)
