"""The gRPC server: grpc.aio, on the event loop and the service that answer HTTP."""

import asyncio
import logging
from typing import Any

import grpc
import grpc.aio

from serving.protocols.grpc_calls import Context
from serving.protocols.grpc_health import Health
from serving.protocols.oip.grpc import OpenInference
from serving.protocols.tfs.grpc import TensorFlowServing
from serving.service import Service

_log = logging.getLogger(__name__)
# Why a method that clients know is not here, by a word in its name.
_REFUSALS = {
    "SharedMemory": "tensors in shared memory are not supported; send them with the request",
    "TraceSetting": "tracing is not supported",
    "LogSettings": "log settings cannot be changed while the server runs; see MILLRACE_LOG_LEVEL",
    "SessionRun": "only a model's signatures can be run; use Predict",
    "PredictStreamed": "a request has one response; use Predict",
}


class GrpcServer:
    """Listens on one address. `start` first, `stop` last; both on the event loop of the service."""

    def __init__(self, service: Service) -> None:
        self._settings = service.settings
        self._stopping = asyncio.Event()
        handlers = {
            **TensorFlowServing(service).handlers(),
            **OpenInference(service, self._stopping).handlers(),
            **Health(service, self._stopping).handlers(),
        }
        self._server = grpc.aio.server(
            handlers=(_Refusals(),),
            options=(
                ("grpc.max_receive_message_length", self._settings.max_body_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),  # a port that is taken is an error, and no way to take calls from its owner
            ),
            maximum_concurrent_rpcs=self._settings.max_connections,
        )
        for path, handler in handlers.items():  # known to gRPC itself, which costs less than being asked for each call
            _, name, method = path.split("/")
            self._server.add_registered_method_handlers(name, {method: handler})

    async def start(self) -> None:
        """Listen. Raises `OSError` where the address cannot be had."""
        host, port = self._settings.host, self._settings.grpc_port
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(f"gRPC cannot listen on {address}: {error}") from None
        await self._server.start()

    async def stop(self) -> None:
        """Take no more calls, and answer those that came; what is open after `drain_timeout_s` is cut off."""
        self._stopping.set()
        await self._server.stop(self._settings.drain_timeout_s)


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
