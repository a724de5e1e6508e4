"""How the micro benchmarks time and print: ways in turn, several rounds, medians."""

import statistics
import time
from collections.abc import Callable, Mapping

ROUNDS = 7


def calls(function: Callable[[], object], number: int, per: int = 1) -> Callable[[], float]:
    """One round of a way: so many calls of the function, each of which does `per` of what is counted; microseconds."""

    def one_round() -> float:
        started = time.perf_counter()
        for _ in range(number):
            function()
        return (time.perf_counter() - started) / (number * per) * 1e6

    return one_round


def compare(title: str, ways: Mapping[str, Callable[[], float]]) -> None:
    """Run the ways in turn, `ROUNDS` times; print each one's median in microseconds and its ratio to the fastest."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, one_round in ways.items():
            taken[name].append(one_round())
    medians = {name: statistics.median(rounds) for name, rounds in taken.items()}
    width = max(map(len, medians))
    print(f"\n{title}")
    for name, median in medians.items():
        print(f"  {name:<{width}}  {median:8.2f} µs  {median / min(medians.values()):6.2f} x")
