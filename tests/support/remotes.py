"""A remote TensorFlow Serving whose signatures and answers a test makes up, and which keeps what it was asked."""

from concurrent import futures
from typing import Any

import grpc

from millrace import rpc


class Described(grpc.GenericRpcHandler):
    """A server of one model that has these SignatureDefs, and answers every Predict alike; as a context it is its port.

    `asked` are the requests, and `metadata` what came along with each.
    """

    def __init__(self, definitions: dict[str, Any], outputs: dict[str, Any]) -> None:
        metadata = rpc.message("tensorflow.serving.GetModelMetadataResponse")()
        described = rpc.message("tensorflow.serving.SignatureDefMap")(signature_def=definitions)
        metadata.metadata["signature_def"].Pack(described)
        available = {"version": 1, "state": "AVAILABLE"}
        self._answers = {
            "GetModelMetadata": metadata,
            "GetModelStatus": rpc.message("tensorflow.serving.GetModelStatusResponse")(
                model_version_status=[available]
            ),
            "Predict": rpc.message("tensorflow.serving.PredictResponse")(outputs=outputs),
        }
        self.asked: list[Any] = []
        self.metadata: list[tuple[tuple[str, str], ...]] = []
        self._server = grpc.server(futures.ThreadPoolExecutor(1), handlers=[self])

    def __enter__(self) -> int:
        port: int = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()
        return port

    def __exit__(self, *_: object) -> None:
        self._server.stop(None).wait()

    def service(self, handler_call_details: Any) -> Any:
        method = handler_call_details.method.rpartition("/")[2]

        def answer(request: bytes, _: Any) -> bytes:
            if method == "Predict":
                self.asked.append(rpc.message("tensorflow.serving.PredictRequest").FromString(request))
                self.metadata.append(tuple(handler_call_details.invocation_metadata))
            return bytes(self._answers[method].SerializeToString())

        return grpc.unary_unary_rpc_method_handler(answer)


def floats_to_threes() -> Described:
    """Of floats `x` [-1, 3] the answer is `y` [1], always 3."""

    def info(*sizes: int) -> dict[str, Any]:
        return {"name": "x:0", "dtype": 1, "tensor_shape": {"dim": [{"size": size} for size in sizes]}}

    signature = {"inputs": {"x": info(-1, 3)}, "outputs": {"y": info(-1)}}
    answer = {"dtype": 1, "tensor_shape": {"dim": [{"size": 1}]}, "float_val": [3]}
    return Described({"serving_default": signature}, {"y": answer})
