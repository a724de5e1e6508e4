"""A version's files in their runtime: loaded once to serve, and again where that is needed."""

import dataclasses
from pathlib import Path

from millrace.artifacts.configs import TritonConfig
from millrace.model import Models
from worker import backends
from worker.backends import replicas
from worker.backends.base import Backend, Device, PreparesShapes
from worker.loading import placement, reshaping


class Runtimes:
    """Loads the version in the folder for the device, or for the GPUs that its configuration names.

    `first` is the backend that serves, `loaded` the same as its file has it. Raises `LoadError`.
    """

    def __init__(
        self, folder: Path, device: Device, config: TritonConfig, backend: str, models: Models | None = None
    ) -> None:
        self._folder = folder
        self._device = device
        self._config = config
        self._format = config.format or backend
        self._models = models
        self._gpus = placement.gpus(config, device)
        self.loaded = replicas.load(self._of, device, self._gpus)
        self.first = reshaping.reshaped(self.loaded, config)

    @property
    def rounds(self) -> bool:
        """Whether the first rounds more than `exact` would, so that a trial may see rows differ that do not.

        TensorFlow has one switch for all of a process, so its models are judged by what TF32 leaves of their numbers.
        """
        return self._device.kind == "cuda" and self._device.tf32 and self.loaded.platform == "onnxruntime_onnx"

    @property
    def prepares_shapes(self) -> bool:
        """See `PreparesShapes`."""
        return isinstance(self.loaded, PreparesShapes) and self.loaded.prepares_shapes

    def spread(self) -> None:
        """The first runs are over: several GPUs share the runs from now on."""
        _spread(self.loaded)

    def again(self) -> Backend:
        """One more of the first, which serves from its first run on. Raises `LoadError`."""
        same = replicas.load(self._of, self._device, self._gpus)
        _spread(same)
        return reshaping.reshaped(same, self._config)

    def exact(self) -> tuple[Backend, Device]:
        """The same without TF32, on one GPU, which is the device. Raises `LoadError`."""
        device = dataclasses.replace(self._device, gpu=next(iter(self._gpus), self._device.gpu), tf32=False)
        return reshaping.reshaped(self._of(device), self._config), device

    def _of(self, device: Device) -> Backend:
        return backends.load(self._folder, device, self._format, self._config.model_file, self._models)


def _spread(backend: Backend) -> None:
    if isinstance(backend, replicas.Replicas):
        backend.spread()
