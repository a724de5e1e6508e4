"""Labels and vocabularies that are packed in a TFLite file.

The files lie in a zip archive behind the model. What they are for says a FlatBuffer in the model's metadata, by the
schema of TensorFlow Lite Metadata (`ModelMetadata`, which MediaPipe and Task Library use); some files have an archive
without that description.
"""

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from flatbuffers import number_types
from flatbuffers.encode import Get
from flatbuffers.table import Table

from worker.backends import classnames

ENTRY = "TFLITE_METADATA"  # the description's name in the model's metadata
_LARGEST = 2**24  # bytes of one packed file; a vocabulary of 250,000 words has 4 MB
_MOST_ITEMS = 1000  # of any list in the description
# AssociatedFileType
_AXIS_LABELS, _VALUE_LABELS, _VOCABULARY = 2, 3, 5
# ProcessUnitOptions
_NORMALIZATION, _BERT_TOKENIZER, _SENTENCEPIECE_TOKENIZER, _REGEX_TOKENIZER = 1, 4, 5, 6
_TOKENIZERS = {
    _BERT_TOKENIZER: "a BERT tokenizer",
    _SENTENCEPIECE_TOKENIZER: "a SentencePiece tokenizer",
    _REGEX_TOKENIZER: "a tokenizer by a regular expression",
}
_ENGLISH = ("", "en", "en-us")


@dataclass(slots=True)
class Packed:
    """What is packed in a file: the names of classes, and sentences about the rest and on how inputs are prepared."""

    labels: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _File:
    name: str
    kind: int
    locale: str
    tensor: str = ""


