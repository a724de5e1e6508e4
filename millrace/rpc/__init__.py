"""The messages of the gRPC protocols that we speak, in a pool of their own.

Their names and numbers are TensorFlow Serving's, Triton's and gRPC's. Python's protobuf has one pool for a whole
process, and refuses a second definition of a name; as ours stays out of it, a process may import this beside
`tensorflow_serving` or `tritonclient`, in any order.

The sources are the `.proto` files here. `descriptors.binpb` is what they compile to (a test holds it to them):

    python -m millrace.rpc.compile
"""

from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

FOLDER = Path(__file__).parent
DESCRIPTORS = FOLDER / "descriptors.binpb"


@cache
def pool() -> Any:
    """The descriptor pool that holds them all, and the well-known types that they use."""
    found = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTORS.read_bytes()).file:
        found.AddSerializedFile(file.SerializeToString())
    return found


@cache
def message(name: str) -> Any:
    """The class of a message by its full name, such as "tensorflow.serving.PredictRequest". Raises `KeyError`."""
    return message_factory.GetMessageClass(pool().FindMessageTypeByName(name))


def service(name: str) -> Any:
    """The descriptor of a service by its full name, such as "grpc.health.v1.Health". Raises `KeyError`."""
    return pool().FindServiceByName(name)


def enum(name: str) -> dict[str, int]:
    """The numbers of an enum's values by their names. Raises `KeyError`."""
    return {value.name: value.number for value in pool().FindEnumTypeByName(name).values}
