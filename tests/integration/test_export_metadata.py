"""The metadata in TFLite files, read by the schema's places as MediaPipe's and Android's readers do."""

import io
import zipfile
from pathlib import Path
from typing import Any

import flatbuffers
import pytest
from flatbuffers.table import Table

from millrace.artifacts.manifest import DecodeImage, Manifest, Tokenize
from millrace.artifacts.vocabulary import Vocabulary
from millrace.protocol.tensors import Signature, TensorSpec

keras = pytest.importorskip("keras")
from ai_edge_litert import schema_py_generated as schema  # noqa: E402 - after the skip where it is not installed

from training.export import exporting  # noqa: E402
from training.export.keras_model import answers_of, exports_of  # noqa: E402
from training.export.model import Trained  # noqa: E402

L: Any = keras.layers


class Read:
    """A table of a FlatBuffer, whose fields are read by their places."""

    def __init__(self, content: bytes, place: int) -> None:
        self._table = Table(bytearray(content), place)

    def _at(self, field: int) -> int:
        offset = int(self._table.Offset(4 + 2 * field))
        return offset and offset + int(self._table.Pos)

    def text(self, field: int) -> str:
        return bytes(self._table.String(self._at(field))).decode()

    def number(self, field: int, kind: Any = flatbuffers.number_types.Uint8Flags) -> int:
        return int(self._table.Get(kind, at)) if (at := self._at(field)) else 0

    def table(self, field: int) -> "Read":
        return Read(self._table.Bytes, self._table.Indirect(self._at(field)))

    def tables(self, field: int) -> list["Read"]:
        if not self._at(field):
            return []
        offset = self._at(field) - self._table.Pos
        start = self._table.Vector(offset)
        places = range(start, start + 4 * self._table.VectorLen(offset), 4)
        return [Read(self._table.Bytes, self._table.Indirect(place)) for place in places]

    def floats(self, field: int) -> list[float]:
        offset = self._at(field) - self._table.Pos
        found = self._table.GetVectorAsNumpy(flatbuffers.number_types.Float32Flags, offset)
        return [float(number) for number in found]


def _metadata(content: bytes) -> Read:
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    (entry,) = [entry for entry in model.metadata if entry.name == b"TFLITE_METADATA"]
    buffer = bytes(model.buffers[entry.buffer].data)
    assert buffer[4:8] == b"M001"
    return Read(buffer, int.from_bytes(buffer[:4], "little"))


def _written(model: Any, step: Any, given: TensorSpec, folder: Path, vocabulary: Vocabulary | None = None) -> bytes:
    labels = ("one", "two", "three")
    outputs = (TensorSpec(name="kind", datatype="FP32", shape=(-1, 3)),)
    description = Manifest(
        name="mine",
        version=2,
        description="Says what it is",
        signatures={"serving_default": Signature(inputs=(given,), outputs=outputs)},
        preprocessing=(step,),
        labels=labels,
    )
    trained = Trained(
        description=description, exports=exports_of(model), answer=answers_of(model), vocabulary=vocabulary
    )
    (row,) = exporting.tried(trained, ["tflite"], folder, is_timed=False).rows[1:]
    assert row.missed == ""
    return (folder / row.file).read_bytes()


def test_an_image_has_its_size_and_normalisation_and_the_answers_their_labels(tmp_path: Path) -> None:
    image = L.Input((6, 8, 3), name="image")
    answer = L.Dense(3, activation="softmax", name="kind")(L.Flatten()(L.Rescaling(1 / 255)(image)))
    given = TensorSpec(name="image", datatype="FP32", shape=(-1, 6, 8, 3), media="image")
    content = _written(keras.Model(image, answer), DecodeImage(input="image"), given, tmp_path)

    found = _metadata(content)
    (graph,) = found.tables(3)
    (pixels,), (kind,) = graph.tables(2), graph.tables(3)

    assert [found.text(field) for field in (0, 1, 2)] == ["mine", "Says what it is", "2"]
    assert (pixels.text(0), kind.text(0)) == ("image", "kind")
    content_of = pixels.table(3)
    size = content_of.table(1).table(1)
    kinds = flatbuffers.number_types.Uint32Flags
    assert (content_of.number(0), content_of.table(1).number(0)) == (2, 1)  # an image, in colours
    assert (size.number(0, kinds), size.number(1, kinds)) == (8, 6)
    (unit,) = pixels.tables(4)
    assert (unit.number(0), unit.table(1).floats(0), unit.table(1).floats(1)) == (1, [0.0], [1.0])
    (labels,) = kind.tables(6)
    assert (labels.text(0), labels.number(2)) == ("labels.txt", 2)
    with zipfile.ZipFile(io.BytesIO(content)) as packed:
        assert packed.read("labels.txt").decode().split() == ["one", "two", "three"]


@pytest.mark.slow
def test_words_have_their_vocabulary(tmp_path: Path) -> None:
    ids = L.Input((4,), dtype="int32", name="ids")
    pooled = L.GlobalAveragePooling1D()(L.Embedding(5, 3)(ids))
    step = Tokenize(input="text", output="ids", max_length=4)
    given = TensorSpec(name="text", datatype="BYTES", shape=(-1,))
    model = keras.Model(ids, L.Dense(3, activation="softmax", name="kind")(pooled))
    words = Vocabulary(["<pad>", "<unk>", "a", "good", "film"])

    (graph,) = _metadata(_written(model, step, given, tmp_path, words)).tables(3)

    (words_of,) = graph.tables(2)[0].tables(6)
    assert (words_of.text(0), words_of.number(2)) == ("vocabulary.txt", 5)