def read(content: bytes, description: bytes, inputs: Sequence[str], outputs: Sequence[str]) -> Packed:
    """What is packed in the file with this content, whose metadata has this description (which may be empty).

    `inputs` and `outputs` are the names that callers know, in the file's order. Raises `ValueError` where the
    description or the archive is damaged.
    """
    packed = Packed()
    try:
        files = list(_Description(description, inputs, outputs, packed.notes).files()) if description else []
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            _read_files(archive, files, packed)
    except zipfile.BadZipFile:  # there is no archive behind the model
        return packed
    except (struct.error, LookupError, TypeError, RuntimeError, OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    return packed


def _read_files(archive: zipfile.ZipFile, files: list[_File], packed: Packed) -> None:
    """Add the labels and vocabularies of the archive. Without a description, names say what files are."""
    names = archive.namelist()[:_MOST_ITEMS]
    described = {file.name: file for file in sorted(files, key=lambda file: file.locale.lower() not in _ENGLISH)}
    for name in [*(name for name in described if name in names), *(name for name in names if name not in described)]:
        file = described.get(name) or _File(name, _kind(name), "")
        if file.kind in (_AXIS_LABELS, _VALUE_LABELS):
            lines = _lines(archive, name)
            packed.labels = packed.labels or lines
            of = f" of {file.tensor}" if file.tensor else ""
            packed.notes.append(f"The file holds {len(lines)} label{'s'[: len(lines) != 1]}{of} in {name}.")
        elif file.kind == _VOCABULARY:
            packed.notes.append(f"The file holds a vocabulary of {len(_lines(archive, name))} lines in {name}.")
        elif labels := _class_names(archive, name):
            packed.labels = packed.labels or labels
            packed.notes.append(f"The file holds {len(labels)} label{'s'[: len(labels) != 1]} in {name}.")
        else:
            packed.notes.append(f"The file holds {name}.")


def _kind(name: str) -> int:
    """What a file is that no description names."""
    if not name.endswith(".txt"):
        return 0
    return _AXIS_LABELS if "label" in name.lower() else _VOCABULARY if "vocab" in name.lower() else 0


def _class_names(archive: zipfile.ZipFile, name: str) -> tuple[str, ...]:
    """The names of classes in a file of metadata."""
    if "meta" not in name.lower() or not name.endswith((".txt", ".json")):
        return ()
    return classnames.of_document(_text(archive, name))


def _lines(archive: zipfile.ZipFile, name: str) -> tuple[str, ...]:
    lines = _text(archive, name).splitlines()
    while lines and not lines[-1].strip():
        lines.pop()
    return tuple(line.strip() for line in lines)


def _text(archive: zipfile.ZipFile, name: str) -> str:
    with archive.open(name) as file:
        text = file.read(_LARGEST + 1)
    if len(text) > _LARGEST:
        raise ValueError(f"{name} has more than {_LARGEST} bytes")
    return text.decode("utf-8-sig", errors="replace")


class _Description:
    """A `ModelMetadata`; fields are named by their number in the schema."""

    def __init__(self, content: bytes, inputs: Sequence[str], outputs: Sequence[str], notes: list[str]) -> None:
        self._model = _Fields.root(content)
        self._inputs = inputs
        self._outputs = outputs
        self._notes = notes

    def files(self) -> Iterator[_File]:
        """The files that it names. What it says of inputs goes to the notes."""
        yield from _files(self._model, 6)
        for graph in self._model.tables(3):
            for tensor in graph.tables(3):
                yield from _files(tensor, 6, _name("output", tensor, self._outputs))
            for tensor in graph.tables(2):
                yield from _files(tensor, 6)
                yield from self._steps(tensor.tables(4), _name("input", tensor, self._inputs))
            yield from _files(graph, 4)
            yield from self._steps(graph.tables(5), "the inputs")

    def _steps(self, units: "Iterator[_Fields]", made: str) -> Iterator[_File]:
        """The files of the steps that make inputs. Callers take these steps; Millrace does not know them."""
        for unit in units:
            kind, options = unit.byte(0), unit.table(1)
            if kind == _NORMALIZATION and options:
                mean, std = options.floats(0), options.floats(1)
                if mean and std and (set(mean), set(std)) != ({0.0}, {1.0}):
                    self._notes.append(
                        f"By the file's metadata, {made} is (value - {_short(mean)}) / {_short(std)} of the raw data."
                    )
            elif kind in _TOKENIZERS and options:
                self._notes.append(f"By the file's metadata, {_TOKENIZERS[kind]} makes {made} of text.")
                yield from _files(options, 0 if kind == _BERT_TOKENIZER else 1, kind=_VOCABULARY)


def _name(kind: str, described: "_Fields", names: Sequence[str]) -> str:
    """What a note calls a tensor: the description has names of its own, and not always the file's order."""
    return f"{kind} '{names[0]}'" if len(names) == 1 else f"the {kind} that it calls '{described.text(0)}'"


def _files(table: "_Fields", number: int, tensor: str = "", kind: int = 0) -> Iterator[_File]:
    for file in table.tables(number):
        yield _File(file.text(0), file.byte(2) or kind, file.text(3), tensor)


def _short(numbers: list[float]) -> str:
    return f"{numbers[0]:g}" if len(set(numbers)) == 1 else "[" + ", ".join(f"{number:g}" for number in numbers) + "]"


class _Fields:
    """A table of a FlatBuffer, whose fields are read by their number in the schema."""

    def __init__(self, content: bytes, position: int) -> None:
        self._table = Table(content, position)

    @classmethod
    def root(cls, content: bytes) -> "_Fields":
        return cls(content, int(Get(number_types.UOffsetTFlags.packer_type, content, 0)))

    def text(self, number: int) -> str:
        at = self._at(number)
        value: Any = self._table.String(at) if at else b""
        return str(value.decode(errors="replace"))

    def byte(self, number: int) -> int:
        at = self._at(number)
        return int(self._table.Get(number_types.Int8Flags, at)) if at else 0

    def floats(self, number: int) -> list[float]:
        return [float(self._table.Get(number_types.Float32Flags, at)) for at in self._items(number, 4)]

    def table(self, number: int) -> "_Fields | None":
        at = self._at(number)
        return _Fields(self._table.Bytes, self._table.Indirect(at)) if at else None

    def tables(self, number: int) -> "Iterator[_Fields]":
        for at in self._items(number, 4):
            yield _Fields(self._table.Bytes, self._table.Indirect(at))

    def _items(self, number: int, size: int) -> Iterator[int]:
        """Where each item of a list lies."""
        if offset := self._table.Offset(4 + 2 * number):
            first = self._table.Vector(offset)
            yield from (first + size * i for i in range(min(_MOST_ITEMS, self._table.VectorLen(offset))))

    def _at(self, number: int) -> int:
        """Where the field lies, 0 where the table lacks it."""
        offset = self._table.Offset(4 + 2 * number)
        return int(offset) + int(self._table.Pos) if offset else 0
