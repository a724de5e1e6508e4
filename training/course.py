"""How a training goes, whatever is trained: when it stops, in which precision it computes, and who is told of it."""

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")


class CourseError(Exception):
    """A training cannot go as it is asked to; the message names the flag."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """The flags of a run. With `patience` it stops after that many epochs without a better one, and keeps the best.

    `monitor` is the metric that says which epoch is better; "" is the first of those on held-out data. `callbacks`
    names a function that returns Keras callbacks, as `module:function` or `file.py:function`. `mlflow` is the address
    of a tracking server or the folder that metrics go to; "" is none.
    """

    patience: int = 0
    monitor: str = ""
    precision: str = "float32"
    callbacks: str = ""
    mlflow: str = ""

    def check_plain(self, name: str) -> None:
        """Raises `CourseError` where a flag is given that means nothing to a model without Keras layers."""
        for flag, given in (("--precision", self.precision != "float32"), ("--callbacks", bool(self.callbacks))):
            if given:
                raise CourseError(f"{name} is no Keras model, so there is nothing that {flag} could do")

    def best_epoch(self, history: Sequence[dict[str, float]]) -> int:
        """The number of the best epoch so far. Raises `CourseError` where none has the metric."""
        name = self.monitor or next((name for name in history[-1] if name.startswith("held_out")), "loss")
        values = [metrics.get(name) for metrics in history]
        if values[-1] is None:
            raise CourseError(f"--monitor {name}: there is no such metric; there are {', '.join(history[-1])}")
        sign = 1 if "loss" in name or "error" in name else -1
        return min((sign * value, number) for number, value in enumerate(values) if value is not None)[1]

    def is_over(self, history: Sequence[dict[str, float]]) -> bool:
        """Whether the last epochs were no better than one before them."""
        return bool(self.patience and history) and len(history) - 1 - self.best_epoch(history) >= self.patience

    def keras_callbacks(self) -> list[Any]:
        """The callbacks that `callbacks` names. Raises `CourseError`."""
        if not self.callbacks:
            return []
        place, _, name = self.callbacks.rpartition(":")
        try:
            found = getattr(_module(place), name)()
        except (ImportError, AttributeError, OSError, TypeError) as error:
            raise CourseError(f"--callbacks {self.callbacks}: {error}") from error
        return list(found)


def _module(place: str) -> Any:
    if not place.endswith(".py"):
        return importlib.import_module(place)
    spec = importlib.util.spec_from_file_location(Path(place).stem, place)
    if spec is None or spec.loader is None:
        raise ImportError(f"{place} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
