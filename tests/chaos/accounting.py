"""What a scenario found: the outcome of each request, and what was measured beside it."""

from dataclasses import dataclass, field

from tests.support.load import Tally


@dataclass(frozen=True, slots=True)
class Fact:
    """Something that was measured, with the limit that it must keep, if it has one."""

    value: float
    unit: str = ""
    at_most: float | None = None
    at_least: float | None = None

    @property
    def is_kept(self) -> bool:
        """Whether the value is within its limits."""
        return (self.at_most is None or self.value <= self.at_most) and (
            self.at_least is None or self.value >= self.at_least
        )

    def __str__(self) -> str:
        limit = f" (≤ {self.at_most:g})" if self.at_most is not None else ""
        limit += f" (≥ {self.at_least:g})" if self.at_least is not None else ""
        return f"{self.value:.4g} {self.unit}".rstrip() + limit


@dataclass(slots=True)
class Result:
    """What a scenario found. `allowed` are the statuses with which it may refuse requests."""

    tally: Tally
    allowed: tuple[int, ...] = ()
    facts: dict[str, Fact] = field(default_factory=dict)

    def faults(self) -> list[str]:
        """What must not be with any request, whatever the machine."""
        return self.tally.faults(*self.allowed)

    def missed(self) -> list[str]:
        """The facts outside their limits, which hold for a machine with two cores to itself."""
        return [f"{name}: {fact}" for name, fact in self.facts.items() if not fact.is_kept]
