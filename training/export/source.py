"""What is to be exported: a published model by its name or folder, or any `.keras` file or SavedModel."""

import importlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import keras
import msgspec
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from millrace.artifacts import manifest
from millrace.artifacts.manifest import Batching, Manifest
from millrace.artifacts.repository import ModelRepository, RepositoryError
from millrace.artifacts.vocabulary import Vocabulary
from millrace.protocol.tensors import DEFAULT_SIGNATURE, Signature, TensorSpec, datatype_of
from training import parity
from training.export import given, shapes
from training.export.keras_model import answers_of, exports_of
from training.export.model import ExportError, Exports, Shapes, Trained, traced
from training.export.preparation import with_raw_inputs

REOPENED = {"sentiment": "training.sentiment", "word2vec": "training.word2vec"}  # from their ONNX file's weights
_ROWS = (1, 3, 32, 164)  # of the batches that formats are compared on
_MOST_REPRESENTATIVE = 500
_TESTED = 256  # rows of a batch that is scored


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a model is and what is known of it beside its file; paths and texts as the command's flags take them.

    `code` is a Python file that registers a Keras model's own classes. `trusts` allows `Lambda` layers, whose Python
    code is in the model's file and runs when it is opened. `shapes` are the sizes that formats are written for.
    """

    model: str
    models: Path = Path("models")
    signature: str = DEFAULT_SIGNATURE
    labels: Path | None = None
    code: Path | None = None
    trusts: bool = False
    shapes: Shapes = field(default_factory=dict)

    def open(self) -> Trained:
        """The model, without examples yet (see `with_data` and `trials`). Raises `ExportError`."""
        path = Path(self.model)
        if path.suffix in (".keras", ".h5") and path.is_file():
            trained = self._of_keras(path)
        elif (path / manifest.FILE_NAME).is_file():
            trained = self._published(path)
        elif (path / "saved_model.pb").is_file():
            trained = self._of_saved_model(path)
        else:
            trained = self._published(self._newest())
        if self.labels is not None:
            labels = tuple(self.labels.read_text(encoding="utf-8").splitlines())
            description = msgspec.structs.replace(trained.description, labels=labels)
            trained = replace(trained, description=description)
        return shapes.with_shapes(trained, self.shapes)

    def folder(self) -> Path | None:
        """The folder of a SavedModel or published model, None for a file."""
        path = Path(self.model)
        if path.is_file():
            return None
        return path if path.is_dir() else self._newest()

    def _newest(self) -> Path:
        try:
            versions = ModelRepository(self.models).models().get(self.model)
        except RepositoryError as error:
            raise ExportError(f"{self.model} is no .keras file, SavedModel or published model: {error}") from error
        if not versions:
            raise ExportError(
                f"{self.model} is no .keras file or SavedModel, and no model in {self.models} has that name"
            )
        return ModelRepository(self.models).folder(self.model, versions[-1])

    def _of_keras(self, path: Path) -> Trained:
        model = self.load_keras(path)
        exports = exports_of(model)
        description = _description(path.stem, shapes.for_data(exports, self.shapes))
        return Trained(description=description, exports=exports, answer=answers_of(model))

    def load_keras(self, path: Path) -> keras.Model:
        """The Keras model in a file. Raises `ExportError` for classes not known and code not trusted."""
        if self.code is not None:
            _run(self.code)
        try:
            return keras.saving.load_model(path, compile=False, safe_mode=not self.trusts)
        except (TypeError, ValueError, OSError) as error:
            if "safe_mode" in str(error) or "Lambda" in str(error):
                raise ExportError(
                    f"{path}: a Lambda layer holds Python code that would be run; if you trust the file, add --trust,"
                    " or replace the layer by one of keras.layers or keras.ops"
                ) from error
            if "Could not locate class" in str(error):
                name = str(error).partition("Could not locate class ")[2].partition(".")[0]
                raise ExportError(
                    f"{path}: the class {name} is the model's own; name the Python file that registers it"
                    " (@keras.saving.register_keras_serializable) with --code"
                ) from error
            raise ExportError(f"{path}: {str(error).strip().partition(chr(10))[0]}") from error

    def _of_saved_model(self, path: Path, description: Manifest | None = None) -> Trained:
        try:
            model = tf.saved_model.load(str(path))
            function = model.signatures[self.signature]
        except (OSError, ValueError, tf.errors.OpError) as error:
            raise ExportError(f"{path}: {str(error).partition(chr(10))[0]}") from error
        except KeyError:
            known = ", ".join(model.signatures) or "none"
            raise ExportError(f"{path}: there is no signature {self.signature!r}; there are: {known}") from None
        inputs = function.structured_input_signature[1]
        serve = traced(lambda **tensors: function(**tensors), {name: inputs[name] for name in sorted(inputs)})
        exports = Exports(
            function=serve,
            variables=[model],  # which keeps its variables, tables and files
            more_signatures={
                name: other
                for name, other in model.signatures.items()
                if name not in (self.signature, DEFAULT_SIGNATURE)  # which is what the chosen one is called
            },
        )
        named = description or _description(path.parent.name if path.name.isdigit() else path.name, exports)
        return Trained(description=named, exports=exports, answer=_answers(function, serve))

    def _published(self, folder: Path) -> Trained:
        try:
            description = manifest.read(folder)
            if description is not None:
                manifest.verify(folder, description)
        except manifest.ManifestError as error:
            raise ExportError(str(error)) from error
        if description is None:
            return self._of_saved_model(folder)
        path = folder / "vocabulary.txt"
        vocabulary = Vocabulary.read(path) if path.is_file() else None
        if (folder / "model.keras").is_file():
            model = self.load_keras(folder / "model.keras")
            exports, answer = exports_of(model), answers_of(model)
        elif description.name in REOPENED and (folder / "model.onnx").is_file():
            try:
                exports, answer = importlib.import_module(REOPENED[description.name]).reopened(folder)
            except (KeyError, ValueError) as error:
                raise ExportError(f"{folder / 'model.onnx'} is not what `millrace train` publishes: {error}") from error
        elif (folder / "saved_model.pb").is_file():
            trained = self._of_saved_model(folder, description)
            exports, answer = trained.exports, trained.answer
        else:
            raise ExportError(f"{folder} has neither model.keras nor saved_model.pb, which other formats are made from")
        exports = with_raw_inputs(exports, description, vocabulary)
        return Trained(description=description, exports=exports, answer=answer, vocabulary=vocabulary)


def _run(code: Path) -> None:
    spec = importlib.util.spec_from_file_location(code.stem, code)
    if spec is None or spec.loader is None or not code.is_file():
        raise ExportError(f"{code} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)


def _answers(signature: Any, function: Any) -> parity.Run:
    """The SavedModel's own signature, called by name; `function` says the types."""

    def run(batch: parity.Arrays) -> dict[str, npt.NDArray[Any]]:
        found = signature(**{spec.name: tf.constant(batch[spec.name], spec.dtype) for spec in function.input_signature})
        return {name: np.asarray(array) for name, array in found.items()}

    return run


