"""How a limit is shared out among the live API processes, by what was asked of each of late.

No request waits for it: each process tells the others its demand about once a second, and works out its own share.
All that see the same demands get shares that add up to the limit.
"""

from collections.abc import Mapping

_LEAST = 0.1  # of an equal share: what a process without any demand has, for the first that comes


def share(limit: float, demands: Mapping[str, float], api: str) -> float:
    """What that process has of the limit.

    Where all demands together are within the limit, each has what it asks for and an equal part of the rest; else a
    part of the limit that is proportional to its demand.
    """
    least = _LEAST * limit / len(demands)
    wanted = {name: max(demand, least) for name, demand in demands.items()}
    total = sum(wanted.values())
    if total <= limit:
        return wanted[api] + (limit - total) / len(wanted)
    return limit * wanted[api] / total


def whole_share(limit: int, demands: Mapping[str, float], api: str) -> int:
    """The same in whole numbers: what is left over goes to those that lack most of theirs."""
    parts = {name: share(limit, demands, name) for name in demands}
    floors = {name: int(part + 1e-9) for name, part in parts.items()}
    left = limit - sum(floors.values())
    order = sorted(parts, key=lambda name: (floors[name] - parts[name], name))
    return floors[api] + (api in order[:left])
