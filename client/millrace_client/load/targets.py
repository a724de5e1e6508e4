"""What is asked: a model behind one of five protocols. Its metadata are read in the protocol's own way.

tfs-rest      POST /v1/models/<m>:predict          metadata from /v1/models/<m>/metadata
oip-json      POST /v2/models/<m>/infer            metadata from /v2/models/<m>
oip-binary    the same, tensors as bytes           the same
oip-grpc      GRPCInferenceService/ModelInfer      ModelMetadata, and ModelConfig where there is one
tfs-grpc      PredictionService/Predict            GetModelMetadata
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import httpx2

from millrace_client.credentials import Credentials
from millrace_client.encoding import Encoding, OpenInferenceBinary, OpenInferenceJson, TensorFlowServingJson, json_of
from millrace_client.endpoint import grpc_part
from millrace_client.errors import InvalidRequest, InvalidResponse, NotSupported, error_of
from millrace_client.exchange import Request, Response, Send
from millrace_client.httpwire import HttpWire
from millrace_client.inputs import Tensor
from millrace_client.load.payloads import PayloadOptions, payloads
from millrace_client.models import ModelMetadata, TensorSpec
from millrace_client.protocol import MALFORMED, InferenceRequest, InferenceResult, Operation
from millrace_client.rest import RestProtocol

ProtocolName = Literal["tfs-rest", "oip-json", "oip-binary", "oip-grpc", "tfs-grpc"]
PROTOCOLS: tuple[ProtocolName, ...] = get_args(ProtocolName)
_ENCODINGS: dict[str, type[Encoding]] = {
    "tfs-rest": TensorFlowServingJson,
    "oip-json": OpenInferenceJson,
    "oip-binary": OpenInferenceBinary,
}
_DATATYPES = {
    "DT_BOOL": "BOOL",
    "DT_UINT8": "UINT8",
    "DT_UINT16": "UINT16",
    "DT_UINT32": "UINT32",
    "DT_UINT64": "UINT64",
    "DT_INT8": "INT8",
    "DT_INT16": "INT16",
    "DT_INT32": "INT32",
    "DT_INT64": "INT64",
    "DT_HALF": "FP16",
    "DT_FLOAT": "FP32",
    "DT_DOUBLE": "FP64",
    "DT_STRING": "BYTES",
}
_SIGNATURE = "serving_default"
_TIMEOUT_S = 30.0
Ask = Callable[[Request], Response]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A request that is sent again and again, how its answer is read, and what the model says of its outputs."""

    model: str
    request: Request
    read: Callable[[Response], InferenceResult]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A model of a server. `url` is http(s):// for REST, and grpc(s):// for gRPC."""

    url: str
    protocol: ProtocolName
    model: str
    version: str | None = None

    @property
    def is_grpc(self) -> bool:
        """Whether gRPC carries the requests."""
        return self.protocol.endswith("grpc")

    def questions(self, options: PayloadOptions, ask: Ask) -> list[Question]:
        """The requests of a load test; `ask` sends one for the metadata. Raises `MillraceError`, `OSError`."""
        metadata = self._metadata(ask)
        return [self._question(tensors, metadata.outputs) for tensors in payloads(metadata, options)]

    def _metadata(self, ask: Ask) -> ModelMetadata:
        if self.protocol == "tfs-rest":
            version = "" if self.version is None else f"/versions/{self.version}"
            answer = ask(Request(method="GET", path=f"/v1/models/{self.model}{version}/metadata"))
            return _signature_metadata(self.model, json_of(answer.body))
        if self.protocol == "tfs-grpc":
            operation: Operation[ModelMetadata] = grpc_part("rpc").GrpcProtocol().signature(self.model, self.version)
        elif self.protocol == "oip-grpc":
            operation = grpc_part("rpc").GrpcProtocol().metadata(self.model, self.version)
        else:
            operation = RestProtocol(is_binary=False).metadata(self.model, self.version)
        first, *rest = operation.requests
        return operation.read([ask(first), *(_if_supported(ask, request) for request in rest)])

    def _question(self, tensors: list[Tensor], outputs: tuple[TensorSpec, ...]) -> Question:
        call = InferenceRequest(
            model=self.model,
            version=self.version,
            label=None,
            signature="" if self.protocol == "tfs-grpc" else None,
            tensors=tensors,
        )
        if self.is_grpc:
            operation = grpc_part("rpc").GrpcProtocol().predict(call, outputs)
            request, read = operation.requests[0], lambda response: operation.read([response])
        else:
            encoding = _ENCODINGS[self.protocol]()
            request, read = encoding.encode(call), lambda response: encoding.decode(response, outputs)
        return Question(model=self.model, request=request, read=read, outputs=outputs)


