"""The Open Inference Protocol over gRPC, with Triton's extensions: its messages in, its answers and error texts out."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, suppress
from functools import lru_cache, partial
from typing import Any, NamedTuple

import grpc
import grpc.aio
from google.protobuf import json_format
from msgspec.structs import replace

from millrace import rpc
from millrace.protocol.errors import InvalidRequest, MillraceError, ModelNotFound, NotSupported
from millrace.protocol.tensors import BYTES, DTYPES, Tensor, TensorSpec, encode_strings
from millrace.rpc import wire
from serving.access.callers import Caller
from serving.models.registry import AVAILABLE, ServedModel
from serving.protocols import grpc_calls as calls
from serving.protocols import json_tensors
from serving.protocols.grpc_calls import Context
from serving.protocols.oip import rest as oip
from serving.protocols.oip.rest import Wanted
from serving.queueing.admission import Inference
from serving.queueing.requests import InferenceResponse
from serving.service import Render, Service, Target, Verb
from serving.transport.responses import Content, shortened

_SERVICE = "inference.GRPCInferenceService"
_PROTOCOL = "oip-grpc"
_OPEN_IN_A_STREAM = 256
_CONTENTS = {
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    **{"INT64": "int64_contents", "UINT64": "uint64_contents", "BOOL": "bool_contents"},
    **{"FP32": "fp32_contents", "FP64": "fp64_contents", BYTES: "bytes_contents"},
}


def _message(name: str) -> Any:
    return rpc.message(f"inference.{name}")


_InferRequest = _message("ModelInferRequest")
_InferResponse = _message("ModelInferResponse")
_StreamResponse = _message("ModelStreamInferResponse")
_ID = wire.number_of(_InferResponse, "id")
_RAW = wire.number_of(_InferResponse, "raw_output_contents")
_IN_STREAM = wire.number_of(_StreamResponse, "infer_response")


def _final() -> bytes:
    answer = _InferResponse()
    answer.parameters["triton_final_response"].bool_param = True
    written: bytes = answer.SerializeToString()
    return written


_FINAL = _final()  # on every answer in a stream: a request has one


class OpenInference:
    """The methods of the service. `stopping` ends open streams, once what was asked in them is answered."""

    def __init__(self, service: Service, stopping: asyncio.Event) -> None:
        self._service = service
        self._stopping = stopping

    def handlers(self) -> Mapping[str, grpc.RpcMethodHandler]:
        """What answers each path."""
        methods = {
            "ServerLive": self._live,
            "ServerReady": self._ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server,
            "ModelMetadata": self._model,
            "ModelConfig": self._config,
            "ModelStatistics": self._statistics,
            "RepositoryIndex": self._index,
        }
        changes = {"RepositoryModelLoad": self._load, "RepositoryModelUnload": self._unload}
        plain = {
            f"/{_SERVICE}/{name}": calls.plain(self._service, _message(f"{name}Request"), method, words)
            for name, method in methods.items()
        }
        control = {
            f"/{_SERVICE}/{name}": calls.control(self._service, _message(f"{name}Request"), method, words)
            for name, method in changes.items()
        }
        return {
            **plain,
            **control,
            f"/{_SERVICE}/ModelInfer": calls.hot(self._service, _InferRequest, question, words),
            f"/{_SERVICE}/ModelStreamInfer": grpc.stream_stream_rpc_method_handler(self._stream),
        }

    # What needs no queue

    async def _live(self, message: Any) -> Any:  # noqa: ARG002 - an empty message
        return _message("ServerLiveResponse")(live=True)

    async def _ready(self, message: Any) -> Any:  # noqa: ARG002 - an empty message
        return _message("ServerReadyResponse")(ready=self._service.is_ready)

    async def _model_ready(self, message: Any) -> Any:
        try:
            versions = self._service.models.versions(message.name, version_of(message.version))
        except ModelNotFound:
            versions = []
        states = [version.state for version in versions]
        return _message("ModelReadyResponse")(ready=self._service.producer.is_connected and AVAILABLE in states)

    async def _server(self, message: Any) -> Any:  # noqa: ARG002 - an empty message
        return json_format.ParseDict(oip.render_server(), _message("ServerMetadataResponse")())

    async def _model(self, message: Any) -> Any:
        model = self._service.models.find(message.name, version_of(message.version))
        document = oip.render_model(model, self._service.models.versions(message.name))
        document.pop("parameters")  # for which gRPC has no field
        return json_format.ParseDict(document, _message("ModelMetadataResponse")())

    async def _config(self, message: Any) -> Any:
        model = self._service.models.find(message.name, version_of(message.version))
        return json_format.ParseDict({"config": oip.render_config(model)}, _message("ModelConfigResponse")())

    async def _statistics(self, message: Any) -> Any:
        document = self._service.statistics.render(message.name or None, version_of(message.version))
        return json_format.ParseDict(document, _message("ModelStatisticsResponse")())

    async def _index(self, message: Any) -> Any:
        _refuse_repository(message)
        entries = self._service.repository.index(ready=message.ready)
        return _message("RepositoryIndexResponse")(models=[entry._asdict() for entry in entries])

    async def _load(self, message: Any, caller: Caller) -> Any:
        _refuse_repository(message)
        if message.parameters:
            raise NotSupported("a model's configuration and files cannot be sent; put them into the model repository")
        await self._service.repository.load(message.model_name, caller=caller)
        return _message("RepositoryModelLoadResponse")()

    async def _unload(self, message: Any, caller: Caller) -> Any:
        _refuse_repository(message)
        await self._service.repository.unload(message.model_name, caller=caller)
        return _message("RepositoryModelUnloadResponse")()

    # The stream

    async def _stream(self, requests: AsyncIterator[bytes], context: Context) -> None:
        """Answer each request when its answer is there, an error in the stream; the client tells them by their ids."""
        room = asyncio.Semaphore(_OPEN_IN_A_STREAM)
        writing = asyncio.Lock()

        async def answer(request: bytes) -> None:
            try:
                body = await self._answer_in_stream(request, context)
                async with writing:
                    with suppress(grpc.aio.InternalError):  # the caller went away, of which gRPC is about to tell
                        await context.write(body)
            finally:
                room.release()

        async with asyncio.TaskGroup() as answering, aclosing(self._until_stopping(requests)) as coming:
            async for request in coming:
                await room.acquire()
                answering.create_task(answer(request))
        if self._stopping.is_set():
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the server is shutting down")

    async def _until_stopping(self, requests: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        stopping = asyncio.ensure_future(self._stopping.wait())
        coming = asyncio.ensure_future(anext(requests, None))
        try:
            while True:
                await asyncio.wait((coming, stopping), return_when=asyncio.FIRST_COMPLETED)
                if not coming.done() or (request := coming.result()) is None:
                    return
                yield request
                coming = asyncio.ensure_future(anext(requests, None))
        finally:
            stopping.cancel()
            coming.cancel()

    async def _answer_in_stream(self, request: bytes, context: Context) -> bytes:
        headers, identity = calls.headers_of(context), ""
        try:
            message = await calls.read(_InferRequest, request)
            identity = message.id
            target = question(message, calls.milliseconds_left(context))
        except MillraceError as error:
            answer = self._service.refused(headers, error, "grpc")
        else:
            answer = await calls.ask(self._service, target, headers, request)
        if answer.error:
            _, text = words(answer.error)
            refusal = _StreamResponse(error_message=shortened(text), infer_response={"id": identity})
            written: bytes = refusal.SerializeToString()
            return written
        return b"".join(wire.field(_IN_STREAM, answer.body, _FINAL))


def question(message: Any, timeout_ms: float | None) -> Target:
    """What a ModelInferRequest asks for."""

    def parse(_headers: object, _body: bytes, model: ServedModel) -> tuple[Inference, Render]:
        inference, render = parse_infer(message, model)
        if timeout_ms is not None:
            inference = replace(inference, timeout_ms=min(timeout_ms, inference.timeout_ms or timeout_ms))
        return inference, render

    verb = Verb(_PROTOCOL, parse, oip.error_text, "high")
    return Target(verb, message.model_name, version_of(message.model_version), None)


def version_of(text: str) -> int | None:
    """The version that a message names, None for "". Raises `InvalidRequest`."""
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 19:
        raise InvalidRequest(
            f"failed to get model version from specified version string '{text}': "
            "version should be an integral value > 0"
        )
    return int(text)


def _refuse_repository(message: Any) -> None:
    if message.repository_name:
        raise NotSupported("'repository_name' specification is not supported; there is one repository")


# Infer


def parse_infer(message: Any, model: ServedModel) -> tuple[Inference, Render]:
    """What a ModelInferRequest asks for, and how its answer is written. Raises `InvalidRequest`, `NotSupported`."""
    document = {
        "id": message.id,
        "parameters": _parameters(message),
        "outputs": [{"name": output.name, "parameters": _parameters(output)} for output in message.outputs],
    }
    inference, wanted = oip.read_infer(document, _inputs(message, model), model)
    return inference, partial(_render_infer, model, wanted)


def _parameters(message: Any) -> dict[str, Any]:
    if not message.parameters:
        return {}
    return {
        name: getattr(value, value.WhichOneof("parameter_choice") or "bool_param")
        for name, value in message.parameters.items()
    }


def _inputs(message: Any, model: ServedModel) -> list[tuple[str, Tensor]]:
    described = [_described(item) for item in message.inputs]
    raw = message.raw_input_contents
    if not raw:
        return [(d.name, _typed_tensor(d, item)) for d, item in zip(described, message.inputs, strict=True)]
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
        (d.name, oip.binary_tensor(d.name, d.datatype, d.shape, data)) for d, data in zip(described, raw, strict=True)
    ]


class _Described(NamedTuple):
    """An input without its values; `elements` is how many there must be."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    elements: int


