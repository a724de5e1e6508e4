"""How many models of the zoo each format has: written, run in its own runtime, and equal to the model itself."""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.support import zoo

TARGETS = ("tensorflow", "onnx", "tflite", "tflite-fp16", "tflite-compiled", "coreml")
FINE = "equal"
Answer = Callable[[dict[str, Any]], Mapping[str, Any]]


def counted(name: str, targets: tuple[str, ...] = TARGETS) -> dict[str, str]:
    """For each of the targets `FINE`, or why not."""
    import keras

    model = zoo.made(name)
    found = {target: _tried(_CHECKS[target], model) for target in targets}
    keras.backend.clear_session()
    return found


def share(found: Mapping[str, Mapping[str, str]], target: str) -> float:
    """Of the models that TensorFlow runs in a graph, the share that the target has, from 0 to 1."""
    able = [row for row in found.values() if row["tensorflow"] == FINE]
    return sum(row[target] == FINE for row in able) / len(able)


def table(found: Mapping[str, Mapping[str, str]]) -> str:
    """The shares, and what is not fine by its model."""
    able = sum(row["tensorflow"] == FINE for row in found.values())
    lines = [f"{len(found)} models, of which TensorFlow runs {able} in a graph"]
    lines += [f"{target:12} {share(found, target):6.1%}" for target in TARGETS[1:]]
    for name, row in sorted(found.items()):
        lines += [f"{name:26} {target:12} {why[:160]}" for target, why in row.items() if why != FINE]
    return "\n".join(lines)


def _tried(check: Callable[[Any], str], model: Any) -> str:
    try:
        return check(model) or FINE
    except Exception as error:  # whatever it is, the model is not had in that format
        return " ".join(f"{type(error).__name__}: {error}".split())


def _compared(model: Any, answer: Answer, counts: tuple[int, ...], tolerance: float) -> str:
    from training.export.keras_model import answers_of, named_inputs

    names = list(named_inputs(model))
    is_free = all(tensor.shape[0] is None for tensor in model.inputs)
    for count in counts if is_free else (1,):
        batch = dict(zip(names, zoo.rows(model, count), strict=True))
        for output, wanted in answers_of(model)(batch).items():
            if difference := _difference(wanted, np.asarray(answer(batch)[output]), tolerance):
                return f"'{output}' of {count} rows {difference}"
    return ""


def _difference(wanted: npt.NDArray[Any], found: npt.NDArray[Any], tolerance: float) -> str:
    if wanted.shape != found.shape:
        return f"has the shape {found.shape}, not {wanted.shape}"
    if wanted.dtype.kind not in "fiub":
        return "" if (wanted == found).all() else "differs"
    wide, other = wanted.astype(np.float64), found.astype(np.float64)
    loose = 0.03 if wanted.dtype == np.float16 else tolerance
    is_equal = np.isclose(wide, other, rtol=loose, atol=loose, equal_nan=True)
    return "" if is_equal.all() else f"differs by {np.nanmax(np.abs(wide - other)):.3g}"


def _tolerance(model: Any) -> float:
    """A model in 16 bits rounds by more than its exports in 32."""
    policies = [layer.dtype_policy.name for layer in model.layers if hasattr(layer, "dtype_policy")]
    return 0.03 if any("16" in policy for policy in policies) else 1e-4


def _tensorflow(model: Any) -> str:
    import tensorflow as tf

    from training.export.keras_model import exports_of
    from training.export.saved_model import write_saved_model

    with tempfile.TemporaryDirectory() as folder:
        write_saved_model(exports_of(model), Path(folder))
        loaded = tf.saved_model.load(folder)
        serve = loaded.signatures["serving_default"]

        def answer(batch: dict[str, Any]) -> dict[str, Any]:
            found = serve(**{name: tf.constant(array) for name, array in batch.items()})
            return {
                name: tf.cast(value, tf.float32).numpy() if value.dtype == tf.bfloat16 else value.numpy()
                for name, value in found.items()
            }

        return _compared(model, answer, (3,), _tolerance(model))


def _onnx(model: Any) -> str:
    import onnxruntime

    from training.export.keras_model import exports_of
    from training.export.onnx_graph import onnx_of

    content = onnx_of(exports_of(model)).SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def answer(batch: dict[str, Any]) -> dict[str, Any]:
        return dict(zip(names, session.run(None, batch), strict=True))

    return _compared(model, answer, (1, 3), _tolerance(model))


def _tflite(variant: str, tolerance: float) -> Callable[[Any], str]:
    def check(model: Any) -> str:
        from ai_edge_litert.interpreter import Interpreter

        from training.export import lite
        from training.export.keras_model import exports_of

        exports = exports_of(model)
        interpreter = Interpreter(model_content=lite.convert(exports, variant), num_threads=1)
        counts = (1, 3) if exports.lite_function is None else (1,)

        def answer(batch: dict[str, Any]) -> dict[str, Any]:
            found: dict[str, Any] = interpreter.get_signature_runner("serving_default")(**batch)
            return found

        return _compared(model, answer, counts, max(tolerance, _tolerance(model)))

    return check


def _compiled(model: Any) -> str:
    from millrace.artifacts.manifest import Manifest
    from training import parity
    from training.export import shapes
    from training.export.formats import FORMATS
    from training.export.keras_model import answers_of, exports_of, named_inputs
    from training.export.model import Trained

    trained = Trained(description=Manifest(name="zoo", version=1), exports=exports_of(model), answer=answers_of(model))
    rows = dict(zip(named_inputs(model), zoo.rows(model, 1), strict=True))
    fixed = shapes.sized(trained, {name: array.shape for name, array in rows.items()}, fuses=False)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        FORMATS["tflite-compiled"].write(fixed, path)
        return _compared(model, parity.compiled(path), (1,), _tolerance(model))


def _coreml(model: Any) -> str:
    from training.export import coreml
    from training.export.keras_model import exports_of
    from training.export.onnx_graph import onnx_of

    coreml.converted(onnx_of(exports_of(model)))
    return ""  # its numbers are checked on macOS only


_CHECKS: dict[str, Callable[[Any], str]] = {
    "tensorflow": _tensorflow,
    "onnx": _onnx,
    "tflite": _tflite("float32", 1e-4),
    "tflite-fp16": _tflite("float16", 0.03),
    "tflite-compiled": _compiled,
    "coreml": _coreml,
}
