"""A trained model as the exporters take it: one function, what it reads, and how its other forms are made."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx
import tensorflow as tf


class ExportError(Exception):
    """A model cannot be written in one of the formats; the message names the operator and the layer where it can."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exports:
    """One model for every format. `function` is a `tf.function` with named inputs that returns named outputs.

    `variables` are those that it reads (`tf.Variable`, look-up tables). The ONNX model has the same names, and the
    first dimension of every tensor is free. `lite_function` is what TFLite is made of where `function` will not do: one
    row at a time, its LSTMs as `fused_lstm` writes them. `keras_model` is kept beside the formats, as `model.keras`, so
    that the version can be exported again. `more_signatures` are the SavedModel's beside `serving_default`.
    """

    function: Any
    variables: Sequence[Any]
    onnx_model: Callable[[], onnx.ModelProto]
    lite_function: Any = None
    keras_model: Any = None
    more_signatures: Mapping[str, Any] = field(default_factory=dict)


def traced(call: Callable[..., Any], inputs: Mapping[str, Any]) -> Any:
    """A `tf.function` with one argument for each named `tf.TensorSpec`, in their order, which `call` gets by name."""

    def serve(*tensors: Any) -> Any:
        return call(**dict(zip(inputs, tensors, strict=True)))

    named = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in inputs]
    serve.__signature__ = inspect.Signature(named)  # type: ignore[attr-defined] # the names of the graph's inputs
    specs = [tf.TensorSpec(spec.shape, spec.dtype, name=name) for name, spec in inputs.items()]
    return tf.function(serve, autograph=False, input_signature=specs)
