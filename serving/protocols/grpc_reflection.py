"""gRPC's server reflection: tools such as grpcurl ask what services there are, and of what their messages are made."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

from millrace import rpc
from millrace.protocol.errors import InvalidRequest
from serving.protocols import grpc_calls as calls
from serving.transport.grpc_method import Answer, CallHead, Message, Status, Write

PACKAGES = ("grpc.reflection.v1", "grpc.reflection.v1alpha")


class Reflection:
    """The method of one version of the protocol, which its package names. `services` are those that are offered."""

    def __init__(self, package: str, services: Sequence[str]) -> None:
        self._request = rpc.message(f"{package}.ServerReflectionRequest")
        self._response = rpc.message(f"{package}.ServerReflectionResponse")
        self._services = services

    async def run(self, requests: AsyncIterator[Message], _head: CallHead, write: Write) -> Answer:
        """Answer each request in turn. A file goes with all that it imports, but goes to a caller once."""
        sent: set[str] = set()
        async for message in requests:
            try:
                request = calls.read(self._request, calls.contents(message.body))
            except InvalidRequest as error:
                return Answer(status=Status.INVALID_ARGUMENT, text=str(error))
            finally:
                message.close()
            await write(self._answer(request, sent).SerializeToString())
        return Answer()

    def _answer(self, request: Any, sent: set[str]) -> Any:
        answer = self._response(valid_host=request.host, original_request=request)
        kind = request.WhichOneof("message_request")
        pool = rpc.pool()
        try:
            if kind == "list_services":
                for name in self._services:
                    answer.list_services_response.service.add(name=name)
            elif kind == "file_by_filename":
                self._add(answer, pool.FindFileByName(request.file_by_filename), sent)
            elif kind == "file_containing_symbol":
                self._add(answer, pool.FindFileContainingSymbol(request.file_containing_symbol), sent)
            else:
                _fail(answer, Status.UNIMPLEMENTED, "there are no extensions")
        except KeyError:
            _fail(answer, Status.NOT_FOUND, "there is no such file or symbol")
        return answer

    def _add(self, answer: Any, file: Any, sent: set[str]) -> None:
        """Add the file's descriptor, behind those that it needs. One that is asked for again is sent again."""
        for needed in file.dependencies:
            if needed.name not in sent:
                self._add(answer, needed, sent)
        sent.add(file.name)
        answer.file_descriptor_response.file_descriptor_proto.append(file.serialized_pb)


def _fail(answer: Any, status: Status, text: str) -> None:
    answer.error_response.error_code = int(status)
    answer.error_response.error_message = text
