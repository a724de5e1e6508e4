"""TensorFlow Serving's gRPC services: its messages in, its messages and its error texts out.

Follows the code of TensorFlow Serving 2.19 (`servables/tensorflow/*.cc`, `model_servers/*_service_impl.cc`).
"""

import asyncio
import itertools
from collections.abc import Mapping
from functools import partial
from operator import attrgetter
from typing import Any

from google.protobuf import json_format

from millrace.artifacts.configs import version_policy
from millrace.protocol.desired_state import ModelSettings
from millrace.protocol.errors import InvalidRequest, MillraceError, NotAllowed, NotSupported, SignatureNotFound
from millrace.protocol.tensors import DEFAULT_SIGNATURE
from millrace.rpc import wire
from serving.access.callers import Caller
from serving.access.gate import current
from serving.models.model_control import MOST_MODELS
from serving.models.registry import ServedModel
from serving.protocols import grpc_calls as calls
from serving.protocols.tfs import messages as tfs_messages
from serving.protocols.tfs import rest as tfs
from serving.protocols.tfs.messages import message_class
from serving.protocols.verb import Body, Verb
from serving.service import Service
from serving.transport.grpc_method import Answer, CallHead, Message, Status
from serving.transport.spooled_body import SpooledBody

_PREDICTION = "tensorflow.serving.PredictionService"
_MODEL = "tensorflow.serving.ModelService"


_RESULTS = wire.number_of(message_class("MultiInferenceResponse"), "results")
_MOST_TASKS = 16


class TensorFlowServing:
    """The methods of both services."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def handlers(self) -> Mapping[str, calls.Begin]:
        """What answers each path."""
        as_content = self._service.settings.grpc_tensor_content
        predict = tfs_messages.PREDICT_AS_CONTENT if as_content else tfs_messages.PREDICT
        return {
            f"/{_PREDICTION}/Predict": self._hot(predict, tfs_messages.PredictRequest),
            f"/{_PREDICTION}/Classify": self._hot(tfs_messages.CLASSIFY, tfs_messages.ClassificationRequest),
            f"/{_PREDICTION}/Regress": self._hot(tfs_messages.REGRESS, tfs_messages.RegressionRequest),
            f"/{_PREDICTION}/MultiInference": calls.awaited(self._service, self._multi, words),
            f"/{_PREDICTION}/GetModelMetadata": self._plain("GetModelMetadataRequest", self._metadata, words),
            f"/{_MODEL}/GetModelStatus": self._plain("GetModelStatusRequest", self._status, status_words),
            f"/{_MODEL}/HandleReloadConfigRequest": calls.control(
                self._service, message_class("ReloadConfigRequest"), self._reload, status_words, _no_model
            ),
        }

    def _hot(self, verb: Verb, message: Any) -> calls.Begin:
        return calls.hot(self._service, partial(self._asked, verb, message), words)

    def _plain(self, name: str, method: Any, words: calls.Words) -> calls.Begin:
        return calls.plain(self._service, message_class(name), method, words, attrgetter("model_spec.name"))

    # What goes through the queue

    def _read(self, message: Any, request: bytes | memoryview) -> tuple[Any, Any]:
        quick = self._service.quick
        return tfs_messages.read_request(message, request, quick.max_rows, quick.max_quick)

    def _asked(self, verb: Verb, message: Any, request: bytes | memoryview) -> calls.Asked:
        """What a message with a `model_spec` asks for. Raises `InvalidRequest`, `PayloadTooLarge`."""
        head, whole = self._read(message, request)
        _check_spec(head)
        return calls.Asked(verb, *_choice(head.model_spec), Body(request, message=whole))

    async def _multi(self, message: Message, head: CallHead) -> Answer:
        """Several classifications and regressions of the same examples by one model, at the same time."""
        request = calls.contents(message.body)
        light, whole = self._read(tfs_messages.MultiInferenceRequest, request)
        _check_tasks(light)
        asked = [
            calls.Asked(tfs_messages.TASK, *_choice(task.model_spec), Body(request, task=i, message=whole))
            for i, task in enumerate(light.tasks)
        ]
        results = await asyncio.gather(*(calls.ask(self._service, each, head, _shared(message)) for each in asked))
        for call, *_ in results:
            if call.error:
                return calls.failure(self._service.rest.refusal(call), call.error, words)
        bodies = [await result.read() for result in results]
        body = b"".join(itertools.chain.from_iterable(wire.field(_RESULTS, body) for body in bodies))
        return Answer(body, trailers=(("x-request-id", results[-1].call.request_id),))

    # What needs no queue

    async def _metadata(self, message: Any) -> Any:
        _check_spec(message)
        if not message.metadata_field:
            raise InvalidRequest("GetModelMetadataRequest must specify at least one metadata_field")
        for name in message.metadata_field:
            if name != "signature_def":
                raise InvalidRequest(f"Metadata field {name} is not supported")
        model = self._service.models.find(*_choice(message.model_spec))
        definitions = tfs.render_metadata(model)["metadata"]["signature_def"]
        answer = message_class("GetModelMetadataResponse")()
        _name_model(answer.model_spec, model, "")
        answer.metadata["signature_def"].Pack(json_format.ParseDict(definitions, message_class("SignatureDefMap")()))
        return answer

    async def _status(self, message: Any) -> Any:
        _check_spec(message)
        name, version, label = _choice(message.model_spec)
        versions = self._service.models.versions(name, version, label)
        answer = message_class("GetModelStatusResponse")()
        return json_format.ParseDict(tfs.render_status(versions), answer, ignore_unknown_fields=True)

    async def _reload(self, message: Any, caller: Caller) -> Any:
        if message.config.WhichOneof("config") != "model_config_list":
            raise NotSupported("only a model_config_list can be loaded")
        key = current.get()
        if key and key.stored.models is not None:
            raise NotAllowed(f"the key {key.name!r} is good for some models, and a reload changes them all")
        configs = message.config.model_config_list.config
        if len(configs) > MOST_MODELS:  # before anything is made of them
            raise InvalidRequest(f"at most {MOST_MODELS} models can be configured at run time")
        await self._service.repository.reload([_settings(config) for config in configs], caller=caller)
        return message_class("ReloadConfigResponse")(status={"error_code": "OK"})


def _shared(message: Message) -> Message:
    """The message once more, for one of several that read it: each closes its own."""
    return Message(message.body.again() if isinstance(message.body, SpooledBody) else message.body)


def _no_model(_message: Any) -> str:
    return ""


def _settings(config: Any) -> ModelSettings:
    return ModelSettings(
        name=config.name,
        base_path=config.base_path,
        policy=version_policy(config.model_version_policy),
        labels=dict(config.version_labels),
    )


def _check_spec(message: Any) -> None:
    if not message.HasField("model_spec"):
        raise InvalidRequest("Missing ModelSpec")


def _choice(spec: Any) -> tuple[str, int | None, str | None]:
    """The model's name, and the version or the label that is asked for."""
    choice = spec.WhichOneof("version_choice")
    return (
        spec.name,
        spec.version.value if choice == "version" else None,
        spec.version_label if choice == "version_label" else None,
    )


