"""The formats that a model can be written in: each with its file, how it is written and what runs it here."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import tensorflow as tf

from training import parity
from training.export import lite, metadata, precision, shapes, trials
from training.export.model import Choices, ExportError, Shapes, Trained, Written
from training.export.onnx_graph import onnx_of, write_onnx
from training.export.saved_model import write_saved_model
from training.export.tflite_metadata import with_metadata


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One format. `file` is its place in a version's folder; a SavedModel is the folder itself.

    `write` raises `ExportError`. `open` gets what was written ready to run, in the runtime that serves it. An `exact`
    format keeps the weights' 32 bits; see `parity`. `is_fixed` says that no size is free, and no LSTM fused, whose
    operator keeps a variable.
    """

    title: str
    file: str
    exact: bool
    write: Callable[[Trained, Path], Written]
    open: Callable[[Path], parity.Run]
    is_fixed: bool = False

    def shapes(self, trained: Trained) -> Shapes:
        """The sizes that it is written for. Raises `ExportError` where one is free that must not be."""
        return shapes.all_fixed(trained) if self.is_fixed else trained.shapes

    def sized(self, trained: Trained) -> Trained:
        """The model as `write` takes it, for those sizes."""
        return shapes.sized(trained, self.shapes(trained), fuses=not self.is_fixed)

    def size_bytes(self, folder: Path) -> int:
        """The size of what was written into the folder."""
        path = folder / self.file
        if path.is_file():
            return path.stat().st_size
        parts = [folder / "saved_model.pb", *folder.glob("variables/*")] if not self.file else path.rglob("*")
        return sum(part.stat().st_size for part in parts if part.is_file())


def _saved_model(trained: Trained, folder: Path) -> Written:
    write_saved_model(trained.exports, folder)
    return Written()


def _onnx(trained: Trained, path: Path) -> Written:
    write_onnx(onnx_of(trained.exports), path)
    return Written()


def _tflite(variant: str, trained: Trained, path: Path) -> Written:
    model = lite.chosen(trained.exports, variant, trained.representative, trained.choices)
    files = metadata.files_of(trained.description, trained.vocabulary)
    content = with_metadata(model.content, trained.description, images=trials.images(trained), files=list(files))
    path.write_bytes(metadata.pack(content, files))
    if model.flex:
        return Written(note=f"needs the Flex delegate for {', '.join(model.flex)}; not compared", runs_here=False)
    return Written(note=f"in 32 bits: {', '.join(model.kept)}" if model.kept else "")


def _compiled(trained: Trained, path: Path) -> Written:
    """Runtimes of fixed sizes take 32 bits at both ends, and no operators of TensorFlow's."""
    function = trained.exports.function
    kinds = {tf.int64: tf.int32, tf.float64: tf.float32}
    if any(spec.dtype == tf.string for spec in function.input_signature):
        raise ExportError("CompiledModel and LiteRT.js take no texts: let the model take ids")
    exports = replace(trained.exports, function=precision.at_the_ends(function, kinds))
    return _tflite("float32", replace(trained, exports=exports, choices=Choices()), path)


def _coreml(trained: Trained, path: Path) -> Written:
    with lite.quiet():
        coreml: Any = importlib.import_module("training.export.coreml")  # coremltools takes seconds to import
    coreml.write_coreml(onnx_of(trained.exports), path, trained.description)
    return Written(note="written and its structure checked; its numbers can be checked on macOS only", runs_here=False)


def _not_here(path: Path) -> parity.Run:
    raise ExportError(f"{path.name} runs on macOS only")


def _lite(variant: str, title: str, file: str, *, is_fixed: bool = False) -> Format:
    return Format(
        title=title,
        file=file,
        exact=variant == "float32",
        write=partial(_tflite, variant),
        open=parity.tflite,
        is_fixed=is_fixed,
    )


FORMATS: Mapping[str, Format] = {
    "savedmodel": Format(title="SavedModel", file="", exact=True, write=_saved_model, open=parity.saved_model),
    "onnx": Format(title="ONNX", file="model.onnx", exact=True, write=_onnx, open=parity.onnx),
    "tflite": _lite("float32", "TFLite", "model.tflite"),
    "tflite-fp16": _lite("float16", "TFLite, float16 weights", "model.float16.tflite"),
    "tflite-dynamic": _lite("dynamic", "TFLite, int8 weights", "model.dynamic.tflite"),
    "tflite-int8": _lite("int8", "TFLite, full int8", "model.int8.tflite"),
    "tflite-int8-io": _lite("int8-io", "TFLite, int8 inputs and outputs", "model.int8-io.tflite", is_fixed=True),
    "tflite-16x8": _lite("16x8", "TFLite, 16-bit numbers, 8-bit weights", "model.16x8.tflite"),
    "tflite-compiled": Format(
        title="TFLite, fixed sizes",
        file="model.compiled.tflite",
        exact=True,
        write=_compiled,
        open=parity.compiled,
        is_fixed=True,
    ),
    "coreml": Format(title="Core ML", file="model.mlpackage", exact=True, write=_coreml, open=_not_here),
}
CALIBRATED = {"tflite-int8", "tflite-int8-io", "tflite-16x8"}
ALIASES = {"tflite-dynamic-range": "tflite-dynamic"}


def chosen(text: str) -> list[str]:
    """The formats of a list such as `onnx,tflite`; `all` is every one. Raises `ExportError` for a name that is none."""
    names = list(FORMATS) if text == "all" else [ALIASES.get(name, name) for name in text.split(",")]
    for name in names:
        if name not in FORMATS:
            raise ExportError(f"there is no format {name!r}; there are {', '.join(FORMATS)} and all")
    return list(dict.fromkeys(names))
