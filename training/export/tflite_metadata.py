"""TFLite's own metadata, which MediaPipe's tasks and Android Studio's model binding read: the buffer TFLITE_METADATA.

It says what each tensor is: which input is an image, of which size and colours and how its pixels are normalised, and
which of the files packed behind the model are an output's labels. The schema is metadata_schema.fbs, version 1.1.0, of
github.com/tensorflow/tflite-support (tensorflow_lite_support/metadata); numbers below are places of fields in its
tables and of types in its unions. The library that wrote it has no releases for the Pythons of these years.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from millrace.artifacts.manifest import Manifest
from millrace.protocol.tensors import DEFAULT_SIGNATURE
from training.export.metadata import LABELS, VOCABULARY

NAME, IDENTIFIER = "TFLITE_METADATA", b"M001"
_FEATURE, _IMAGE, _NORMALISATION = 1, 2, 1  # of the unions ContentProperties and ProcessUnitOptions
_COLOURS = {1: 2, 3: 1}  # ColorSpaceType by channels
_AXIS_LABELS, _VOCABULARY = 2, 5  # AssociatedFileType
_PARSER = "1.0.1"  # the least version that knows all of it


@dataclass(frozen=True, slots=True)
class _Table:
    """A table to be written: by the places of its fields, texts, tables, lists of either, arrays, or (kind, number)."""

    fields: Mapping[int, Any] = field(default_factory=dict)

    def write(self, builder: flatbuffers.Builder) -> int:
        """Where it is in the buffer; what it refers to comes first."""
        offsets = {place: _written(value, builder) for place, value in self.fields.items() if not _is_number(value)}
        builder.StartObject(max(self.fields, default=-1) + 1)
        for place, value in self.fields.items():
            if _is_number(value):
                getattr(builder, f"Prepend{value[0]}Slot")(place, value[1], 0)
            else:
                builder.PrependUOffsetTRelativeSlot(place, offsets[place], 0)
        return int(builder.EndObject())


def with_metadata(model: bytes, description: Manifest, *, images: Sequence[str], files: Sequence[str]) -> bytes:
    """The TFLite model with that buffer. `images` are inputs of pixels from 0 to 255; `files` are packed behind it."""
    parsed = schema.ModelT.InitFromPackedBuf(model, 0)
    builder = flatbuffers.Builder(1024)
    builder.Finish(_metadata(parsed, description, images, files).write(builder), file_identifier=IDENTIFIER)
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = np.frombuffer(bytes(builder.Output()), np.uint8)
    entry.name, entry.buffer = NAME, len(parsed.buffers)
    parsed.buffers.append(buffer)
    parsed.metadata = [*(parsed.metadata or []), entry]
    whole = flatbuffers.Builder(len(model))
    whole.Finish(parsed.Pack(whole), file_identifier=b"TFL3")
    return bytes(whole.Output())


def _metadata(model: Any, description: Manifest, images: Sequence[str], files: Sequence[str]) -> _Table:
    graph, names = model.subgraphs[0], _names(model)
    inputs = [_input(names.get(each, ""), graph.tensors[each], images, files) for each in graph.inputs]
    labelled = _labelled(description, [names.get(each, "") for each in graph.outputs]) if LABELS in files else ""
    outputs = [_output(names.get(each, ""), labelled) for each in graph.outputs]
    fields = {0: description.name, 1: description.description, 2: str(description.version)}
    return _Table({**fields, 3: [_Table({2: inputs, 3: outputs})], 7: _PARSER})


def _names(model: Any) -> dict[int, str]:
    """What the signature calls tensors, by their numbers."""
    found = model.signatureDefs[0]
    return {each.tensorIndex: _text(each.name) for each in (*found.inputs, *found.outputs)}


def _text(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else name


def _input(name: str, tensor: Any, images: Sequence[str], files: Sequence[str]) -> _Table:
    if name in images:
        _, height, width, channels = (int(size) for size in _sizes(tensor))
        size = {1: _Table({0: ("Uint32", width), 1: ("Uint32", height)})} if min(height, width) > 0 else {}
        properties = _Table({0: ("Int8", _COLOURS[channels]), **size})
        unchanged = _Table({0: np.array([0], np.float32), 1: np.array([1], np.float32)})  # the graph does the rest
        units = [_Table({0: ("Uint8", _NORMALISATION), 1: unchanged})]
        stats = _Table({0: np.array([255], np.float32), 1: np.array([0], np.float32)})
        return _Table({0: name, 3: _Table({0: ("Uint8", _IMAGE), 1: properties}), 4: units, 5: stats})
    is_ids = np.issubdtype(_TYPES.get(tensor.type, np.float32), np.integer)
    listed = {6: [_file(VOCABULARY, _VOCABULARY)]} if is_ids and VOCABULARY in files else {}
    return _Table({0: name, 3: _feature(), **listed})


def _sizes(tensor: Any) -> Any:
    return tensor.shape if tensor.shapeSignature is None else tensor.shapeSignature


_TYPES: Mapping[int, Any] = {schema.TensorType.INT32: np.int32, schema.TensorType.INT64: np.int64}


def _output(name: str, labelled: str) -> _Table:
    listed = {6: [_file(LABELS, _AXIS_LABELS)]} if name == labelled else {}
    return _Table({0: name, 3: _feature(), **listed})


def _labelled(description: Manifest, outputs: Sequence[str]) -> str:
    """The output that has a column for each label: the first, or the only output."""
    signature = description.signatures.get(DEFAULT_SIGNATURE)
    fits = (
        [spec.name for spec in signature.outputs if spec.shape[-1:] == (len(description.labels),)] if signature else []
    )
    return next(iter(fits), outputs[0] if len(outputs) == 1 else "")


def _feature() -> _Table:
    return _Table({0: ("Uint8", _FEATURE), 1: _Table()})


def _file(name: str, kind: int) -> _Table:
    return _Table({0: name, 2: ("Int8", kind)})


# Buffers


def _is_number(value: Any) -> bool:
    return isinstance(value, tuple)


def _written(value: Any, builder: flatbuffers.Builder) -> int:
    match value:
        case str():
            return int(builder.CreateString(value))
        case _Table():
            return value.write(builder)
        case np.ndarray():
            return int(builder.CreateNumpyVector(value))
    offsets = [_written(each, builder) for each in value]
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())
