"""Which requests are sampled, as OpenTelemetry's variables say: OTEL_TRACES_SAMPLER, OTEL_TRACES_SAMPLER_ARG."""

from collections.abc import Callable, Mapping

from serving.tracing.context import Parent
from serving.tracing.errors import TracingError

# Of a trace's id and what the caller says, whether the request is sampled.
Sampler = Callable[[int, Parent | None], bool]
_BITS = 2**64 - 1
_DEFAULT = "parentbased_always_on"


def sampler_of(environ: Mapping[str, str]) -> Sampler:
    """The sampler that the variables ask for; by default the caller decides, and who says nothing is sampled.

    Raises `TracingError`.
    """
    name = environ.get("OTEL_TRACES_SAMPLER", "") or _DEFAULT
    own = name.removeprefix("parentbased_")
    if own not in ("always_on", "always_off", "traceidratio"):
        raise TracingError(f"OTEL_TRACES_SAMPLER: {name!r} is not known")
    ratio = {"always_on": 1.0, "always_off": 0.0}.get(own, -1.0)
    if ratio < 0:
        ratio = _ratio(environ.get("OTEL_TRACES_SAMPLER_ARG", "1.0"))
    bound = round(ratio * 2**64)
    asks_parent = name.startswith("parentbased_")

    def is_sampled(trace_id: int, parent: Parent | None) -> bool:
        if parent and asks_parent:
            return parent.is_sampled
        return trace_id & _BITS < bound

    return is_sampled


def _ratio(text: str) -> float:
    try:
        ratio = float(text)
    except ValueError:
        ratio = -1.0
    if not 0 <= ratio <= 1:
        raise TracingError(f"OTEL_TRACES_SAMPLER_ARG: expected a number from 0 to 1, got {text!r}")
    return ratio
