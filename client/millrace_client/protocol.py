"""What the client asks, worded for one transport: a `Dialect` makes requests, reads answers and sends nothing.

transport    asked with                      tensors travel as
json         HTTP (`rest.RestDialect`)       JSON
binary       HTTP (`rest.RestDialect`)       bytes behind JSON; JSON where a signature or a label is named
grpc         gRPC (`rpc.RpcDialect`)         bytes in protobuf messages
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
class Question(Generic[T]):
    """Requests that are sent one after the other, and what their answers mean. `read` raises `InvalidResponse`."""

    requests: tuple[Request, ...]
    read: Callable[[list[Response]], T]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """Which model is asked, and with what. At most one of `version` and `label` is given."""

    model: str
    version: str | None
    label: str | None
    signature: str | None
    tensors: list[Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What an answer says; `version` is None where it does not say."""

    outputs: dict[str, Array]
    version: str | None


class Dialect(Protocol):
    """How one transport words each question."""

    def ready(self, model: str | None, version: str | None) -> Question[bool]:
        """Whether the server, or the model, can answer."""

    def models(self) -> Question[list[ModelStatus]]:
        """The server's models with the state of each version."""

    def metadata(self, model: str, version: str | None) -> Question[ModelMetadata]:
        """The model's inputs and outputs."""

    def version_of(self, model: str, label: str) -> Question[str]:
        """The version that a label stands for."""

    def predict(self, call: Call, outputs: tuple[TensorSpec, ...]) -> Question[Answer]:
        """The model's outputs; `outputs` is what the metadata says of them."""
