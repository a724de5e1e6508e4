"""Which versions of a store are mirrored, where not all of them fit."""

from collections.abc import Collection, Mapping

from worker.mirroring.layout import Key


def select(sizes: Mapping[Key, int], kept: Collection[Key], most_bytes: int) -> list[Key]:
    """The versions to have, the most wanted first; `sizes` are those of all in the store, in bytes.

    Those that are `kept` (they serve, or an operator names them) are always among them. Then every model's newest comes
    first, then every model's second, as far as they fit into `most_bytes` with those; 0 means that there is no limit.
    """
    numbers: dict[str, list[int]] = {}
    for model, version in sorted(sizes, reverse=True):
        numbers.setdefault(model, []).append(version)
    ranked = sorted((rank, model, number) for model, found in numbers.items() for rank, number in enumerate(found))
    left = most_bytes - sum(size for key, size in sizes.items() if key in kept)
    chosen = []
    for _, model, number in ranked:
        key = (model, number)
        if key not in kept:
            if most_bytes and sizes[key] > left:
                continue
            left -= sizes[key]
        chosen.append(key)
    return chosen