def _description(name: str, exports: Exports) -> Manifest:
    """A manifest that says what can be read from the graph."""
    inputs = {spec.name: spec for spec in exports.function.input_signature}
    outputs = _outputs(exports)
    signature = Signature(inputs=tuple(_specs(inputs)), outputs=tuple(_specs(outputs)))
    is_batched = all(spec.shape[:1] == (-1,) for spec in (*signature.inputs, *signature.outputs))
    return Manifest(
        name=name,
        version=1,
        description=f"Exported from {name}",
        signatures={DEFAULT_SIGNATURE: signature},
        batching=Batching() if is_batched else Batching(max_batch_size=0),
    )


def _outputs(exports: Exports) -> Mapping[str, Any]:
    try:
        found: Mapping[str, Any] = exports.function.get_concrete_function().structured_outputs
    except Exception as error:  # whatever a layer raises for what it cannot be traced with
        free = [
            spec for spec in exports.function.input_signature if None in (spec.shape[1:] if spec.shape.rank else ())
        ]
        sizes = [",".join(["-1", *("SIZE" if n is None else str(n) for n in spec.shape[1:])]) for spec in free]
        flags = " ".join(f"--shape {spec.name}={size}" for spec, size in zip(free, sizes, strict=True))
        fix = f"; fix its free sizes: {flags}" if free else ""
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise ExportError(f"the model cannot be written as a graph: {reason}{fix}") from error
    return found


