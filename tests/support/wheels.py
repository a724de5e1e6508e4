"""Libraries without a wheel for this Python: `pyproject.toml` leaves them out here, and what needs one is skipped."""

from importlib.util import find_spec

from tests.support.imports import extras_of, requirements
from tests.support.running import ROOT

# The names that are imported, where they are not those of the distribution.
_IMPORTED = {"pysimdjson": "simdjson", "tensorflow-serving-api": "tensorflow_serving"}


def without_wheel() -> set[str]:
    """The top-level names that no extra brings on this Python and platform, though one does on others."""
    everything = requirements(ROOT, *extras_of(ROOT))
    left_out = {needed.name for needed in everything if needed.marker and not needed.marker.evaluate({"extra": ""})}
    names = {_IMPORTED.get(name, name) for name in left_out}
    return {name for name in names if not find_spec(name)}


def reason(name: str | None) -> str:
    """Why a test that lacks the module is skipped; "" where it should not lack it."""
    top = (name or "").partition(".")[0]
    return f"{top} has no wheel for this Python and platform" if top in without_wheel() else ""
