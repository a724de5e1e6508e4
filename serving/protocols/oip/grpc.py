"""The Open Inference Protocol over gRPC, with Triton's extensions: its messages in, its answers and error texts out."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from functools import partial
from operator import attrgetter, itemgetter
from typing import Any

from google.protobuf import json_format

from millrace import rpc
from millrace.protocol.errors import InvalidRequest, MillraceError, ModelNotFound, NotSupported
from millrace.rpc import wire
from serving.access.callers import Caller
from serving.access.gate import visible
from serving.models.registry import AVAILABLE
from serving.protocols import grpc_calls as calls
from serving.protocols.oip import messages as infer
from serving.protocols.oip import rest as oip
from serving.protocols.oip.config import config_message
from serving.protocols.verb import Body
from serving.service import Service
from serving.transport.grpc_method import Answer, CallerLeft, CallHead, Message, Status, Write
from serving.transport.responses import shortened

_SERVICE = "inference.GRPCInferenceService"
_OPEN_IN_A_STREAM = 256
_OPEN = ("ServerLive", "ServerReady", "ModelReady")


def _message(name: str) -> Any:
    return rpc.message(f"inference.{name}")


_InferResponse = _message("ModelInferResponse")
_StreamResponse = _message("ModelStreamInferResponse")
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

    def handlers(self) -> Mapping[str, calls.Begin]:
        """What answers each path."""
        methods: dict[str, Callable[[Any], Awaitable[Any]]] = {
            "ServerLive": self._live,
            "ServerReady": self._ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server,
            "ModelMetadata": self._model,
            "ModelConfig": self._config,
            "ModelStatistics": self._statistics,
            "RepositoryIndex": self._index,
            "SystemSharedMemoryStatus": partial(self._no_regions, "System"),
            "CudaSharedMemoryStatus": partial(self._no_regions, "Cuda"),
        }
        changes = {"RepositoryModelLoad": self._load, "RepositoryModelUnload": self._unload}
        plain = {
            f"/{_SERVICE}/{name}": calls.plain(
                self._service, _message(f"{name}Request"), method, words, _model_of(name), is_open=name in _OPEN
            )
            for name, method in methods.items()
        }
        control = {
            f"/{_SERVICE}/{name}": calls.control(
                self._service, _message(f"{name}Request"), method, words, attrgetter("model_name")
            )
            for name, method in changes.items()
        }
        return {
            **plain,
            **control,
            f"/{_SERVICE}/ModelInfer": calls.hot(self._service, question, words),
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
        return _message("ModelConfigResponse")(config=config_message(model))

    async def _statistics(self, message: Any) -> Any:
        version, counts = version_of(message.version), await self._service.siblings.total()
        document = self._service.statistics.render(counts, message.name or None, version)
        document["model_stats"] = visible(document["model_stats"], itemgetter("name"))
        return json_format.ParseDict(document, _message("ModelStatisticsResponse")())

    async def _index(self, message: Any) -> Any:
        _refuse_repository(message)
        entries = visible(self._service.repository.index(ready=message.ready), attrgetter("name"))
        models = [{"name": e.name, "version": e.version, "state": e.state, "reason": e.reason} for e in entries]
        return _message("RepositoryIndexResponse")(models=models)

    async def _no_regions(self, kind: str, message: Any) -> Any:
        """As Triton answers where no region is registered, and here none ever is."""
        oip.check_no_region(kind.lower(), message.name)
        return _message(f"{kind}SharedMemoryStatusResponse")()

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

    async def stream(self, requests: AsyncIterator[Message], head: CallHead, write: Write) -> Answer:
        """Answer each request when its answer is there, an error in the stream; the client tells them by their ids."""
        room = asyncio.Semaphore(_OPEN_IN_A_STREAM)
        writing = asyncio.Lock()

        async def answer(message: Message) -> None:
            try:
                body = await self._answer_in_stream(message, head)
                async with writing:
                    await write(body)
            except CallerLeft:
                pass  # of which whatever carries the call is about to tell
            finally:
                message.close()
                room.release()

        refused: MillraceError | None = None
        async with asyncio.TaskGroup() as answering, aclosing(self._until_stopping(requests)) as coming:
            try:
                async for message in coming:
                    await room.acquire()
                    answering.create_task(answer(message))
            except MillraceError as error:  # a message that was not taken; those before it are answered
                refused = error.with_traceback(None)
        if refused:
            raise refused
        if self._stopping.is_set():
            return Answer(status=Status.UNAVAILABLE, text="the server is shutting down")
        return Answer()

    async def _until_stopping(self, requests: AsyncIterator[Message]) -> AsyncGenerator[Message, None]:
        stopping = asyncio.ensure_future(self._stopping.wait())
        coming = asyncio.ensure_future(anext(requests, None))
        try:
            while True:
                await asyncio.wait((coming, stopping), return_when=asyncio.FIRST_COMPLETED)
                if not coming.done() or (message := coming.result()) is None:
                    return
                yield message
                coming = asyncio.ensure_future(anext(requests, None))
        finally:
            stopping.cancel()
            coming.cancel()

    async def _answer_in_stream(self, message: Message, head: CallHead) -> bytes:
        identity, error = "", None
        try:
            request = calls.contents(message.body)
            asked = question(request)
            identity = infer.identity_of(asked.body, request)
        except MillraceError as raised:
            error = raised.with_traceback(None)
            self._service.refused(head.headers, error, "grpc")
        else:
            result = await calls.ask(self._service, asked, head, message)
            error = result.call.error
        if error:
            _, text = words(error)
            refusal = _StreamResponse(error_message=shortened(text), infer_response={"id": identity})
            written: bytes = refusal.SerializeToString()
            return written
        return b"".join(wire.field(_IN_STREAM, await result.read(), _FINAL))


def question(request: bytes | memoryview) -> calls.Asked:
    """What a ModelInferRequest asks for. Raises `InvalidRequest`, `PayloadTooLarge`."""
    model, version, whole = infer.read_request(request)
    return calls.Asked(infer.INFER, model, version_of(version), None, Body(request, message=whole))


def version_of(text: str) -> int | None:
    """The version that a message names, None for "". Raises `InvalidRequest`."""
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 19:
        raise InvalidRequest(oip.version_text(text))
    return int(text)


def _model_of(method: str) -> calls.ModelOf | None:
    """What finds the model in a method's messages; whether a model is ready everybody may ask."""
    return attrgetter("name") if method in ("ModelMetadata", "ModelConfig", "ModelStatistics") else None


def _refuse_repository(message: Any) -> None:
    if message.repository_name:
        raise NotSupported("'repository_name' specification is not supported; there is one repository")


def words(error: MillraceError) -> tuple[Status, str]:
    """The error in Triton's words."""
    return calls.status_of(error), oip.error_text(error)