def target(host: str, protocol: ProtocolName, model: str) -> Target:
    """The target for a host that may be a URL of any scheme, or HOST:PORT; MODEL may be NAME/VERSION.

    Raises `InvalidRequest` for a URL that is none.
    """
    parsed = httpx2.URL(host if "://" in host else f"http://{host}")
    if parsed.scheme not in ("http", "https", "grpc", "grpcs") or not parsed.host:
        raise InvalidRequest(f"{host!r} is not the URL of a server: it has to begin with http://, https:// or grpc://")
    is_secure = parsed.scheme in ("https", "grpcs")
    scheme = ("grpc" if protocol.endswith("grpc") else "http") + "s" * is_secure
    name, _, version = model.partition("/")
    return Target(
        url=str(parsed.copy_with(scheme=scheme)).rstrip("/"),
        protocol=protocol,
        model=name,
        version=version or None,
    )


def credentials() -> Credentials:
    """The key and the certificates that the environment names, as for the client."""
    return Credentials.of(None, None, None)


def http_ask(url: str) -> Ask:
    """Sends a request over HTTP. Raises `MillraceError`."""

    def ask(request: Request) -> Response:
        wire = HttpWire(url, None, time.monotonic, credentials())
        try:
            response = wire.send(Send(request, _TIMEOUT_S, "millrace-load"))
        finally:
            wire.close()
        if error := error_of(response.status, response.headers, response.body, "millrace-load"):
            raise error
        return response

    return ask


def grpc_ask(url: str) -> Ask:
    """Sends a request over gRPC. Raises `MillraceError`, `ModuleNotFoundError`."""

    def ask(request: Request) -> Response:
        wire = grpc_part("grpcwire").GrpcWire(url, credentials())
        try:
            response: Response = wire.send(Send(request, _TIMEOUT_S, "millrace-load"))
        finally:
            wire.close()
        return response

    return ask


def _if_supported(ask: Ask, request: Request) -> Response:
    """An empty message where the server has no such method."""
    try:
        return ask(request)
    except NotSupported:
        return Response(status=200, headers={}, body=b"")


def _signature_metadata(model: str, document: Any) -> ModelMetadata:
    """The default signature, in TensorFlow Serving's JSON."""
    try:
        signature = document["metadata"]["signature_def"]["signature_def"][_SIGNATURE]
        inputs, outputs = (
            tuple(_spec(name, tensor) for name, tensor in signature[side].items()) for side in ("inputs", "outputs")
        )
    except MALFORMED as error:
        raise InvalidResponse(f"the metadata of {model!r} have no signature {_SIGNATURE!r}: {error!r}") from None
    return ModelMetadata(name=model, versions=(), platform="", inputs=inputs, outputs=outputs)


def _spec(name: str, tensor: Any) -> TensorSpec:
    dims = tensor["tensor_shape"].get("dim") or ()
    return TensorSpec(
        name=name, datatype=_DATATYPES[tensor["dtype"]], shape=tuple(int(dimension["size"]) for dimension in dims)
    )
