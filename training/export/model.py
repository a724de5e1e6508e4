"""A trained model as the exporters take it: one function, what it reads, and how its other forms are made."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt
import onnx
import tensorflow as tf

from millrace.artifacts.manifest import Manifest
from millrace.artifacts.vocabulary import Vocabulary
from training import parity

Shapes = Mapping[str, tuple[int, ...]]  # of inputs by their names, -1 where a size is free


class ExportError(Exception):
    """A model cannot be written in one of the formats; the message names the operator and the layer where it can."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exports:
    """One model for every format. `function` is a `tf.function` with named inputs that returns named outputs.

    `variables` are those that it reads (`tf.Variable`, look-up tables). `onnx_model` makes the ONNX model where it is
    written by hand, of the same names; see `onnx_graph.onnx_of`. `lite_function` is what TFLite is made of where
    `function` will not do: one row at a time, its LSTMs as `fused_lstm` writes them. `keras_model` is kept beside the
    formats, as `model.keras`, so that the version can be exported again. `more_signatures` are the SavedModel's beside
    `serving_default`.
    """

    function: Any
    variables: Sequence[Any]
    onnx_model: Callable[[], onnx.ModelProto] | None = None
    lite_function: Any = None
    keras_model: Any = None
    more_signatures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What a user allows or asks of TFLite files.

    `keeps_float` are layers that full int8 leaves in 32 bits, see `kept_float`. `allows_flex` lets files hold operators
    of TensorFlow's, which only apps with the Flex delegate run.
    """

    keeps_float: Sequence[str] = ()
    allows_flex: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What is to be said of a file that was written, and whether a runtime here runs it."""

    note: str = ""
    runs_here: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A model that is to be exported, and what its formats are compared by.

    `answer` runs the trained model itself. Formats are compared with it on `batches`, which are, in words,
    `compared_on`; and by their score on `tested`, batches with their labels, where there are any. The rows of
    `representative`, one in each, tell full int8 the ranges of numbers; they are, in words, `representative_from`.
    `kinds` says of outputs what their values are for, `shapes` which sizes of inputs formats are written for,
    `choices` what TFLite files may be like.
    """

    description: Manifest
    exports: Exports
    answer: parity.Run
    batches: Sequence[parity.Arrays] = ()
    compared_on: str = "examples of the model's own test data"
    vocabulary: Vocabulary | None = None
    tested: Sequence[tuple[parity.Arrays, npt.NDArray[Any]]] = ()
    representative: Sequence[parity.Arrays] = ()
    representative_from: str = "none"
    kinds: parity.Kinds = field(default_factory=dict)
    shapes: Shapes = field(default_factory=dict)
    choices: Choices = field(default_factory=Choices)


def traced(call: Callable[..., Any], inputs: Mapping[str, Any]) -> Any:
    """A `tf.function` with one argument for each named `tf.TensorSpec`, in their order, which `call` gets by name.

    Its outputs are in the order of their names: graphs have no other, whatever the order of the dictionary.
    """

    def serve(*tensors: Any) -> Any:
        return dict(sorted(call(**dict(zip(inputs, tensors, strict=True))).items()))

    named = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in inputs]
    serve.__signature__ = inspect.Signature(named)  # type: ignore[attr-defined] # the names of the graph's inputs
    specs = [tf.TensorSpec(spec.shape, spec.dtype, name=name) for name, spec in inputs.items()]
    return tf.function(serve, autograph=False, input_signature=specs)
