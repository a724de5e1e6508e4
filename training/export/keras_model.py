"""Keras models as exports: every input and output by its name, in graphs that run anywhere."""

import keyword
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from training import parity
from training.export import fused_lstm
from training.export.model import ExportError, Exports, traced


def exports_of(model: keras.Model) -> Exports:
    """A functional or sequential model for every format.

    Raises `ExportError` for one whose inputs are not known, and for layers that keep their state from call to call.

    Inputs are called as in Keras, outputs as the layers that they come from, or as the model's own dictionary says. No
    graph holds cuDNN's operators, also where there is a GPU. A model with recurrent layers gets a TFLite graph for one
    row at a time, its LSTMs fused.
    """
    _check_stateless(model)
    inputs = named_inputs(model)
    function = traced(_without_cudnn(model)(_named_call(model)), inputs)
    return Exports(
        function=function,
        variables=[*(variable.value for variable in model.variables), *_tables(model)],
        lite_function=_one_row(model, inputs) if recurrent_layers(model) else None,
        keras_model=model,
    )


def answers_of(model: keras.Model) -> parity.Run:
    """The model itself: its inputs by their place, its outputs by the names that `exports_of` gives them.

    No graph of an export's is in it, so that one which mixes up inputs or outputs cannot be right by itself.
    """
    inputs, outputs = list(named_inputs(model)), output_names(model)
    structure = None if isinstance(model, keras.Sequential) else model.input
    call = tf.function(lambda given: model(given, training=False), autograph=False, reduce_retracing=True)

    def run(batch: parity.Arrays) -> dict[str, Any]:
        tensors = [tf.constant(batch[name]) for name in inputs]
        given = tensors[0] if structure is None else keras.tree.pack_sequence_as(structure, tensors)
        with _without_cudnn(model):
            answers = keras.tree.flatten(call(given))
        return {name: _as_array(answer) for name, answer in zip(outputs, answers, strict=True)}

    return run


def named_inputs(model: keras.Model) -> dict[str, Any]:
    """The model's input tensors in their order, by the names that every format has for them.

    A name is the tensor's own where it is an identifier. Two that would become one are numbered. Raises `ExportError`.
    """
    tensors = _inputs(model)
    return dict(zip(_names(model), tensors, strict=False))


def output_names(model: keras.Model) -> list[str]:
    """The names of the outputs in the model's order: of the layers they come from, or the keys of its dictionary.

    One that is an input's name too gets a number: in some formats the two would be one tensor.
    """
    return _names(model)[len(_inputs(model)) :]


def renamed(model: keras.Model) -> dict[str, str]:
    """The names that formats cannot carry, with what they are called instead."""
    return {before: after for before, after in zip(_own_names(model), _names(model), strict=True) if before != after}


def _own_names(model: keras.Model) -> list[str]:
    """The names of the inputs and the outputs, as the model has them."""
    return [*(tensor.name for tensor in _inputs(model)), *_output_names(model)]


def _names(model: keras.Model) -> list[str]:
    return identifiers(_own_names(model))


def identifiers(names: Sequence[str]) -> list[str]:
    """The names as identifiers, each of its own: what programs cannot carry becomes `_`, and a number follows a twin.

    A name that needs no change keeps it, whatever comes before it.
    """
    wanted = [_identifier(name) for name in names]
    kept = {name for name, given in zip(wanted, names, strict=True) if name == given}
    taken: set[str] = set()
    found = []
    for name, given in zip(wanted, names, strict=True):
        number, candidate = 1, name
        while candidate in taken or (candidate in kept and candidate != given):
            number += 1
            candidate = f"{name}_{number}"
        taken.add(candidate)
        found.append(candidate)
    return found


def recurrent_layers(model: keras.Model) -> list[keras.layers.RNN]:
    """Every recurrent layer, those inside of others too."""
    return [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.RNN)]


def _check_stateless(model: keras.Model) -> None:
    if kept := [layer.name for layer in recurrent_layers(model) if layer.stateful]:
        raise ExportError(
            f"the layer '{kept[0]}' keeps its state from one call to the next (stateful=True), which no format does:"
            " build it with stateful=False; to go on with a sequence, take the state as an input"
            " (initial_state) and give it as an output (return_state=True)"
        )


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
    names, outputs = list(named_inputs(model)), output_names(model)
    if isinstance(model, keras.Sequential):
        model = keras.Model(model.inputs, model.outputs, name=model.name)  # which knows its inputs' structure
    structure = model.input

    def call(**tensors: Any) -> dict[str, Any]:
        given = keras.tree.pack_sequence_as(structure, [tensors[name] for name in names])
        return dict(zip(outputs, keras.tree.flatten(model(given, training=False)), strict=True))

    return call


def _output_names(model: keras.Model) -> list[str]:
    if not isinstance(model, keras.Sequential) and isinstance(model.output, dict):
        return ["_".join(map(str, path)) for path, _ in keras.tree.flatten_with_path(model.output)]
    names = [tensor._keras_history.operation.name for tensor in model.outputs]
    return names if len(set(names)) == len(names) else [f"{name}_{place}" for place, name in enumerate(names)]


def _identifier(name: str) -> str:
    """The name with what graphs and programs cannot carry replaced by `_`; a word of Python's gets one behind it."""
    plain = re.sub(r"\W|^(?=\d)", "_", name, flags=re.ASCII)
    return f"{plain}_" if keyword.iskeyword(plain) else plain


def _as_array(answer: Any) -> Any:
    """As NumPy's array; bfloat16, which it has not, in 32 bits."""
    return np.asarray(tf.cast(answer, tf.float32) if answer.dtype == tf.bfloat16 else answer)


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
