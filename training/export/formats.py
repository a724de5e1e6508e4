"""The formats that a model can be written in: each with its file, how it is written and what runs it here."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from training import parity
from training.export import lite, metadata, shapes
from training.export.model import ExportError, Shapes, Trained
from training.export.onnx_graph import onnx_of, write_onnx
from training.export.saved_model import write_saved_model


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One format. `file` is its place in a version's folder; a SavedModel is the folder itself.

    `write` raises `ExportError`. `open` gets what was written ready to run, in the runtime that serves it; None where
    none runs here. An `exact` format keeps the weights' 32 bits; see `parity`. `is_fixed` says that no size is free,
    and no LSTM fused, whose operator keeps a variable.
    """

    title: str
    file: str
    exact: bool
    write: Callable[[Trained, Path], None]
    open: Callable[[Path], parity.Run] | None
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


def _saved_model(trained: Trained, folder: Path) -> None:
    write_saved_model(trained.exports, folder)


def _onnx(trained: Trained, path: Path) -> None:
    write_onnx(onnx_of(trained.exports), path)


def _tflite(variant: str, trained: Trained, path: Path) -> None:
    model = lite.convert(trained.exports, variant, trained.representative)
    path.write_bytes(metadata.pack(model, metadata.files_of(trained.description, trained.vocabulary)))


def _coreml(trained: Trained, path: Path) -> None:
    with lite.quiet():
        coreml: Any = importlib.import_module("training.export.coreml")  # coremltools takes seconds to import
    coreml.write_coreml(onnx_of(trained.exports), path, trained.description)


def _lite(variant: str, title: str, file: str) -> Format:
    return Format(
        title=title, file=file, exact=variant == "float32", write=partial(_tflite, variant), open=parity.tflite
    )


FORMATS: Mapping[str, Format] = {
    "savedmodel": Format(title="SavedModel", file="", exact=True, write=_saved_model, open=parity.saved_model),
    "onnx": Format(title="ONNX", file="model.onnx", exact=True, write=_onnx, open=parity.onnx),
    "tflite": _lite("float32", "TFLite", "model.tflite"),
    "tflite-fp16": _lite("float16", "TFLite, float16 weights", "model.float16.tflite"),
    "tflite-dynamic": _lite("dynamic", "TFLite, int8 weights", "model.dynamic.tflite"),
    "tflite-int8": _lite("int8", "TFLite, full int8", "model.int8.tflite"),
    "tflite-compiled": Format(
        title="TFLite, fixed sizes",
        file="model.compiled.tflite",
        exact=True,
        write=partial(_tflite, "float32"),
        open=parity.compiled,
        is_fixed=True,
    ),
    "coreml": Format(title="Core ML", file="model.mlpackage", exact=True, write=_coreml, open=None),
}
ALIASES = {"tflite-dynamic-range": "tflite-dynamic"}


def chosen(text: str) -> list[str]:
    """The formats of a list such as `onnx,tflite`; `all` is every one. Raises `ExportError` for a name that is none."""
    names = list(FORMATS) if text == "all" else [ALIASES.get(name, name) for name in text.split(",")]
    for name in names:
        if name not in FORMATS:
            raise ExportError(f"there is no format {name!r}; there are {', '.join(FORMATS)} and all")
    return list(dict.fromkeys(names))
