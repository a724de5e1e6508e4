"""How the descriptors that a process may open are shared out, so that no port takes those of another."""

import resource

_FILES = 128  # the program's own files, the queue's connections
_SPOOLED = 128  # large bodies
_GRPC_SHARE = 4  # gRPC takes at most a quarter


def http_connections(max_connections: int, *, has_grpc: bool, descriptors: int) -> int:
    """How many HTTP connections a process may have that may open so many descriptors."""
    grpc = descriptors // _GRPC_SHARE if has_grpc else 0
    files = min(_FILES + _SPOOLED, descriptors // 4)
    return max(1, min(max_connections, descriptors - grpc - files))


def grpc_connections(max_connections: int) -> int:
    """How many gRPC connections this process may have."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (
        max_connections if descriptors == resource.RLIM_INFINITY else min(max_connections, descriptors // _GRPC_SHARE)
    )


def allow_descriptors(max_connections: int) -> int:
    """Raise this process's limit of open files, as far as it may, to what so many connections need; the new limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = (max_connections + _FILES + _SPOOLED) * _GRPC_SHARE // (_GRPC_SHARE - 1) + 1
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return wanted if soft == resource.RLIM_INFINITY else soft