def _described(item: Any) -> _Described:
    name, datatype, shape = item.name, item.datatype, list(item.shape)
    if datatype not in DTYPES:
        raise InvalidRequest(f"invalid datatype for input '{name}': {json_tensors.quote(datatype)}")
    if "shared_memory_region" in item.parameters:
        raise NotSupported("tensors in shared memory are not supported; send them with the request")
    return _Described(name, datatype, tuple(shape), json_tensors.element_count(name, shape))


def _typed_tensor(described: _Described, item: Any) -> Tensor:
    """The tensor in an input's `contents`."""
    name, datatype, shape, count = described
    if datatype not in _CONTENTS:
        raise InvalidRequest(f"{datatype} data can only be sent as raw_input_contents, input '{name}'")
    values = getattr(item.contents, _CONTENTS[datatype])
    if len(values) != count:
        raise InvalidRequest(f"unexpected number of contents for input '{name}': got {len(values)}, expecting {count}")
    if datatype == BYTES:
        return Tensor(BYTES, shape, encode_strings(values))
    flat = json_tensors.to_tensor(list(values), TensorSpec(name=name, datatype=datatype, shape=(-1,)))
    return Tensor(datatype, shape, flat.data)


def _render_infer(model: ServedModel, wanted: Wanted, response: InferenceResponse) -> Content:
    shown = oip.wanted_tensors(model, response.outputs, wanted)
    described = tuple([(name, tensor.datatype, tensor.shape) for name, tensor, _ in shown])
    parts: list[bytes | memoryview] = [_described_on_wire(model.name, model.version, described)]
    if wanted.identity:
        parts += wire.field(_ID, wanted.identity.encode())
    for _, tensor, _ in shown:
        parts += wire.field(_RAW, tensor.data)
    return Content(b"".join(parts), ())


@lru_cache(maxsize=1024)
def _described_on_wire(model: str, version: int, outputs: Sequence[tuple[str, str, tuple[int, ...]]]) -> bytes:
    """The part of a ModelInferResponse that says what answered, and what its outputs are."""
    answer = _InferResponse(model_name=model, model_version=str(version))
    for name, datatype, shape in outputs:
        answer.outputs.add(name=name, datatype=datatype, shape=shape)
    written: bytes = answer.SerializeToString()
    return written


def words(error: MillraceError) -> tuple[grpc.StatusCode, str]:
    """The error in Triton's words."""
    return calls.status_of(error), oip.error_text(error)
