"""How a limit is shared out among the live API processes, by what was asked of each of late.

No request waits for it: each process tells the others about once a second what it was asked, and works out its own
share. All that know the same get shares that add up to the limit.
"""

from collections.abc import Mapping

_EQUAL_PART = 0.1  # of the limit, which goes to all alike: for the first request that comes to a process


def part(demands: Mapping[str, float], api: str) -> float:
    """The part of a limit that is that process's, by the demands of all."""
    total = sum(demands.values())
    equal = 1 / len(demands)
    return equal if not total else _EQUAL_PART * equal + (1 - _EQUAL_PART) * demands[api] / total


def whole_share(limit: int, demands: Mapping[str, float], api: str) -> int:
    """The process's share in whole numbers: what rounding leaves over goes to those that lack most of theirs.

    While all demands together are within the limit, each process has what it asks for and an equal part of the rest.
    """
    total = sum(demands.values())
    if total <= limit:
        shares = {name: demand + (limit - total) / len(demands) for name, demand in demands.items()}
    else:
        shares = {name: limit * part(demands, name) for name in demands}
    floors = {name: int(share + 1e-9) for name, share in shares.items()}
    left = limit - sum(floors.values())
    order = sorted(shares, key=lambda name: (floors[name] - shares[name], name))
    return floors[api] + (api in order[:left])
