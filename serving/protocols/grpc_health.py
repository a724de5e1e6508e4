"""gRPC's health checking protocol: a service here is healthy when the API is ready."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from millrace import rpc
from millrace.protocol.errors import InvalidRequest, MillraceError
from serving.protocols import grpc_calls as calls
from serving.service import Service
from serving.transport.grpc_method import Answer, CallHead, Message, Status, Write

_LOOK_S = 0.5
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
        self.check = calls.awaited(service, self._check, words)

    async def _check(self, message: Message, _head: CallHead) -> Answer:
        status = self._status(_named(message))
        if status == _Response.SERVICE_UNKNOWN:
            return Answer(status=Status.NOT_FOUND, text="unknown service")
        return Answer(_written(status))

    async def watch(self, requests: AsyncIterator[Message], _head: CallHead, write: Write) -> Answer:
        """The service's status, and again whenever it is another."""
        message = await anext(requests, None)
        if message is None:
            return Answer(status=Status.INVALID_ARGUMENT, text="the call has no message")
        try:
            name = _named(message)
        except InvalidRequest as error:
            return Answer(status=Status.INVALID_ARGUMENT, text=str(error))
        finally:
            message.close()
        told = None
        while True:
            is_last = self._stopping.is_set()
            if (status := self._status(name)) != told:
                told = status
                await write(_written(status))
            if is_last:
                return Answer()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), _LOOK_S)

    def _status(self, name: str) -> int:
        if name not in _SERVICES:
            return int(_Response.SERVICE_UNKNOWN)
        is_ready = self._service.is_ready and not self._stopping.is_set()
        return int(_Response.SERVING if is_ready else _Response.NOT_SERVING)


def words(error: MillraceError) -> tuple[Status, str]:
    """The error as it is."""
    return calls.status_of(error), str(error)


def _named(message: Message) -> str:
    """The service that a request asks of. Raises `InvalidRequest`."""
    name: str = calls.read(_Request, calls.contents(message.body)).service
    return name


def _written(status: int) -> bytes:
    written: bytes = _Response(status=status).SerializeToString()
    return written
