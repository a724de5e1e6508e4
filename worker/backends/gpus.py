"""The GPUs that the CUDA driver shows to this process, and the error where the one that is asked for is not there."""

import ctypes
from typing import Any

from worker.backends.base import Device, LoadError

_DRIVER = "libcuda.so.1"


def check(device: Device, driver: Any = None) -> None:
    """Raises `LoadError`, with what to do, where the device is a GPU that this process cannot use.

    `driver` is the CUDA driver's library, by default the one that is installed.
    """
    if device.kind != "cuda":
        return
    there, wanted = _count(driver or _installed()), device.gpu or 0
    if wanted >= there:
        shown = "one GPU, number 0" if there == 1 else f"{there} GPUs, numbers 0 to {there - 1}"
        raise LoadError(
            f"GPU {wanted} was asked for, and the driver shows {shown} (CUDA_VISIBLE_DEVICES may hide others)"
        )


def _installed() -> Any:
    try:
        return ctypes.CDLL(_DRIVER)
    except OSError as error:
        raise LoadError(
            f"CUDA was asked for, and there is no NVIDIA driver ({error}); in a container, start it with the NVIDIA "
            "container runtime (docker run --gpus all), or start the worker with --device cpu"
        ) from error


def _count(driver: Any) -> int:
    count = ctypes.c_int()
    if status := driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        words = ctypes.c_char_p()
        driver.cuGetErrorString(status, ctypes.byref(words))
        reason = (words.value or b"unknown error").decode(errors="replace")
        raise LoadError(f"CUDA was asked for, and the driver finds no usable GPU: {reason} (error {status})")
    if not count.value:
        raise LoadError("CUDA was asked for, and the driver shows no GPU (CUDA_VISIBLE_DEVICES may hide it)")
    return count.value
