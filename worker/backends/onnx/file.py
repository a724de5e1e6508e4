"""What an ONNX file needs and has that a session does not tell, read without its weights.

Nothing is mapped into memory, so the file may be overwritten meanwhile: then what is read is wrong, or a `Malformed`,
and no signal. The numbers are those of the fields in ONNX's protobuf definition.
"""

from dataclasses import dataclass, field
from pathlib import Path

from worker.protofields import Field, Malformed, Source, fields_of, open_file

_LONGEST_TEXT = 2**16  # bytes of a name or a label
_DEEPEST = 64  # graphs in graphs
_EXTERNAL = 1  # TensorProto.data_location


@dataclass(frozen=True, slots=True)
class ZipMap:
    """A node that turns rows of `scores` (a tensor's name) into dictionaries; `labels` are their keys, in order."""

    scores: str
    labels: tuple[str, ...]


@dataclass(slots=True)
class OnnxFile:
    """What the file says.

    `operators` are the nodes' domains ("" is ONNX's own) and types, those in subgraphs and functions too; `functions`
    the operators that the file defines itself. `zip_maps` are by the output's name. `unranked` are the graph's inputs
    and outputs without a shape. `data_files` are the files beside it that hold weights, as the file names them;
    `has_nested_data` says that some of these weights are not the main graph's initializers.
    """

    operators: set[tuple[str, str]] = field(default_factory=set)
    functions: set[tuple[str, str]] = field(default_factory=set)
    zip_maps: dict[str, ZipMap] = field(default_factory=dict)
    unranked: set[str] = field(default_factory=set)
    data_files: set[str] = field(default_factory=set)
    has_nested_data: bool = False


def read(path: Path) -> OnnxFile:
    """Read the file. Raises `Malformed` for one that is no ONNX, and `OSError`."""
    found = OnnxFile()
    with open_file(path) as file:
        for part in fields_of(Source(file)):
            if part.number == 7:
                _graph(part, found, depth=0)
            elif part.number == 25:
                _function(part, found)
    return found


def _function(message: Field, found: OnnxFile) -> None:
    domain = name = ""
    for part in message.fields():
        if part.number == 1:
            name = _text(part)
        elif part.number == 7:
            _node(part, found, depth=1)
        elif part.number == 10:
            domain = _text(part)
    found.functions.add((domain, name))


def _graph(message: Field, found: OnnxFile, depth: int) -> None:
    if depth > _DEEPEST:
        raise Malformed(f"graphs lie in one another more than {_DEEPEST} times")
    for part in message.fields():
        if part.number == 1:
            _node(part, found, depth)
        elif part.number == 5:
            _tensor(part, found, is_nested=depth > 0)
        elif part.number == 15:
            _sparse_tensor(part, found)
        elif part.number in (11, 12) and not depth:
            _value(part, found)


def _node(message: Field, found: OnnxFile, depth: int) -> None:
    texts: dict[int, list[str]] = {1: [], 2: [], 4: [], 7: []}
    labels = list[str]()
    for part in message.fields():
        if part.number in texts:
            texts[part.number].append(_text(part))
        elif part.number == 5:
            labels += _attribute(part, found, depth)
    inputs, outputs, operator, domain = texts[1], texts[2], "".join(texts[4]), "".join(texts[7])
    found.operators.add(("" if domain == "ai.onnx" else domain, operator))
    if (domain, operator) == ("ai.onnx.ml", "ZipMap") and not depth and inputs and outputs:
        found.zip_maps[outputs[0]] = ZipMap(inputs[0], tuple(labels))


def _attribute(message: Field, found: OnnxFile, depth: int) -> list[str]:
    """The class labels, where the attribute has them."""
    name, labels = "", list[str]()
    for part in message.fields():
        if part.number == 1:
            name = _text(part)
        elif part.number in (5, 10):
            _tensor(part, found, is_nested=True)
        elif part.number in (6, 11):
            _graph(part, found, depth + 1)
        elif part.number == 22:
            _sparse_tensor(part, found)
        elif name == "classlabels_strings" and part.number == 9:
            labels.append(_text(part))
        elif name == "classlabels_int64s" and part.number == 8:
            labels += map(str, part.numbers())
    return labels


def _sparse_tensor(message: Field, found: OnnxFile) -> None:
    for part in message.fields():
        if part.number in (1, 2):
            _tensor(part, found, is_nested=True)


def _tensor(message: Field, found: OnnxFile, *, is_nested: bool) -> None:
    location, is_external = "", False
    for part in message.fields():
        if part.number == 13:
            entry = {inner.number: _text(inner) for inner in part.fields()}
            location = entry.get(2, "") if entry.get(1) == "location" else location
        elif part.number == 14:
            is_external = part.value == _EXTERNAL
    if is_external:
        found.data_files.add(location)
        found.has_nested_data |= is_nested


def _value(message: Field, found: OnnxFile) -> None:
    name, has_shape = "", False
    for part in message.fields():
        if part.number == 1:
            name = _text(part)
        elif part.number == 2:
            tensors = (kind for kind in part.fields() if kind.number == 1)
            has_shape = any(inner.number == 2 for tensor in tensors for inner in tensor.fields())
    if not has_shape:
        found.unranked.add(name)


def _text(part: Field) -> str:
    if part.size > _LONGEST_TEXT:
        raise Malformed(f"a name has {part.size} bytes")
    return part.text
