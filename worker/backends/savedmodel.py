"""TensorFlow SavedModels, by TensorFlow."""

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# TensorFlow reads this when it is imported. It writes its warnings to standard error by itself, with what callers sent
# in them; the exceptions say the same. An operator's own value stays.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import tensorflow as tf

from millrace.protocol.errors import InvalidRequest, ModelFailed
from millrace.protocol.tensors import Signature, TensorSpec, datatype_of
from worker.backends.base import Arrays, Device, LoadError
from worker.backends.texts import place, public


class SavedModelBackend:
    """A loaded SavedModel; its signatures may be run from several threads."""

    platform = "tensorflow_savedmodel"
    fault = ""
    notes: Sequence[str] = ()
    mixed_rows: Mapping[str, str] = {}

    def __init__(self, model: Any, device: str) -> None:
        self._model = model  # the functions below do not keep the model's variables alive
        self._functions = dict(model.signatures)
        self._device = device
        self.signatures = {name: _signature(function) for name, function in self._functions.items()}

    def run(self, signature: str, inputs: Arrays) -> Arrays:
        """See `Backend`. Like TensorFlow Serving, blames the request where an operation blames its argument."""
        try:
            with tf.device(self._device):
                outputs = self._functions[signature](**{name: tf.constant(array) for name, array in inputs.items()})
        except (tf.errors.InvalidArgumentError, tf.errors.OutOfRangeError) as error:
            raise InvalidRequest(_reason(error)) from error
        except tf.errors.OpError as error:
            raise ModelFailed(f"TensorFlow: {_reason(error)}") from error
        return {name: tensor.numpy() for name, tensor in outputs.items()}

    def close(self) -> None:
        """See `Backend`."""
        self._model, self._functions = None, {}


def load(folder: Path, device: Device) -> SavedModelBackend:
    """The SavedModel in the folder. Raises `LoadError`."""
    if device.kind == "cuda" and not tf.config.list_physical_devices("GPU"):
        raise LoadError("CUDA was asked for, and TensorFlow found no usable GPU")
    _limit_threads(device.threads)
    _log_as_we_do()
    try:
        model = tf.saved_model.load(str(folder))
    except (OSError, ValueError, tf.errors.OpError) as error:
        raise LoadError(f"{place(folder)}: {public(str(error), folder)}") from error
    if not model.signatures:
        raise LoadError(f"{place(folder)}: the SavedModel has no signatures; export it with one")
    return SavedModelBackend(model, "/GPU:0" if device.kind == "cuda" else "/CPU:0")


def _reason(error: Any) -> str:
    """What the operation says, out of the stack before it and the node's name after it."""
    return public(error.message.partition("\n\t [[")[0].strip().rpartition("\n")[2])


def _log_as_we_do() -> None:
    """Lead what TensorFlow's Python part logs to our handlers, in our form."""
    logger = tf.get_logger()
    logger.handlers.clear()
    logger.propagate = True


def _limit_threads(threads: int) -> None:
    """TensorFlow has one pool for all models of the process, whose size is settled by the first of them."""
    if tf.config.threading.get_intra_op_parallelism_threads() != threads:
        with contextlib.suppress(RuntimeError):  # TensorFlow is at work already, in a process that is not ours alone
            tf.config.threading.set_intra_op_parallelism_threads(threads)


def _signature(function: Any) -> Signature:
    inputs = function.structured_input_signature[1]
    outputs = function.structured_outputs
    return Signature(
        inputs=tuple(_spec(name, spec) for name, spec in inputs.items()),
        outputs=tuple(_spec(name, spec) for name, spec in sorted(outputs.items())),
    )


def _spec(name: str, spec: Any) -> TensorSpec:
    if spec.shape.rank is None:
        raise LoadError(f"tensor {name!r} has no known rank, so requests can't be checked; export it with a shape")
    shape = tuple(-1 if size is None else size for size in spec.shape)
    datatype = "BYTES" if spec.dtype == tf.string else datatype_of(spec.dtype.as_numpy_dtype().dtype)
    return TensorSpec(name=name, datatype=datatype, shape=shape)
