"""Keras models as exports: every input and output by its name, in graphs that run anywhere."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from training import parity
from training.export import fused_lstm
from training.export.model import ExportError, Exports, traced
from training.export.onnx_graph import onnx_from_tensorflow


def exports_of(model: keras.Model) -> Exports:
    """A functional or sequential model for every format; raises `ExportError` for one whose inputs are not known.

    Inputs are called as in Keras, outputs as the layers that they come from, or as the model's own dictionary says. No
    graph holds cuDNN's operators, also where there is a GPU. A model with recurrent layers gets a TFLite graph for one
    row at a time, its LSTMs fused.
    """
    inputs = {_identifier(tensor.name): tensor for tensor in _inputs(model)}
    function = traced(_without_cudnn(model)(_named_call(model)), inputs)
    return Exports(
        function=function,
        variables=[*(variable.value for variable in model.variables), *_tables(model)],
        onnx_model=lambda: onnx_from_tensorflow(function),
        lite_function=_one_row(model, inputs) if recurrent_layers(model) else None,
        keras_model=model,
    )


def answers_of(model: keras.Model) -> parity.Run:
    """The model itself, called with named arrays, as `exports_of` names them."""
    call = tf.function(_without_cudnn(model)(_named_call(model)), autograph=False, reduce_retracing=True)

    def run(batch: parity.Arrays) -> dict[str, Any]:
        answers = call(**{name: tf.constant(array) for name, array in batch.items()})
        return {name: np.asarray(answer) for name, answer in answers.items()}

    return run


def recurrent_layers(model: keras.Model) -> list[keras.layers.RNN]:
    """Every recurrent layer, those inside of others too."""
    return [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.RNN)]


def _tables(model: keras.Model) -> list[Any]:
    """The look-up tables of layers such as `StringLookup`, which are no variables."""
    tables = [getattr(layer, "lookup_table", None) for layer in model._flatten_layers()]
    return [table for table in tables if table is not None]


def _inputs(model: keras.Model) -> list[Any]:
    try:
        return list(model.inputs)
    except (AttributeError, TypeError, ValueError) as error:
        raise ExportError(
            f"the model '{model.name}' does not say what it takes: build it from keras.Input, or call it once on data"
            " and save it as a SavedModel"
        ) from error


def _named_call(model: keras.Model) -> Any:
    """The model as a function of named tensors that returns named tensors."""
    if isinstance(model, keras.Sequential):
        model = keras.Model(model.inputs, model.outputs, name=model.name)  # which knows its inputs' structure
    names = [_identifier(tensor.name) for tensor in _inputs(model)]
    outputs = [_identifier(name) for name in _output_names(model)]
    structure = model.input

    def call(**tensors: Any) -> dict[str, Any]:
        given = keras.tree.pack_sequence_as(structure, [tensors[name] for name in names])
        return dict(zip(outputs, keras.tree.flatten(model(given, training=False)), strict=True))

    return call


def _output_names(model: keras.Model) -> list[str]:
    if isinstance(model.output, dict):
        return sorted(model.output)  # the order in which dictionaries are flattened
    names = [tensor._keras_history.operation.name for tensor in model.outputs]
    return names if len(set(names)) == len(names) else [f"{name}_{place}" for place, name in enumerate(names)]


def _identifier(name: str) -> str:
    """The name with what graphs and programs cannot carry replaced by `_`."""
    return re.sub(r"\W|^(?=\d)", "_", name)


def _one_row(model: keras.Model, inputs: dict[str, Any]) -> Any:
    one = {name: tf.TensorSpec((1, *spec.shape[1:]), spec.dtype) for name, spec in inputs.items()}
    return traced(_without_cudnn(model)(fused_lstm.fused(model)(_named_call(model))), one)


@contextmanager
def _without_cudnn(model: keras.Model) -> Iterator[None]:
    """While the block runs, recurrent layers are written in plain operators, whatever device the machine has."""
    layers = [layer for layer in recurrent_layers(model) if hasattr(layer, "use_cudnn")]
    settings = [layer.use_cudnn for layer in layers]
    for layer in layers:
        layer.use_cudnn = False
    try:
        yield
    finally:
        for layer, setting in zip(layers, settings, strict=True):
            layer.use_cudnn = setting