def _name_model(spec: Any, model: ServedModel, signature: str) -> None:
    """Say in an answer's ModelSpec what answered."""
    spec.name, spec.signature_name, spec.version.value = model.name, signature, model.version


def _check_tasks(message: Any) -> None:
    """Raises `InvalidRequest` or `NotSupported` for tasks of a MultiInferenceRequest that cannot go together."""
    if not 0 < len(message.tasks) <= _MOST_TASKS:
        raise InvalidRequest(f"a request has from 1 to {_MOST_TASKS} tasks, got {len(message.tasks)}")
    asked = [(task.model_spec.signature_name or DEFAULT_SIGNATURE, task.method_name) for task in message.tasks]
    for i, task in enumerate(message.tasks):
        if not task.model_spec.name:
            raise InvalidRequest("Found ModelSpec with an empty model name.")
        if task.model_spec.name != message.tasks[0].model_spec.name:
            raise InvalidRequest("All ModelSpecs in a MultiInferenceRequest must access the same model name.")
        if asked[i] in asked[:i]:
            raise InvalidRequest(f"Duplicate evaluation of signature: {asked[i][0]}")
        if task.method_name not in (tfs_messages.CLASSIFY_METHOD, tfs_messages.REGRESS_METHOD):
            raise NotSupported(f"Unsupported signature method_name: {task.method_name}")
        _check_spec(task)


def status_words(error: MillraceError) -> tuple[Status, str]:
    """The error in the words of TensorFlow Serving's ModelService."""
    return calls.status_of(error), tfs.status_error_text(error)


def words(error: MillraceError) -> tuple[Status, str]:
    """The error in TensorFlow Serving's words."""
    if isinstance(error, SignatureNotFound):
        return Status.FAILED_PRECONDITION, f'Serving signature key "{error.signature}" not found.'
    return calls.status_of(error), tfs.predict_error_text(error)
