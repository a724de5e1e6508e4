"""Fitting a Keras model by gradient descent, in one process or several, epoch by epoch of a `Run`."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from training import rates
from training.runs import Run

Loss = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]  # targets and outputs of a batch to one value an example


# The batches of the epoch of that number, each a pair of inputs and targets; the same ones whenever they are asked for.
Batches = Callable[[int], Iterable[tuple[Any, Any]]]


def cosine_adamw(learning_rate: float, weight_decay: float, steps: int, warm_up_steps: int) -> keras.Optimizer:
    """AdamW whose rate climbs to `learning_rate` in the first steps and then falls to 0 along a cosine."""
    rate = rates.warmed_cosine(learning_rate, warm_up_steps, steps - warm_up_steps)
    return keras.optimizers.AdamW(rate, weight_decay=weight_decay)


def fit(
    make: Callable[[], tuple[keras.Model, keras.Optimizer]],
    loss: Loss,
    batches: Batches,
    run: Run,
    *,
    epochs: int,
    steps: int,
    validate: Callable[[keras.Model], dict[str, float]] | None = None,
) -> keras.Model:
    """The model after `epochs` of `steps` batches each; `validate` adds metrics to those of an epoch.

    `make` builds model and optimizer; it is called once for training, within the cluster's scope and in the run's
    precision, and once for the model that is returned, which is an ordinary one in 32 bits. The first metric of
    `validate` is the one that an early stop goes by.
    """
    finished, _ = make()
    with run.cluster.strategy.scope(), _policy(run.course.precision):
        model, optimizer = make()
        if run.course.precision == "mixed_float16":  # whose smallest numbers gradients fall below
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        optimizer.build(model.trainable_variables)
        model.compile(optimizer=optimizer)  # callbacks look there for the learning rate
    step = training_step(model, optimizer, loss, run.cluster.strategy)
    callbacks = keras.callbacks.CallbackList(run.course.keras_callbacks(), model=model)
    model.stop_training = False
    callbacks.on_train_begin()
    for epoch in run.epochs(epochs, [*model.variables, *optimizer.variables]):
        callbacks.on_epoch_begin(epoch.number)
        losses = [step(*batch) for batch in epoch.progress(batches(epoch.number), steps)]
        epoch.metrics["loss"] = float(np.mean(losses))
        epoch.metrics["learning_rate"] = float(np.asarray(optimizer.learning_rate))
        if validate:
            finished.set_weights(model.get_weights())
            epoch.metrics |= validate(finished)
        callbacks.on_epoch_end(epoch.number, _keras_logs(epoch.metrics))
        epoch.is_last = bool(model.stop_training)
    callbacks.on_train_end()
    finished.set_weights(model.get_weights())
    return finished


@contextmanager
def _policy(precision: str) -> Iterator[None]:
    """While the block runs, layers are made for that precision; the variables have 32 bits in each."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _keras_logs(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics by the names that Keras' callbacks look for too."""
    return {**metrics, **{name.replace("held_out", "val"): value for name, value in metrics.items()}}


def training_step(model: keras.Model, optimizer: keras.Optimizer, loss: Loss, strategy: Any) -> Callable[..., Any]:
    """A function of inputs and targets that changes the model once and returns the mean loss of all processes."""

    def replica(inputs: Any, targets: Any) -> tf.Tensor:
        with tf.GradientTape() as tape:
            outputs = keras.tree.map_structure(_in_32_bits, model(inputs, training=True))
            value = tf.reduce_mean(loss(targets, outputs)) / strategy.num_replicas_in_sync
            scaled = optimizer.scale_loss(value)
        gradients = tape.gradient(scaled, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))  # sums over the processes
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, value)

    result: Callable[..., Any] = tf.function(
        lambda inputs, targets: strategy.run(replica, args=(inputs, targets)),
        reduce_retracing=True,  # one graph for batches of all lengths
    )
    return result


def _in_32_bits(output: Any) -> Any:
    return tf.cast(output, tf.float32) if output.dtype in (tf.float16, tf.bfloat16) else output
