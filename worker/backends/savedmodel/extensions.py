"""Operators that TensorFlow itself lacks: libraries beside it bring them, as TensorFlow Serving has some built in."""

import importlib
import re
from importlib.util import find_spec

_MISSING = re.compile(r"Op type not registered '([^']+)'")
# What TensorFlow Serving's own build has beside TensorFlow's operators; each registers its own when it is imported.
_LIBRARIES = ("tensorflow_text", "tensorflow_decision_forests")


def missing_operator(error: Exception) -> str:
    """The operator that the error says TensorFlow lacks, "" where it says something else."""
    found = _MISSING.search(str(error))
    return found[1] if found else ""


def import_libraries() -> None:
    """Import those that are installed. Raises whatever one raises that does not fit this TensorFlow."""
    for name in _LIBRARIES:
        if find_spec(name):
            importlib.import_module(name)


def advice(operator: str) -> str:
    """What to say of an operator that no library has brought."""
    return (
        f"TensorFlow has no operator {operator!r}; a library beside it has: install that one here "
        f"({', '.join(_LIBRARIES)} are then found), or export the model without the operator"
    )
