"""What an ONNX file says of its graph, read without its weights.

The file is walked field by field in protobuf's wire format: a tensor's elements are stepped over, so a file of 2 GB
costs no more than its nodes. Nothing is mapped into memory, so the file may be overwritten meanwhile: then what is read
is wrong, or a `ValueError`, and no signal.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5
_LONGEST_TEXT = 2**16  # bytes of a name or a label
_DEEPEST = 64  # graphs in graphs
_EXTERNAL = 1  # TensorProto.data_location


@dataclass(frozen=True, slots=True)
class ZipMap:
    """A node that turns rows of scores into dictionaries: `scores` and `output` are tensors' names.

    `labels` are the classes, the columns of `scores`.
    """

    scores: str
    output: str
    labels: tuple[str, ...]


@dataclass(slots=True)
class OnnxFile:
    """What the file says.

    `operators` are the nodes' domains ("" is ONNX's own) and types, those in subgraphs and functions too; `functions`
    the operators that the file defines itself. `unranked` are the graph's inputs and outputs without a shape.
    `data_files` are the files beside it that hold weights, as the file names them; `has_nested_data` says that tensors
    outside the main graph's initializers are there, too.
    """

    ir_version: int = 0
    opsets: dict[str, int] = field(default_factory=dict)
    operators: set[tuple[str, str]] = field(default_factory=set)
    functions: set[tuple[str, str]] = field(default_factory=set)
    zip_maps: dict[str, ZipMap] = field(default_factory=dict)
    unranked: set[str] = field(default_factory=set)
    data_files: set[str] = field(default_factory=set)
    has_nested_data: bool = False


def read(path: Path) -> OnnxFile:
    """Read the file. Raises `ValueError` for one that is no ONNX, and `OSError`."""
    with path.open("rb") as file:
        reader = _Reader(file)
        reader.model(os.fstat(file.fileno()).st_size)
        return reader.found


class _Reader:
    """Walks over one file. Each method reads the message that ends at `end` and leaves the file there."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.found = OnnxFile()

    def model(self, end: int) -> None:
        for number, value in self._fields(end):
            if number == 1:
                self.found.ir_version = value
            elif number == 7:
                self._graph(value, depth=0)
            elif number == 8:
                self._opset(value)
            elif number == 25:
                self._function(value)

    def _opset(self, end: int) -> None:
        domain, version = "", 0
        for number, value in self._fields(end):
            if number == 1:
                domain = self._text(value)
            elif number == 2:
                version = value
        self.found.opsets[domain] = version

    def _function(self, end: int) -> None:
        domain = name = ""
        for number, value in self._fields(end):
            if number == 1:
                name = self._text(value)
            elif number == 7:
                self._node(value, depth=1)
            elif number == 10:
                domain = self._text(value)
        self.found.functions.add((domain, name))

    def _graph(self, end: int, depth: int) -> None:
        if depth > _DEEPEST:
            raise ValueError(f"graphs lie in one another more than {_DEEPEST} times")
        for number, value in self._fields(end):
            if number == 1:
                self._node(value, depth)
            elif number == 5:
                self._tensor(value, is_nested=depth > 0)
            elif number == 15:
                self._sparse_tensor(value)
            elif number in (11, 12) and not depth:
                self._value(value)

    def _node(self, end: int, depth: int) -> None:
        inputs, outputs, operator, domain, labels = list[str](), list[str](), "", "", list[str]()
        for number, value in self._fields(end):
            if number == 1:
                inputs.append(self._text(value))
            elif number == 2:
                outputs.append(self._text(value))
            elif number == 4:
                operator = self._text(value)
            elif number == 5:
                labels += self._attribute(value, depth)
            elif number == 7:
                domain = self._text(value)
        self.found.operators.add(("" if domain == "ai.onnx" else domain, operator))
        if (domain, operator) == ("ai.onnx.ml", "ZipMap") and not depth and inputs and outputs:
            self.found.zip_maps[outputs[0]] = ZipMap(inputs[0], outputs[0], tuple(labels))

    def _attribute(self, end: int, depth: int) -> list[str]:
        """The class labels, where the attribute has them."""
        name, labels = "", list[str]()
        for number, value in self._fields(end):
            if number == 1:
                name = self._text(value)
            elif number in (5, 10):
                self._tensor(value, is_nested=True)
            elif number in (6, 11):
                self._graph(value, depth + 1)
            elif number == 22:
                self._sparse_tensor(value)
            elif name == "classlabels_strings" and number == 9:
                labels.append(self._text(value))
            elif name == "classlabels_int64s" and number == 8:
                labels += [str(number) for number in self._numbers(value)]
        return labels

    def _numbers(self, value: int) -> list[int]:
        """One number, or a packed list of them that ends there, as int64."""
        if self._wire == _VARINT:
            numbers = [value]
        else:
            numbers = []
            while self._file.tell() < value:
                numbers.append(self._varint())
        return [number - 2**64 if number >= 2**63 else number for number in numbers]

    def _sparse_tensor(self, end: int) -> None:
        for number, value in self._fields(end):
            if number in (1, 2):
                self._tensor(value, is_nested=True)

    def _tensor(self, end: int, *, is_nested: bool) -> None:
        location, is_external = "", False
        for number, value in self._fields(end):
            if number == 13:
                location = self._location(value) or location
            elif number == 14:
                is_external = value == _EXTERNAL
        if is_external:
            self.found.data_files.add(location)
            self.found.has_nested_data |= is_nested

    def _location(self, end: int) -> str:
        """The value of an entry with the key "location", "" for other keys."""
        texts = {number: self._text(value) for number, value in self._fields(end)}
        return texts.get(2, "") if texts.get(1) == "location" else ""

    def _value(self, end: int) -> None:
        name, has_shape = "", False
        for number, value in self._fields(end):
            if number == 1:
                name = self._text(value)
            elif number == 2:
                has_shape = self._has_shape(value)
        if not has_shape:
            self.found.unranked.add(name)

    def _has_shape(self, end: int) -> bool:
        return any(number == 1 and self._has_field(value, 2) for number, value in self._fields(end))

    def _has_field(self, end: int, wanted: int) -> bool:
        return any(number == wanted for number, _ in self._fields(end))

    def _fields(self, end: int) -> Iterator[tuple[int, int]]:
        """Each field's number with its value, or with where its content ends: the file is then at its beginning."""
        file = self._file
        while file.tell() < end:
            key = self._varint()
            self._wire = wire = key & 7
            if wire == _VARINT:
                yield key >> 3, self._varint()
            elif wire == _DELIMITED:
                size = self._varint()
                stop = file.tell() + size
                if stop > end:
                    raise ValueError("a field runs past the end of its message")
                yield key >> 3, stop
                file.seek(stop)
            elif wire in (_FIXED64, _FIXED32):
                file.seek(8 if wire == _FIXED64 else 4, os.SEEK_CUR)
            else:
                raise ValueError(f"wire type {wire} is not known")

    def _varint(self) -> int:
        number = shift = 0
        while True:
            byte = self._file.read(1)
            if not byte or shift > 63:
                raise ValueError("a number has no end")
            number |= (byte[0] & 0x7F) << shift
            if byte[0] < 0x80:
                return number
            shift += 7

    def _text(self, end: int) -> str:
        if self._wire != _DELIMITED:
            raise ValueError("a text is not one")
        size = end - self._file.tell()
        if size > _LONGEST_TEXT:
            raise ValueError(f"a name has {size} bytes")
        return self._file.read(size).decode(errors="replace")
