"""Which requests a run answers, for a model that asks other models on their behalf."""

from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass

from millrace.protocol.messages import traceparent_of


@dataclass(frozen=True, slots=True, kw_only=True)
class CurrentRequests:
    """The requests of one run: their last deadline, on the broker's clock, and the `RequestItem.trace` of the first.

    `via` names the models that wait for their answers, as `RequestBlock.via`.
    """

    deadline_ms: int
    trace: str
    via: tuple[str, ...]

    @property
    def traceparent(self) -> str:
        """The W3C header of the first request, "" where it is not traced."""
        return traceparent_of(self.trace)


# Set in the thread of an instance while it runs a model that calls others; its tasks and callbacks inherit it.
current: ContextVar[CurrentRequests | None] = ContextVar("current", default=None)


def joined(chains: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    """The names of all chains, each once, in order."""
    return tuple(dict.fromkeys(name for chain in chains for name in chain))