def _specs(tensors: Mapping[str, Any]) -> Iterator[TensorSpec]:
    for name, tensor in tensors.items():
        if tensor.shape.rank is None:
            raise ExportError(f"the tensor '{name}' has no known rank; give the model an Input with a shape")
        shape = tuple(-1 if size is None else size for size in tensor.shape)
        datatype = "BYTES" if tensor.dtype == tf.string else datatype_of(np.dtype(tensor.dtype.as_numpy_dtype))
        yield TensorSpec(name=name, datatype=datatype, shape=shape)


# Examples


def with_data(trained: Trained, data: str | None, representative: str | None, limit: int | None) -> Trained:
    """The same with examples that users give, in one of the forms of `given`.

    Formats are then compared on the first data's rows, at most `limit` of them, and scored where they have labels; full
    int8 is calibrated on the others'. Raises `ExportError`.
    """
    fixed = _fixed_rows(trained)
    if data is not None:
        inputs, labels = given.read(data, trained, limit)
        trained = replace(
            trained,
            batches=list(_cuts(inputs, (fixed,) * 8 if fixed else _ROWS)),
            compared_on=f"the first of {_named(data)}",
            tested=[] if labels is None else list(_tested(inputs, labels, fixed or _TESTED, is_fixed=bool(fixed))),
        )
        if not trained.batches:
            raise ExportError(f"{data} has fewer rows than the model takes at once: {fixed}")
    if representative is not None:
        inputs, _ = given.read(representative, trained, None)
        rows = list(_cuts(inputs, (fixed or 1,) * _MOST_REPRESENTATIVE))
        named = f"{len(rows) * (fixed or 1)} rows of {_named(representative)}"
        trained = replace(trained, representative=rows, representative_from=named)
    return trained


def _fixed_rows(trained: Trained) -> int | None:
    """How many rows the model takes at once, where it takes one number of them only."""
    shapes = [spec.shape for spec in trained.exports.function.input_signature]
    return next((shape[0] for shape in shapes if shape.rank and shape[0] is not None), None)


def _cuts(inputs: parity.Arrays, sizes: Sequence[int]) -> Iterator[parity.Arrays]:
    """The rows in parts of those sizes, as far as they go; where all are to be alike, without what is left."""
    start, count = 0, _count(inputs)
    for rows in sizes:
        if start >= count or (len(set(sizes)) == 1 and start + rows > count):
            return
        yield _cut(inputs, start, rows)
        start += rows


def _tested(
    inputs: parity.Arrays, labels: npt.NDArray[Any], size: int, *, is_fixed: bool
) -> Iterator[tuple[parity.Arrays, npt.NDArray[Any]]]:
    count = _count(inputs)
    for start in range(0, count // size * size if is_fixed else count, size):
        yield _cut(inputs, start, size), labels[start : start + size]


def _count(inputs: parity.Arrays) -> int:
    return len(next(iter(inputs.values())))


def _cut(inputs: parity.Arrays, start: int, rows: int) -> parity.Arrays:
    return {name: array[start : start + rows] for name, array in inputs.items()}


def _named(place: str) -> str:
    return Path(place).name
