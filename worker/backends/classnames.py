"""Names of classes as Ultralytics' exporters write them into model files: a dictionary from numbers to names, as text.

An ONNX file has it in its metadata as `names`; a TFLite file in a text that is packed in it, as one entry of several.
"""

import ast
import json
from typing import Any

KEY = "names"
_LONGEST = 2**20  # characters of a text that is read
_DAMAGED = (ValueError, SyntaxError, RecursionError, MemoryError)


def of_text(text: str) -> tuple[str, ...]:
    """The names in a text that is the dictionary; () where it is something else."""
    return _names(_value(text))


def of_document(text: str) -> tuple[str, ...]:
    """The names in a text that is a dictionary with `names` among others; () where it is something else."""
    found = _value(text)
    return _names(found.get(KEY)) if isinstance(found, dict) else ()


def _value(text: str) -> Any:
    """JSON, or what Python writes for a dictionary; None for all else."""
    if len(text) > _LONGEST:
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except _DAMAGED:
            continue
    return None


def _names(found: Any) -> tuple[str, ...]:
    if isinstance(found, dict):
        by_number = {str(number): name for number, name in found.items()}
        found = [by_number.get(str(number)) for number in range(len(by_number))]
    is_list = isinstance(found, list) and found and all(isinstance(name, str) for name in found)
    return tuple(found) if is_list else ()
