"""A SavedModel's signatures as the functions that TensorFlow 2 rebuilds, for files whose graph lacks its variables."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from millrace.protocol.errors import InvalidRequest
from millrace.protocol.tensors import Signature
from worker.backends.base import Arrays, Device
from worker.backends.savedmodel import devices
from worker.backends.savedmodel.call import as_array
from worker.backends.texts import public


class FunctionCall:
    """Runs a signature; from several threads at once, too."""

    def __init__(self, model: Any, name: str, signature: Signature, defaults: Mapping[str, Any], device: str) -> None:
        self._model = model  # the function does not keep the model's variables alive
        self._function = model.signatures[name]
        self._defaults = {alias: tf.make_ndarray(proto) for alias, proto in defaults.items()}
        self._dtypes = {alias: spec.dtype for alias, spec in self._function.structured_input_signature[1].items()}
        self._outputs = [spec.name for spec in signature.outputs]
        self._device = device

    def run(self, inputs: Arrays) -> Arrays:
        """The outputs. Raises `tf.errors.OpError`, and `InvalidRequest` for inputs of other shapes than its own."""
        with tf.device(self._device):
            given = {
                name: tf.cast(array, tf.bfloat16) if self._dtypes[name] == tf.bfloat16 else tf.constant(array)
                for name, array in {**self._defaults, **inputs}.items()
            }
            try:
                outputs = self._function(**given)
            except (TypeError, ValueError) as error:
                raise InvalidRequest(public(str(error))) from error
        return {name: as_array(outputs[name].numpy()) for name in self._outputs}


def function_calls(
    folder: Path, signatures: Mapping[str, Signature], definitions: Mapping[str, Any], device: Device
) -> dict[str, FunctionCall]:
    """The signatures, by name. Raises whatever TensorFlow raises for objects that it cannot rebuild."""
    where = devices.place(device)
    with tf.device(where):
        model = tf.saved_model.load(str(folder))
    return {
        name: FunctionCall(model, name, signature, definitions[name].defaults, where)
        for name, signature in signatures.items()
    }
