"""Which share of each model's requests is logged: `digits=10%,*=1%`."""

from collections.abc import Mapping

_OTHERS = "*"


def read_shares(text: str) -> Mapping[str, float]:
    """Shares from 0 to 1 by model; "*" is for all other models. Raises `ValueError`."""
    shares = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        model, _, share = part.rpartition("=")
        try:
            number = float(share.removesuffix("%")) / (100 if share.endswith("%") else 1)
        except ValueError:
            number = -1.0
        if not model or not 0 <= number <= 1:
            raise ValueError(f"{part!r} is no share of a model's requests, as digits=10% or *=0.01 is")
        shares[model.strip()] = number
    return shares


def share_of(shares: Mapping[str, float], model: str) -> float:
    """The share of one model's requests."""
    return shares.get(model, shares.get(_OTHERS, 0.0))
