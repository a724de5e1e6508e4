"""What TensorFlow runs a model on, and how much of a GPU's memory it takes."""

import logging

import tensorflow as tf

from worker.backends import gpus
from worker.backends.base import Device, LoadError

_log = logging.getLogger(__name__)


def prepare(device: Device) -> None:
    """Let TensorFlow take memory of the GPUs as it needs it, up to the device's limit. Raises `LoadError`.

    It otherwise takes all of a GPU at once. What the first model of a process sets stays.
    """
    if device.kind != "cuda":
        return
    if not tf.test.is_built_with_cuda():
        raise LoadError(
            "the installed TensorFlow has no CUDA; install the one that has with: pip install tensorflow[and-cuda]"
        )
    gpus.check(device)
    found = tf.config.list_physical_devices("GPU")
    if len(found) <= (device.gpu or 0):
        raise LoadError(
            f"{device.name} was asked for, and TensorFlow {tf.__version__} cannot use it: a library of CUDA or cuDNN "
            "is missing or does not fit (pip install tensorflow[and-cuda] brings them)"
        )
    tf.config.experimental.enable_tensor_float_32_execution(device.tf32)
    try:
        for gpu in found:
            _limit(gpu, device.memory_mb)
    except RuntimeError:  # TensorFlow is in use: this was set for the first model
        _log.debug("TensorFlow's memory of GPUs was set before")


def _limit(gpu: tf.config.PhysicalDevice, memory_mb: int) -> None:
    if memory_mb:
        limit = tf.config.LogicalDeviceConfiguration(memory_limit=memory_mb * 1_000_000 // 2**20)
        tf.config.set_logical_device_configuration(gpu, [limit])
    else:
        tf.config.experimental.set_memory_growth(gpu, True)


def place(device: Device) -> str:
    """What TensorFlow calls the device."""
    return f"/GPU:{device.gpu or 0}" if device.kind == "cuda" else "/CPU:0"
