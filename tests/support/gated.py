"""A model whose runs wait until the test lets them go on, and that notes which rows it was given.

`y` = 3 `x` + 7, as in `exact`. The model is a gRPC server of the test's own. A worker asks it through the backend for a
remote TensorFlow Serving. So a worker is busy for as long as the test wants, however fast or busy the machine is.
"""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from millrace import rpc
from millrace.protocol.tensors import Tensor
from millrace.rpc import tensorprotos
from tests.support.running import until

_LIMIT_S = 120.0


def _message(name: str, **fields: Any) -> Any:
    return rpc.message(f"tensorflow.serving.{name}")(**fields)


class GatedModel(grpc.GenericRpcHandler):
    """The model. It runs at once until `close`, and then waits in each run until `open`."""

    def __init__(self) -> None:
        self._gate = threading.Event()
        self._gate.set()
        self._runs: list[list[int]] = []
        self._server = grpc.server(ThreadPoolExecutor(8), handlers=[self])
        self._port = self._server.add_insecure_port("127.0.0.1:0")

    @property
    def runs(self) -> list[list[int]]:
        """The rows of each run since the gate was closed, those that wait at the gate too, in their order."""
        return list(self._runs)

    def close(self) -> None:
        """Let later runs wait, and forget the runs so far."""
        self._gate.clear()
        self._runs.clear()

    def open(self) -> None:
        """Let every run go on."""
        self._gate.set()

    def until_busy(self) -> None:
        """Return when a run waits at the gate."""
        until(lambda: self._runs, what="a run of the gated model")

    def publish(self, root: Path, name: str = "exact") -> None:
        """Put version 1 of it into a model repository."""
        folder = root / name / "1"
        folder.mkdir(parents=True)
        remote = {"address": f"127.0.0.1:{self._port}", "model": name, "timeout_ms": int(_LIMIT_S * 1000)}
        (folder / "tfserving.json").write_text(json.dumps(remote))

    @contextmanager
    def serving(self) -> Iterator["GatedModel"]:
        """Answer workers in the block; at its end nothing waits at the gate any more."""
        self._server.start()
        try:
            yield self
        finally:
            self.open()
            self._server.stop(None).wait()

    def service(self, handler_call_details: Any) -> Any:
        """See grpc.GenericRpcHandler."""
        method = handler_call_details.method.rpartition("/")[2]
        answer = {"GetModelMetadata": _metadata, "GetModelStatus": _status, "Predict": self._predict}[method]
        return grpc.unary_unary_rpc_method_handler(lambda request, _: answer(request).SerializeToString())

    def _predict(self, request: bytes) -> Any:
        proto = rpc.message("tensorflow.serving.PredictRequest").FromString(request).inputs["x"]
        rows = tensorprotos.to_tensor(proto, "x").to_numpy()
        self._runs.append(rows.ravel().tolist())
        assert self._gate.wait(_LIMIT_S)
        response = _message("PredictResponse")
        tensor = b"".join(tensorprotos.to_wire(Tensor.from_numpy(3 * rows + 7), as_content=True))
        response.outputs["y"].MergeFromString(tensor)
        return response


def _metadata(_: bytes) -> Any:
    shape = {"dim": [{"size": -1}, {"size": 1}]}
    info = {"dtype": tensorprotos.number_of("INT64"), "tensor_shape": shape}
    definitions = _message("SignatureDefMap")
    signature = definitions.signature_def["serving_default"]
    for name, tensors in (("x", signature.inputs), ("y", signature.outputs)):
        tensors[name].CopyFrom(rpc.message("tensorflow.TensorInfo")(name=f"{name}:0", **info))
    response = _message("GetModelMetadataResponse")
    response.metadata["signature_def"].Pack(definitions)
    return response


def _status(_: bytes) -> Any:
    return _message("GetModelStatusResponse", model_version_status=[{"version": 1, "state": "AVAILABLE"}])
