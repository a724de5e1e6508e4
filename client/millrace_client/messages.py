"""The protobuf messages of both gRPC protocols, in a pool of their own.

Python's protobuf has one pool for a whole process and refuses a second definition of a name. As ours stay out of it, a
process may import this beside `tritonclient` or `tensorflow_serving`, in any order. `descriptors.binpb` is a copy of
the server's, and a test holds it to that.
"""

from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory


@cache
def pool() -> Any:
    """The descriptor pool that holds them all."""
    found = descriptor_pool.DescriptorPool()
    descriptors = Path(__file__).with_name("descriptors.binpb").read_bytes()
    for file in descriptor_pb2.FileDescriptorSet.FromString(descriptors).file:
        found.AddSerializedFile(file.SerializeToString())
    return found


@cache
def message(name: str) -> Any:
    """The class of a message by its full name, such as "inference.ModelInferRequest"."""
    return message_factory.GetMessageClass(pool().FindMessageTypeByName(name))
