"""A session's inputs and outputs as callers have them: all that have the form of a tensor, the others are named."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from millrace.protocol.tensors import TensorSpec
from worker.backends import classnames
from worker.backends.base import LoadError
from worker.backends.onnx.datatypes import DATATYPES, NARROW, more_output, widened_output
from worker.backends.onnx.file import OnnxFile

_OPTIONAL = re.compile(r"optional\((tensor\(\w+\))\)")
_MOST_OVERRIDABLE = 16  # initializers that callers may override; a file with more of them lists its weights


@dataclass(slots=True)
class OnnxTensors:
    """What callers send and get.

    `fetched` are the names of the graph's tensors that answer `outputs`; `addition` makes those of them outputs of the
    graph that are not, put behind the model's bytes. `narrow` are the inputs whose type, in ONNX Runtime's words, is
    narrower than what callers send. `axes` are the names of dimensions by tensor, "" where one has none. `notes` tell
    what is left out or special.
    """

    inputs: list[TensorSpec] = field(default_factory=list)
    outputs: list[TensorSpec] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)
    addition: bytes = b""
    narrow: dict[str, str] = field(default_factory=dict)
    axes: dict[str, list[str]] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)


def tensors_of(session: Any, found: OnnxFile) -> OnnxTensors:
    """What callers send to a session and get of it. Raises `LoadError` where nothing can be sent or answered."""
    tensors = OnnxTensors()
    for value in session.get_inputs():
        _add_input(tensors, value, found)
    _add_overridable(tensors, session.get_overridable_initializers(), found)
    values = (*session.get_inputs(), *session.get_outputs())
    tensors.axes = {value.name: [size if isinstance(size, str) else "" for size in value.shape] for value in values}
    outputs = {value.name for value in session.get_outputs()}
    for value in session.get_outputs():
        _add_output(tensors, value, found, outputs)
    tensors.labels = tensors.labels or _labels(session)
    if not tensors.outputs:
        raise LoadError(f"the model has no output that is a tensor. {' '.join(tensors.notes)}")
    return tensors


def _labels(session: Any) -> tuple[str, ...]:
    """The names of classes in the file's metadata."""
    try:
        return classnames.of_text(session.get_modelmeta().custom_metadata_map.get(classnames.KEY, ""))
    except UnicodeDecodeError:  # in any entry of the metadata
        return ()


def _add_input(tensors: OnnxTensors, value: Any, found: OnnxFile) -> None:
    optional = _OPTIONAL.fullmatch(value.type)
    name = optional[1] if optional else value.type
    if name not in DATATYPES and name not in NARROW:
        if value.type.startswith("optional("):
            tensors.notes.append(f"The optional input '{value.name}' is a {value.type}, so no caller can send it.")
            return
        raise LoadError(f"input '{value.name}' is a {value.type}, which no caller can send: only tensors can be sent")
    tensors.inputs.append(_input(tensors, value, name, found, optional=bool(optional)))


def _add_overridable(tensors: OnnxTensors, values: Sequence[Any], found: OnnxFile) -> None:
    """Initializers that the file lists as inputs: callers may send others in their place."""
    sendable = [value for value in values if value.type in DATATYPES or value.type in NARROW]
    if len(sendable) > _MOST_OVERRIDABLE:
        tensors.notes.append(
            f"The file lists {len(sendable)} of its weights as inputs; they are not offered as inputs. "
            f"Up to {_MOST_OVERRIDABLE} would be."
        )
        return
    tensors.inputs += [_input(tensors, value, value.type, found, optional=True) for value in sendable]


def _input(tensors: OnnxTensors, value: Any, type_name: str, found: OnnxFile, *, optional: bool) -> TensorSpec:
    if type_name in NARROW:
        tensors.narrow[value.name] = type_name
        datatype = NARROW[type_name][1]
        tensors.notes.append(
            f"Input '{value.name}' is {_short(type_name)} in the model; callers send {datatype}, which is rounded."
        )
    return _spec(value, type_name, found, optional=optional)


def _add_output(tensors: OnnxTensors, value: Any, found: OnnxFile, names: set[str]) -> None:
    zip_map = found.zip_maps.get(value.name)
    if zip_map and value.type.startswith("seq(map("):
        shape = (-1, len(zip_map.labels))
        tensors.outputs.append(TensorSpec(name=value.name, datatype="FP32", shape=shape))
        tensors.notes.append(
            f"Output '{value.name}' has a column for each class, where the model has a dictionary for each row."
        )
        tensors.labels = tensors.labels or zip_map.labels
        _fetch(tensors, zip_map.scores, b"" if zip_map.scores in names else more_output(zip_map.scores))
    elif value.type in NARROW:
        datatype, wide = NARROW[value.type][1], f"{value.name}/wide"
        tensors.outputs.append(_spec(value, value.type, found))
        tensors.notes.append(f"Output '{value.name}' is {_short(value.type)} in the model; callers get {datatype}.")
        _fetch(tensors, wide, widened_output(value.name, wide, value.type))
    elif value.type in DATATYPES:
        tensors.outputs.append(_spec(value, value.type, found))
        _fetch(tensors, value.name, b"")
    else:
        tensors.notes.append(f"Output '{value.name}' is left out: it is a {value.type}, and only tensors are answered.")


def _fetch(tensors: OnnxTensors, name: str, addition: bytes) -> None:
    tensors.addition += addition if name not in tensors.fetched else b""
    tensors.fetched.append(name)


def _spec(value: Any, type_name: str, found: OnnxFile, *, optional: bool = False) -> TensorSpec:
    shape = tuple(size if isinstance(size, int) and size >= 0 else -1 for size in value.shape)
    datatype = DATATYPES.get(type_name) or NARROW[type_name][1]
    is_unranked = not shape and value.name in found.unranked
    return TensorSpec(name=value.name, datatype=datatype, shape=shape, optional=optional, unknown_rank=is_unranked)


def _short(type_name: str) -> str:
    return type_name.removeprefix("tensor(").removesuffix(")").upper()
