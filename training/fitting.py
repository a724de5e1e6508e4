"""Fitting a Keras model by gradient descent, in one process or several, epoch by epoch of a `Run`."""

from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from training.runs import Run

Loss = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]  # targets and outputs of a batch to one value an example


# The batches of the epoch of that number, each a pair of inputs and targets; the same ones whenever they are asked for.
Batches = Callable[[int], Iterable[tuple[Any, Any]]]


def cosine_adamw(learning_rate: float, weight_decay: float, steps: int, warm_up_steps: int) -> keras.Optimizer:
    """AdamW whose rate climbs to `learning_rate` in the first steps and then falls to 0 along a cosine."""
    rate = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0,
        decay_steps=max(1, steps - warm_up_steps),
        warmup_target=learning_rate,
        warmup_steps=warm_up_steps,
    )
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

    `make` builds model and optimizer; it is called once for training, within the cluster's scope, and once more for
    the model that is returned, which is an ordinary one.
    """
    with run.cluster.strategy.scope():
        model, optimizer = make()
        optimizer.build(model.trainable_variables)
    step = training_step(model, optimizer, loss, run.cluster.strategy)
    finished, _ = make()
    for epoch in run.epochs(epochs, [*model.variables, *optimizer.variables]):
        losses = [step(*batch) for batch in epoch.progress(batches(epoch.number), steps)]
        epoch.metrics["loss"] = float(np.mean(losses))
        if validate:
            finished.set_weights(model.get_weights())
            epoch.metrics |= validate(finished)
    finished.set_weights(model.get_weights())
    return finished


def training_step(model: keras.Model, optimizer: keras.Optimizer, loss: Loss, strategy: Any) -> Callable[..., Any]:
    """A function of inputs and targets that changes the model once and returns the mean loss of all processes."""

    def replica(inputs: Any, targets: Any) -> tf.Tensor:
        with tf.GradientTape() as tape:
            value = tf.reduce_mean(loss(targets, model(inputs, training=True))) / strategy.num_replicas_in_sync
        gradients = tape.gradient(value, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))  # sums over the processes
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, value)

    result: Callable[..., Any] = tf.function(
        lambda inputs, targets: strategy.run(replica, args=(inputs, targets)),
        reduce_retracing=True,  # one graph for batches of all lengths
    )
    return result
