"""LSTMs as TFLite's fused operator, UNIDIRECTIONAL_SEQUENCE_LSTM, in place of the loop that Keras 3 makes.

TFLite's converter puts that operator in place of a function that says it implements an LSTM and has a certain form:
the arguments and results of Keras 2's `standard_lstm`, and a fixed number of rows, here one.
The number of steps is free.

The fused operator keeps its state from one run to the next, unless the app resets the interpreter's variables, which
not every platform's library can do. So the sequence gets one more step in front, with an input of its own that
closes all gates: whatever the state was, it is zero after it. Answers then never depend on what was run before.
"""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

Floats = npt.NDArray[np.float32]

_CLOSED = -1e3  # a gate's input at the first step; its sigmoid is zero


def states(sequence: Any, kernel: Floats, recurrent: Floats, bias: Floats) -> Any:
    """The hidden state [1, steps, units] after each step of one sequence [1, steps, size], from a state of zeros.

    `kernel` [size, 4 units], `recurrent` [units, 4 units] and `bias` [4 units] in Keras' layout, the gates in the order
    input, forget, candidate, output; arrays, since the operator's weights have to be constants.
    """
    return _states_and_zero(sequence, kernel, recurrent, bias)[:, 1:]


def _states_and_zero(sequence: Any, kernel: Floats, recurrent: Floats, bias: Floats) -> Any:
    """The states [1, 1 + steps, units], the zeros after the closing step in front."""
    size, units = kernel.shape[0], recurrent.shape[0]
    largest = np.abs(kernel).max()
    closing = np.repeat(np.array([-largest, -largest, 0, -largest], np.float32), units)  # no larger than the others are
    start = np.zeros((1, 1, size + 1), np.float32)
    start[..., -1] = -_CLOSED / largest
    steps = tf.concat([start, tf.pad(sequence, [[0, 0], [0, 0], [0, 1]])], axis=1)
    zero = tf.zeros((1, units))
    run = tf.function(
        _standard_lstm,
        autograph=False,
        experimental_attributes={
            "api_implements": f"lstm_{uuid.uuid4()}",
            "api_preferred_device": "CPU",
            "time_major": False,
            "go_backwards": False,
        },
    )
    _, after, *_ = run(
        steps, zero, zero, tf.constant(np.vstack([kernel, closing])), tf.constant(recurrent), tf.constant(bias)
    )
    return after


def _standard_lstm(inputs: Any, hidden: Any, cell: Any, kernel: Any, recurrent: Any, bias: Any) -> tuple[Any, ...]:
    """The same by a loop, for TensorFlow itself; the converter allows the first two of the five results to be used."""
    count = tf.shape(inputs)[1]
    found = tf.TensorArray(tf.float32, size=count, element_shape=hidden.shape)

    def advance(step: Any, hidden: Any, cell: Any, found: Any) -> tuple[Any, ...]:
        gates = tf.matmul(inputs[:, step], kernel) + tf.matmul(hidden, recurrent) + bias
        entered, kept, candidate, shown = tf.split(gates, 4, axis=1)
        cell = tf.sigmoid(kept) * cell + tf.sigmoid(entered) * tf.tanh(candidate)
        hidden = tf.sigmoid(shown) * tf.tanh(cell)
        return step + 1, hidden, cell, found.write(step, hidden)

    _, hidden, cell, found = tf.while_loop(lambda step, *_: step < count, advance, (0, hidden, cell, found))
    return hidden, tf.transpose(found.stack(), (1, 0, 2)), hidden, cell, tf.constant(1.0)


@contextmanager
def fused(model: keras.Model) -> Iterator[None]:
    """While the block runs, calls of the model's LSTM layers with one row are written as `states`.

    Layers that it cannot stand for keep Keras' loop: see `obstacle`.
    """
    layers = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.LSTM)]  # inner ones too
    originals = [layer.inner_loop for layer in layers]
    for layer, original in zip(layers, originals, strict=True):
        layer.inner_loop = _fusing(layer, original)
    try:
        yield
    finally:
        for layer in layers:
            del layer.inner_loop


def obstacle(layer: keras.layers.LSTM) -> str:
    """Why the fused operator cannot stand for that layer; empty where it can."""
    cell = layer.cell
    if cell.activation is not keras.activations.tanh or cell.recurrent_activation is not keras.activations.sigmoid:
        return "its activations are not tanh and sigmoid"
    if layer.return_state or layer.stateful:
        return "its state is used outside of it"
    return ""


def _fusing(layer: keras.layers.LSTM, original: Any) -> Any:
    def inner_loop(sequences: Any, initial_state: Any, mask: Any, training: bool = False) -> Any:
        starts = tf.get_static_value(initial_state[0]), tf.get_static_value(initial_state[1])
        from_zero = all(start is not None and len(start) == 1 and not start.any() for start in starts)
        if obstacle(layer) or not from_zero or (mask is not None and layer.return_sequences):
            return original(sequences=sequences, initial_state=initial_state, mask=mask, training=training)
        if mask is not None:  # a masked step leaves the state as it is, so it may as well not be there
            sequences = tf.boolean_mask(sequences[0], tf.reshape(mask, (-1,)))[tf.newaxis]
        if layer.go_backwards:
            sequences = tf.reverse(sequences, [1])
        after = _states_and_zero(sequences, *_weights(layer.cell))
        return after[:, -1], after[:, 1:], initial_state  # nobody reads the states: see `obstacle`

    return inner_loop


def _weights(cell: keras.layers.LSTMCell) -> tuple[Floats, Floats, Floats]:
    with tf.init_scope():  # out of the graph that is being written
        kernel, recurrent = (np.array(weight.numpy()) for weight in (cell.kernel, cell.recurrent_kernel))
        bias = np.array(cell.bias.numpy()) if cell.use_bias else np.zeros(kernel.shape[1], np.float32)
    return kernel, recurrent, bias
