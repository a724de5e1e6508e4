"""A training run: its epochs, from the first or from the last checkpoint, with bars, TensorBoard and a history.

    for epoch in run.epochs(30, variables):
        losses = [step(batch) for batch in epoch.progress(batches, 468)]
        epoch.metrics["loss"] = float(np.mean(losses))

After each epoch its metrics go to TensorBoard and to the screen, and the variables into the checkpoint. What is random
in an epoch must come from the seed and the epoch's number alone: then a run that was resumed ends where one that was
never interrupted does.
"""

import contextlib
import dataclasses
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf

from training import checkpoints, progress
from training.checkpoints import Checkpoint, CheckpointError
from training.cluster import Cluster
from training.course import Course, CourseError
from training.tracking import Tracking, tracking

CHECKPOINT, BEST = "checkpoint.npz", "best.npz"

Item = TypeVar("Item")
History = list[dict[str, float]]


@dataclass(slots=True, kw_only=True)
class Epoch:
    """One pass over the data: its number, from 0, and the metrics that the loop fills in.

    A loop that sets `is_last` ends the run after this epoch.
    """

    number: int
    of: int
    is_last: bool = False
    metrics: dict[str, float] = field(default_factory=dict)

    def progress(self, items: Iterable[Item], total: int) -> Iterator[Item]:
        """The items with a progress bar; `total` may be a guess."""
        return progress.shown(items, total, f"epoch {self.number + 1}/{self.of}")


class Run:
    """The epochs of one training, in a folder of their own: `checkpoint.npz`, and the logs of TensorBoard.

    `settings` is the script's frozen dataclass; `hashes` are those of the data, and are read when the first epoch
    begins. With `resume` the run goes on after the last finished epoch, where there is one, also for more epochs than
    it was begun with. `course` says when it stops before the last epoch; the variables are then those of the best one,
    which is kept in `best.npz`. Raises `CourseError` for several processes that are to stop by themselves.
    """

    def __init__(
        self,
        folder: Path,
        settings: Any,
        hashes: Mapping[str, str],
        *,
        resume: bool = False,
        cluster: Cluster,
        course: Course | None = None,
    ) -> None:
        self.course = course or Course()
        if self.course.patience and cluster.size > 1:
            raise CourseError("--patience is for one process; train without --cluster")
        self.folder = folder
        self.settings = settings
        self.cluster = cluster
        self.history: History = []
        self._hashes = hashes
        self._resume = resume

    @property
    def hyper_parameters(self) -> dict[str, Any]:
        """The settings by name."""
        return dataclasses.asdict(self.settings)

    @property
    def origin(self) -> dict[str, Any]:
        """What is trained with what: the hyper-parameters, and the SHA-256 of each data file."""
        return {**self.hyper_parameters, **self._hashes}

    def epochs(self, count: int, variables: Sequence[Any]) -> Iterator[Epoch]:
        """The epochs that are left of `count`. `variables` (of TensorFlow or Keras) are all that an epoch changes.

        Raises `CheckpointError` when the checkpoint cannot be gone on from.
        """
        if self._resume:
            self._restore(variables)
        begun = time.monotonic()
        with contextlib.closing(self._writer()) as writer, self._tracking() as tracked:
            for number in range(len(self.history), count):
                if self.course.is_over(self.history):
                    print(f"no epoch was better than epoch {self.course.best_epoch(self.history) + 1}: stopping")
                    break
                epoch = Epoch(number=number, of=count)
                yield epoch
                self.history.append(epoch.metrics)
                self._log(epoch, writer, time.monotonic() - begun)
                if self.cluster.is_chief:
                    tracked.log(epoch.metrics, number + 1)
                    self._keep(variables)
                if epoch.is_last:
                    break
        if self.course.patience and self.history:
            self._take_best(variables)

    def _keep(self, variables: Sequence[Any]) -> None:
        values = [np.asarray(variable) for variable in variables]
        checkpoint = Checkpoint(origin=self.origin, history=self.history, values=values)
        checkpoint.write(self.folder / CHECKPOINT)
        if self.course.patience and self.course.best_epoch(self.history) == len(self.history) - 1:
            checkpoint.write(self.folder / BEST)

    def _take_best(self, variables: Sequence[Any]) -> None:
        """Give the variables the values of the best epoch, as far as it was kept: those before `patience` were not."""
        best, kept = self.course.best_epoch(self.history), checkpoints.read(self.folder / BEST)
        if kept is None or list(kept.history) != self.history[: best + 1]:
            return
        for variable, value in zip(variables, kept.values, strict=True):
            variable.assign(value)
        print(f"keeping epoch {best + 1}, the best")

    def _tracking(self) -> contextlib.AbstractContextManager[Tracking]:
        address = self.course.mlflow if self.cluster.is_chief else ""
        return tracking(address, self.folder.parent.name or "training", self.hyper_parameters)

    def _restore(self, variables: Sequence[Any]) -> None:
        path = self.folder / CHECKPOINT
        found = checkpoints.read(path) if self.cluster.is_chief else None
        if found:
            checkpoints.check_origin(path, self._with_more_epochs(found.origin), self.origin)
            self.history = [dict(metrics) for metrics in found.history]
        epochs = int(self.cluster.from_chief(np.array(len(self.history), np.int32)))
        if not epochs:
            print(f"there is no checkpoint in {self.folder} yet: training from the beginning")
            return
        self.history = self.history or [{} for _ in range(epochs)]  # only the chief's is kept
        values = found.values if found else [np.asarray(variable) for variable in variables]
        if [value.shape for value in values] != [tuple(variable.shape) for variable in variables]:
            raise CheckpointError(f"{path} belongs to another model: its variables have other shapes")
        for variable, value in zip(variables, values, strict=True):
            variable.assign(self.cluster.from_chief(value))
        print(f"going on after epoch {epochs}")

    def _with_more_epochs(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """The checkpoint's origin; more epochs than its are no other training."""
        wanted = self.origin.get("epochs", 0)
        return {**found, "epochs": wanted} if 0 < found.get("epochs", 0) < wanted else dict(found)

    def _writer(self) -> Any:
        if not self.cluster.is_chief:
            return tf.summary.create_noop_writer()
        if not self.history:  # the curves of a run that was given up would mix with this one's
            for log in self.folder.glob("events.out.tfevents.*"):
                log.unlink()
        return tf.summary.create_file_writer(str(self.folder))

    def _log(self, epoch: Epoch, writer: Any, elapsed_s: float) -> None:
        with writer.as_default(step=epoch.number + 1):
            for name, value in epoch.metrics.items():
                tf.summary.scalar(name, value)
        writer.flush()
        metrics = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in epoch.metrics.items())
        print(f"epoch {epoch.number + 1}/{epoch.of}: {metrics}, {elapsed_s:.0f} s", flush=True)
