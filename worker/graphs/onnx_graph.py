"""An ONNX file's graph: nodes, constants and named dimensions, read without its weights.

The numbers are those of the fields in ONNX's protobuf definition (onnx.proto). Constants of a few whole numbers are
read, since they say which axes an operator works on; of larger ones only the shape.
"""

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from worker.protofields import Field, Source, fields_of, open_file

MAX_NUMBERS = 64
_MAX_NODES = 100_000
_INT64, _INT32, _FLOAT, _BOOL = 7, 6, 1, 9
_FORMATS = {_INT64: "<q", _INT32: "<i", _FLOAT: "<f", _BOOL: "<?"}


@dataclass(frozen=True, slots=True)
class Constant:
    """A tensor in the file: its shape, and its elements where they are few whole numbers."""

    shape: tuple[int, ...]
    numbers: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """One operator of the graph. `attributes` are numbers, texts, lists of numbers, constants and graphs, by name."""

    operator: str
    domain: str
    inputs: Sequence[str]
    outputs: Sequence[str]
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Graph:
    """A graph. `inputs` and `outputs` have their dimensions by name: numbers, names, "" for an unknown one.

    The dimensions are None where the rank is not known.
    """

    nodes: list[Node] = field(default_factory=list)
    inputs: dict[str, Sequence[int | str] | None] = field(default_factory=dict)
    outputs: dict[str, Sequence[int | str] | None] = field(default_factory=dict)
    constants: dict[str, Constant] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """A model: its graph, the version of the standard operators, and the functions that it defines itself."""

    graph: Graph
    opset: int
    functions: frozenset[tuple[str, str]]


def read(path: Path) -> OnnxFile:
    """The model in the file. Raises `OSError`, `Malformed`, or `ValueError` for a graph too large to look at."""
    with open_file(path) as file:
        graph, opset, functions = Graph(), 1, set()
        for part in fields_of(Source(file)):
            if part.number == 7:
                graph = _graph(part)
            elif part.number == 8:
                found = {inner.number: inner for inner in part.fields()}
                if 1 not in found or found[1].text in ("", "ai.onnx"):
                    opset = found[2].signed if 2 in found else 1
            elif part.number == 25:
                names = {inner.number: inner.text for inner in part.fields() if inner.number in (1, 10)}
                functions.add((names.get(10, ""), names.get(1, "")))
    return OnnxFile(graph, opset, frozenset(functions))


def _graph(message: Field) -> Graph:
    graph = Graph()
    for part in message.fields():
        if part.number == 1:
            graph.nodes.append(_node(part))
            if len(graph.nodes) > _MAX_NODES:
                raise ValueError(f"the graph has more than {_MAX_NODES} nodes")
        elif part.number in (5, 15):
            name, constant = _sparse(part) if part.number == 15 else _tensor(part)
            graph.constants[name] = constant
        elif part.number in (11, 12):
            name, dimensions = _value_info(part)
            (graph.inputs if part.number == 11 else graph.outputs)[name] = dimensions
    return graph


def _node(message: Field) -> Node:
    texts: dict[int, list[str]] = {1: [], 2: [], 4: [], 7: []}
    attributes = {}
    for part in message.fields():
        if part.number in texts:
            texts[part.number].append(part.text)
        elif part.number == 5:
            name, value = _attribute(part)
            attributes[name] = value
    operator, domain = ("".join(texts[number]) for number in (4, 7))
    return Node(operator, "" if domain == "ai.onnx" else domain, tuple(texts[1]), tuple(texts[2]), attributes)


def _attribute(message: Field) -> tuple[str, Any]:
    name, value, lists = "", None, []
    for part in message.fields():
        if part.number == 1:
            name = part.text
        elif part.number == 2 and part.size == 4:
            (value,) = struct.unpack("<f", part.data)
        elif part.number == 3:
            value = part.signed
        elif part.number == 4:
            value = part.text if part.size <= 65_536 else None
        elif part.number == 5:
            value = _tensor(part)[1]
        elif part.number == 6:
            value = _graph(part)
        elif part.number == 8:
            lists += part.numbers()
    return name, tuple(lists) if lists else value


def _tensor(message: Field) -> tuple[str, Constant]:
    shape: list[int] = []
    numbers: list[int] | None = []
    name, datatype, raw = "", 0, None
    for part in message.fields():
        if part.number == 1:
            shape += part.numbers()
        elif part.number == 2:
            datatype = part.signed
        elif part.number in (5, 7) and numbers is not None:
            numbers = numbers + part.numbers() if max(part.size, len(numbers)) <= 10 * MAX_NUMBERS else None
        elif part.number == 4:
            raw = part
        elif part.number == 8:
            name = part.text
        elif part.number == 9:
            raw = part
    size = struct.calcsize(_FORMATS.get(datatype, ""))
    if raw and size and raw.size <= size * MAX_NUMBERS and raw.size % size == 0:
        found = [value for (value,) in struct.iter_unpack(_FORMATS[datatype], raw.data)]
        numbers = [int(value) for value in found] if all(map(_is_whole, found)) else None
    has_all = numbers is not None and len(numbers) == math.prod(shape)
    return name, Constant(tuple(shape), tuple(numbers or ()) if has_all else None)


def _is_whole(value: float) -> bool:
    return math.isfinite(value) and value == int(value)


def _sparse(message: Field) -> tuple[str, Constant]:
    name, shape = "", []
    for part in message.fields():
        if part.number == 1:
            name = _tensor(part)[0]
        elif part.number == 3:
            shape += part.numbers()
    return name, Constant(tuple(shape))


def _value_info(message: Field) -> tuple[str, Sequence[int | str] | None]:
    name, dimensions = "", None
    for part in message.fields():
        if part.number == 1:
            name = part.text
        elif part.number == 2:
            for kind in part.fields():
                if kind.number == 1:
                    dimensions = _dimensions(kind)
    return name, dimensions


def _dimensions(tensor_type: Field) -> Sequence[int | str] | None:
    for part in tensor_type.fields():
        if part.number == 2:
            return [_dimension(dimension) for dimension in part.fields() if dimension.number == 1]
    return None


def _dimension(message: Field) -> int | str:
    for part in message.fields():
        if part.number == 1:
            return part.signed if part.signed >= 0 else ""
        if part.number == 2:
            return part.text
    return ""
