"""gRPC's health checking protocol: a service here is healthy when the API is ready."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc

from millrace import rpc
from serving.grpc.calls import Context
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
        written = {"request_deserializer": _Request.FromString, "response_serializer": _Response.SerializeToString}
        return {
            f"{_PATH}/Check": grpc.unary_unary_rpc_method_handler(self._check, **written),
            f"{_PATH}/Watch": grpc.unary_stream_rpc_method_handler(self._watch, **written),
        }

    async def _check(self, message: Any, context: Context) -> Any:
        status = self._status(message.service)
        if status == _Response.SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return _Response(status=status)

    async def _watch(self, message: Any, context: Context) -> AsyncIterator[Any]:  # noqa: ARG002 - as gRPC calls it
        """The service's status, and again whenever it is another."""
        told = None
        while True:
            is_last = self._stopping.is_set()
            if (status := self._status(message.service)) != told:
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
