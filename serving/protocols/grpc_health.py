"""gRPC's health checking protocol: a service here is healthy when the API is ready."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc

from millrace import rpc
from millrace.protocol.errors import InvalidRequest
from serving.protocols import grpc_calls as calls
from serving.protocols.grpc_calls import Context
from serving.service import Service

_LOOK_S = 0.5
_PATH = "/grpc.health.v1.Health"
_Request = rpc.message("grpc.health.v1.HealthCheckRequest")
_Response = rpc.message("grpc.health.v1.HealthCheckResponse")
_SERVICES = (
    "",  # the whole server
    "grpc.health.v1.Health",
    "inference.GRPCInferenceService",
    "tensorflow.serving.ModelService",
    "tensorflow.serving.PredictionService",
)


class Health:
    """The methods of the service. With `stopping`, what is watched is said to be down, and the watches end."""

    def __init__(self, service: Service, stopping: asyncio.Event) -> None:
        self._service = service
        self._stopping = stopping

    def handlers(self) -> Mapping[str, grpc.RpcMethodHandler]:
        """What answers each path."""
        written = {"response_serializer": _Response.SerializeToString}
        return {
            f"{_PATH}/Check": grpc.unary_unary_rpc_method_handler(self._check, **written),
            f"{_PATH}/Watch": grpc.unary_stream_rpc_method_handler(self._watch, **written),
        }

    async def _check(self, request: bytes, context: Context) -> Any:
        status = self._status(await _named(request, context))
        if status == _Response.SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return _Response(status=status)

    async def _watch(self, request: bytes, context: Context) -> AsyncIterator[Any]:
        """The service's status, and again whenever it is another."""
        name = await _named(request, context)
        told = None
        while True:
            is_last = self._stopping.is_set()
            if (status := self._status(name)) != told:
                told = status
                yield _Response(status=status)
            if is_last:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), _LOOK_S)

    def _status(self, name: str) -> int:
        if name not in _SERVICES:
            return int(_Response.SERVICE_UNKNOWN)
        is_ready = self._service.is_ready and not self._stopping.is_set()
        return int(_Response.SERVING if is_ready else _Response.NOT_SERVING)


async def _named(request: bytes, context: Context) -> str:
    """The service that a request asks of; ends the call where it cannot be read."""
    try:
        message = await calls.read(_Request, request)
    except InvalidRequest as error:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
    name: str = message.service
    return name
