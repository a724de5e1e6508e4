"""Several training processes as one: each takes its share of every batch, and all apply the sum of their gradients.

The processes find each other by addresses that all are given in the same order (`--cluster`); each is told which one
it is (`--task`). TensorFlow's `MultiWorkerMirroredStrategy` carries the sums, over gRPC; one process alone needs none
of it. The first process, the chief, is the one that writes checkpoints, logs and the published model.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf


class ClusterError(Exception):
    """The processes do not fit together."""


class Cluster:
    """This process among those that train one model. Made before TensorFlow runs anything; waits for nobody."""

    def __init__(self, addresses: Sequence[str] = (), task: int = 0) -> None:
        self.size = max(1, len(addresses))
        if not 0 <= task < self.size:
            raise ClusterError(f"--task {task}: there are {self.size} processes, counted from 0")
        self.task = task
        self.strategy: Any = tf.distribute.get_strategy()
        if self.size > 1:
            workers = tf.train.ClusterSpec({"worker": list(addresses)})
            resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
                workers, task_type="worker", task_id=task, rpc_layer="grpc"
            )
            self.strategy = tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)

    @property
    def is_chief(self) -> bool:
        """Whether this process writes what is to be kept."""
        return self.task == 0

    def check_alone(self, name: str) -> None:
        """Raises `ClusterError` where there are others: the model of that name is trained in one process."""
        if self.size > 1:
            raise ClusterError(f"{name} is trained in one process; train it without --cluster")

    def share(self, batch_size: int) -> slice:
        """Which rows of every batch are this process': as many as every other's. Raises `ClusterError` where none."""
        each = batch_size // self.size
        if not each:
            raise ClusterError(f"a batch of {batch_size} cannot be shared by {self.size} processes")
        return slice(self.task, each * self.size, self.size)

    def from_chief(self, array: Any) -> Any:
        """The chief's array of that shape and type, in every process."""
        if self.size == 1:
            return array
        own = array if self.is_chief else np.zeros_like(array)
        if own.dtype.kind == "u":  # the states of random generators; no sum is defined for their type
            own = own.astype(np.int64)
        total = self.strategy.run(
            lambda: tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tf.constant(own))
        )
        return np.asarray(total, dtype=array.dtype)
