"""The gRPC server: grpc.aio, on the event loop and the service that answer HTTP."""

import asyncio
from functools import partial
from typing import Any

import grpc
import grpc.aio

from millrace.protocol.errors import MillraceError, PayloadTooLarge
from serving.protocols import grpc_calls as calls
from serving.protocols.grpc_calls import Context
from serving.protocols.grpc_health import Health
from serving.protocols.oip.grpc import OpenInference
from serving.protocols.tfs.grpc import TensorFlowServing
from serving.service import Service
from serving.settings import ServingSettings
from serving.transport.certificates import Certificates
from serving.transport.descriptors import grpc_connections
from serving.transport.grpc_intake import WINDOW_BYTES, GrpcIntake
from serving.transport.grpc_method import Method

_MANY = 2**31 - 1
_MOST_WATCHES = 256
_HANDSHAKE_MS = 10_000
_PING_MS, _PING_ANSWER_MS = 60_000, 20_000
SMALL_MESSAGE_BYTES = 16 * 1024
# The largest message of each method that takes more than names; 0 stands for the setting.
MESSAGE_BYTES = {
    "/tensorflow.serving.PredictionService/Predict": 0,
    "/tensorflow.serving.PredictionService/Classify": 0,
    "/tensorflow.serving.PredictionService/Regress": 0,
    "/tensorflow.serving.PredictionService/MultiInference": 0,
    "/inference.GRPCInferenceService/ModelInfer": 0,
    "/inference.GRPCInferenceService/ModelStreamInfer": 0,
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


class GrpcServer:
    """Listens on one address. `start` first, `stop` last; both on the event loop of the service.

    With `certificates` it speaks TLS.
    """

    def __init__(self, service: Service, certificates: Certificates | None = None) -> None:
        self._service = service
        self._certificates = certificates
        self._settings = settings = service.settings
        self._largest_bytes = min(settings.max_grpc_message_bytes, service.budget.largest // 2)  # each is counted twice
        self._stopping = asyncio.Event()
        self.intake = GrpcIntake(
            service.budget,
            self._refuse,
            most_bytes=self._largest_bytes,
            most_open=settings.max_connections,
            timeout_s=settings.request_timeout_ms / 1000,
        )
        handlers = {
            **TensorFlowServing(service).handlers(),
            **OpenInference(service, self._stopping).handlers(),
            **Health(service, self._stopping).handlers(),
        }
        self._server = grpc.aio.server(handlers=(_Refusals(),), options=_options(settings, self._largest_bytes))
        self.paths = frozenset(handlers)
        for path, handler in handlers.items():  # known to gRPC itself, which costs less than being asked for each call
            _, name, method = path.split("/")
            registered = self.intake.registered(self._method(path, handler))
            self._server.add_registered_method_handlers(name, {method: registered})

    async def start(self) -> None:
        """Listen. Raises `OSError` where the address cannot be had."""
        host, port = self._settings.host, self._settings.grpc_port
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            if self._certificates:
                self._server.add_secure_port(address, _credentials(self._certificates))
            else:
                self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(f"gRPC cannot listen on {address}: {error}") from None
        await self._server.start()
        self.intake.start()

    async def stop(self) -> None:
        """Take no more calls, and answer those that came; what is open after `drain_timeout_s` is cut off."""
        self._stopping.set()
        await self._server.stop(self._settings.drain_timeout_s)
        self.intake.stop()

    def _method(self, path: str, handler: grpc.RpcMethodHandler) -> Method:
        """The bounds of a method."""
        most_bytes = MESSAGE_BYTES.get(path, SMALL_MESSAGE_BYTES)
        most_open = _MOST_WATCHES if handler.unary_stream else self._settings.max_connections
        is_checked = path in calls.CONTROL_ACTIONS or self._service.gate
        check = partial(calls.refusal, self._service, path) if is_checked else None
        return Method(handler, most_bytes or self._largest_bytes, most_open, check)

    async def _refuse(self, context: Context, error: MillraceError) -> None:
        """End a call with an error, and count it."""
        self._service.metrics.request_ended("", 0, "grpc", error.status, 0.0)
        answer = self._service.refused(calls.headers_of(context), error, "grpc")
        await calls.abort(context, answer, error, _words)


def _words(error: MillraceError) -> tuple[grpc.StatusCode, str]:
    """The error's status; gRPC's for a message that is too large is another than HTTP's."""
    is_too_large = isinstance(error, PayloadTooLarge)
    return grpc.StatusCode.RESOURCE_EXHAUSTED if is_too_large else calls.status_of(error), str(error)


def _credentials(certificates: Certificates) -> grpc.ServerCredentials:
    """What gRPC shows to clients. It asks for the newest with each handshake."""
    shown = certificates.loaded

    def configuration() -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration(((shown.key, shown.certificate),), shown.client_authority)

    def newest() -> grpc.ServerCertificateConfiguration | None:
        nonlocal shown
        if certificates.loaded is shown:
            return None
        shown = certificates.loaded
        return configuration()

    return grpc.dynamic_ssl_server_credentials(configuration(), newest, certificates.client_auth == "required")


def _options(settings: ServingSettings, largest_bytes: int) -> tuple[tuple[str, int], ...]:
    """What gRPC is told of its limits."""
    return (
        ("grpc.max_receive_message_length", largest_bytes),
        ("grpc.max_send_message_length", -1),
        # A port that is taken is an error, and no way to take calls from its owner; unless that is our own group.
        ("grpc.so_reuseport", int(settings.process_count > 1)),
        # Packed messages are unpacked by the intake, within their limit.
        ("grpc.per_message_decompression", 0),
        # What may come of a stream before its message is asked for. gRPC would raise it where that looks quicker.
        ("grpc.http2.lookahead_bytes", WINDOW_BYTES),
        ("grpc.http2.bdp_probe", 0),
        # Calls that gRPC has and we have not asked for yet: it would drop some of more than 1,000, without a word.
        ("grpc.server.max_pending_requests", _MANY),
        ("grpc.server.max_pending_requests_hard_limit", _MANY),
        ("grpc.server_max_unrequested_time_in_server", _MANY // 1000),
        # More than the intake lets in, so that it is the intake that refuses, in words. A client that knows the limit
        # waits by itself; in its first moment it does not.
        ("grpc.max_concurrent_streams", 2 * settings.max_connections),
        ("grpc.max_allowed_incoming_connections", grpc_connections(settings.max_grpc_connections)),
        ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
        ("grpc.max_connection_idle_ms", int(settings.keep_alive_timeout_s * 1000)),
        ("grpc.keepalive_time_ms", _PING_MS),
        ("grpc.keepalive_timeout_ms", _PING_ANSWER_MS),
    )


class _Refusals(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpcio has no types
    """Answers what is not offered."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        """What refuses the method by name, whatever it takes and gives."""
        method = handler_call_details.method[1:129]
        why = next((why for word, why in _REFUSALS.items() if word in method), "")
        text = f"{method} is not supported" + (f": {why}" if why else "")

        async def refuse(requests: Any, context: Context) -> None:  # noqa: ARG001 - they are not read
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, text)

        return grpc.stream_stream_rpc_method_handler(refuse)
