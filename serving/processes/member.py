"""What an API process that is one of several is told when it is started, and what it tells back."""

import msgspec

from serving.memory import MemoryLimit


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """One of several API processes; the first has number 1.

    `channel` is the descriptor of a socket to the process that started it: `Started` goes there, and when it is closed
    this one is to stop. `ports` are the descriptors of sockets that are bound to the HTTP port and to the gRPC port.
    `folder` is shared by all of them, and by nobody else.
    """

    number: int
    count: int
    channel: int
    ports: tuple[int, ...]
    folder: str

    def as_argument(self) -> str:
        """Itself, for a command line."""
        return msgspec.json.encode(self).decode()


def member_of(argument: str) -> Member:
    """What `as_argument` gave."""
    return msgspec.json.decode(argument, type=Member)


class Started(msgspec.Struct, frozen=True, kw_only=True):
    """An API process listens: the memory that it takes at most, and how many HTTP connections it may have."""

    limit: MemoryLimit
    connections: int
