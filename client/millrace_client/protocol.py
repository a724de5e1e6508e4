"""The seam between the client and its protocols: each makes the requests of an operation and reads the responses.

transport    protocol                         tensors travel as
json         HTTP (`rest.RestProtocol`)       JSON
binary       HTTP (`rest.RestProtocol`)       bytes after the JSON; JSON if a signature or a label is named
grpc         gRPC (`rpc.GrpcProtocol`)        bytes in protobuf messages
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

from millrace_client.exchange import Request, Response
from millrace_client.inputs import Array, Tensor
from millrace_client.models import ModelMetadata, ModelStatus, TensorSpec

Transport = Literal["json", "binary", "grpc"]
T = TypeVar("T")
# What reading a strange document raises.
MALFORMED = (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class Operation(Generic[T]):
    """Requests to send one after the other. `read` makes a value of their responses, or raises `InvalidResponse`."""

    requests: tuple[Request, ...]
    read: Callable[[list[Response]], T]


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceRequest:
    """The model and its input tensors. At most one of `version` and `label` is given."""

    model: str
    version: str | None
    label: str | None
    signature: str | None
    tensors: list[Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceResult:
    """The outputs by name, and the version that computed them; None if the response does not name it."""

    outputs: dict[str, Array]
    version: str | None


class InferenceProtocol(Protocol):
    """The operations in the form of one transport."""

    def ready(self, model: str | None, version: str | None) -> Operation[bool]:
        """Whether the server, or the model, can answer."""

    def models(self) -> Operation[list[ModelStatus]]:
        """The server's models with the state of each version."""

    def metadata(self, model: str, version: str | None) -> Operation[ModelMetadata]:
        """The model's inputs and outputs."""

    def version_of(self, model: str, label: str) -> Operation[str]:
        """The version that a label stands for."""

    def predict(self, call: InferenceRequest, outputs: tuple[TensorSpec, ...]) -> Operation[InferenceResult]:
        """The model's outputs; `outputs` is what the metadata says of them."""
