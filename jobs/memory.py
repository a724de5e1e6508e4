"""A bound on the memory of the process that runs a unit: what a hostile file unpacks to ends its job, and nothing else.

The bound is on what the process allocates (RLIMIT_DATA, which Linux alone observes); files that it maps do not count.
"""

import resource
import sys


def limit_memory(most_bytes: int) -> None:
    """Have this process allocate no more than that."""
    _set(most_bytes)


def unlimit_memory() -> None:
    """Lift the bound, for a program of another kind that is started here."""
    _set(resource.getrlimit(resource.RLIMIT_DATA)[1])


def _set(most_bytes: int) -> None:
    if sys.platform != "linux":
        return
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    bounded = most_bytes if hard == resource.RLIM_INFINITY else min(most_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (bounded, hard))
