"""What ONNX Runtime runs a model with: the CPU, or CUDA on one GPU."""

from typing import Any

import onnxruntime

from worker.backends import gpus
from worker.backends.base import Device, LoadError

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_MB = 1_000_000


def providers(device: Device) -> list[Any]:
    """The providers for a session on that device, with CUDA's libraries loaded. Raises `LoadError`."""
    if device.kind != "cuda":
        return [CPU]
    if CUDA not in onnxruntime.get_available_providers():
        raise LoadError(
            "the installed ONNX Runtime has no CUDA; install the one that has from Millrace's checkout with: "
            "pip uninstall onnxruntime && pip install -e '.[worker-gpu]'"
        )
    gpus.check(device)
    onnxruntime.preload_dlls()  # CUDA's libraries are in wheels of their own, where the loader does not look
    return [(CUDA, cuda_options(device)), CPU]


def cuda_options(device: Device) -> dict[str, str]:
    """The options of CUDA for a session on that GPU.

    Convolutions are chosen by a heuristic: the default tries all of them for each new shape, so for each new size of
    a batch. Memory grows by what is asked for: by default each growth doubles it.
    """
    options = {
        "device_id": str(device.gpu or 0),
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
        "use_tf32": str(int(device.tf32)),
    }
    if device.memory_mb:
        options["gpu_mem_limit"] = str(device.memory_mb * _MB)
    return options


def check_session(session: Any, device: Device) -> None:
    """Raises `LoadError` where a session fell back to the CPU: ONNX Runtime says so in its log alone."""
    if device.kind == "cuda" and CUDA not in session.get_providers():
        raise LoadError(
            f"{device.name} was asked for, and ONNX Runtime {onnxruntime.__version__} cannot use it: a library of "
            f"CUDA {onnxruntime.cuda_version} or cuDNN 9 is missing or does not fit (the extra worker-gpu has them)"
        )
