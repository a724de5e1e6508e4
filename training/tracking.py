"""Metrics for MLflow, where it is installed and a run is asked to send them."""

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from training.course import CourseError


class Tracking:
    """One run of MLflow's; nothing at all without an address."""

    def __init__(self, mlflow: Any) -> None:
        self._mlflow = mlflow

    def log(self, metrics: Mapping[str, float], epoch: int) -> None:
        """The metrics of the epoch of that number, from 1."""
        if self._mlflow is not None:
            self._mlflow.log_metrics(dict(metrics), step=epoch)


@contextmanager
def tracking(address: str, name: str, parameters: Mapping[str, Any]) -> Iterator[Tracking]:
    """A run called `name`, with its parameters, at that address or in that folder; "" is none.

    Raises `CourseError` where MLflow is not installed.
    """
    if not address:
        yield Tracking(None)
        return
    try:
        mlflow: Any = importlib.import_module("mlflow")
    except ModuleNotFoundError as error:
        raise CourseError(f"--mlflow: {error.name} is not installed; pip install mlflow-skinny") from error
    mlflow.set_tracking_uri(address)
    mlflow.set_experiment(name)
    with mlflow.start_run():
        mlflow.log_params(dict(parameters))
        yield Tracking(mlflow)
