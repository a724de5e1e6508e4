"""The result of a scenario: the outcome of each request, and measured facts."""

from dataclasses import dataclass, field

from tests.support.load import Tally


@dataclass(frozen=True, slots=True)
class Fact:
    """A measured value, with its limits if it has any."""

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
    """The result of a scenario. `allowed` are the statuses with which requests may be refused."""

    tally: Tally
    allowed: tuple[int, ...] = ()
    facts: dict[str, Fact] = field(default_factory=dict)

    def faults(self) -> list[str]:
        """The requests that broke a promise; there must be none on any machine."""
        return self.tally.faults(*self.allowed)

    def missed(self) -> list[str]:
        """The facts outside their limits. The limits are for a machine whose two cores have nothing else to do."""
        return [f"{name}: {fact}" for name, fact in self.facts.items() if not fact.is_kept]
