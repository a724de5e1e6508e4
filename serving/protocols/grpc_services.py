"""All that is served over gRPC: the methods of every protocol, who may call them, and what is said of the others."""

import asyncio
from collections.abc import Mapping
from typing import Final

from millrace.protocol.errors import MillraceError, PayloadTooLarge
from serving.protocols import grpc_calls as calls
from serving.protocols.grpc_health import Health
from serving.protocols.grpc_reflection import PACKAGES, Reflection
from serving.protocols.oip.grpc import OpenInference
from serving.protocols.tfs.grpc import TensorFlowServing
from serving.service import Service
from serving.transport.grpc_method import Answer, CallHead, Method, Status, StreamMethod, UnaryMethod

SMALL_MESSAGE_BYTES: Final = 16 * 1024
_MOST_WATCHES = 256
_REFLECTION = "ServerReflection"
_MOST_REFLECTIONS = 64
# The largest message of each method that takes more than names; 0 stands for the setting.
_MESSAGE_BYTES = {
    "/tensorflow.serving.PredictionService/Predict": 0,
    "/tensorflow.serving.PredictionService/Classify": 0,
    "/tensorflow.serving.PredictionService/Regress": 0,
    "/tensorflow.serving.PredictionService/MultiInference": 0,
    "/inference.GRPCInferenceService/ModelInfer": 0,
    "/tensorflow.serving.ModelService/HandleReloadConfigRequest": 256 * 1024,
}
# Why a method that clients know is not here, by a word in its name.
_REFUSALS = {
    "SharedMemory": "tensors in shared memory are not supported; send them with the request",
    "TraceSetting": "tracing is not supported",
    "LogSettings": "log settings cannot be changed while the server runs; see MILLRACE_LOG_LEVEL",
    "SessionRun": "only a model's signatures can be run; use Predict",
    "PredictStreamed": "a request has one response; use Predict",
}


class GrpcServices:
    """What is served over gRPC; see `serving.transport.grpc_method.Calls`.

    `largest_bytes` is the most that a message of inference may have. `stopping` ends open streams and watches.
    """

    def __init__(self, service: Service, stopping: asyncio.Event, largest_bytes: int) -> None:
        self._service = service
        inference, health = OpenInference(service, stopping), Health(service, stopping)
        unary = {
            **TensorFlowServing(service).handlers(),
            **inference.handlers(),
            "/grpc.health.v1.Health/Check": health.check,
        }
        most_streams = service.settings.max_connections
        methods: dict[str, Method] = {
            **{
                path: UnaryMethod(begin, _MESSAGE_BYTES.get(path, SMALL_MESSAGE_BYTES) or largest_bytes)
                for path, begin in unary.items()
            },
            "/inference.GRPCInferenceService/ModelStreamInfer": StreamMethod(
                inference.stream, largest_bytes, most_streams
            ),
            "/grpc.health.v1.Health/Watch": StreamMethod(health.watch, SMALL_MESSAGE_BYTES, _MOST_WATCHES),
        }
        names = {path.split("/")[1] for path in methods}
        services = sorted({*names, *(f"{package}.{_REFLECTION}" for package in PACKAGES)})
        self.methods: Mapping[str, Method] = methods | {
            f"/{package}.{_REFLECTION}/{_REFLECTION}Info": StreamMethod(
                Reflection(package, services).run, SMALL_MESSAGE_BYTES, _MOST_REFLECTIONS
            )
            for package in PACKAGES
        }

    def check(self, head: CallHead) -> MillraceError | None:
        """See `Calls.check`."""
        return calls.refusal(self._service, head)

    def refused(self, head: CallHead, error: MillraceError) -> Answer:
        """See `Calls.refused`."""
        self._service.metrics.request_ended("", 0, "grpc", error.status, 0.0)
        return calls.failure(self._service.refused(head.headers, error, "grpc"), error, _words)

    def unknown(self, path: str) -> Answer:
        """See `Calls.unknown`."""
        method = path[1:129]
        why = next((why for word, why in _REFUSALS.items() if word in method), "")
        text = f"{method} is not supported" + (f": {why}" if why else "")
        return Answer(status=Status.UNIMPLEMENTED, text=text)


def _words(error: MillraceError) -> tuple[Status, str]:
    """The error's status; gRPC's for a message that is too large is another than HTTP's."""
    is_too_large = isinstance(error, PayloadTooLarge)
    return Status.RESOURCE_EXHAUSTED if is_too_large else calls.status_of(error), str(error)
