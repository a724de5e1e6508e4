"""What a result says of the GPU: its name, its driver, its memory, and the versions of what runs on it."""

import subprocess
from importlib.metadata import PackageNotFoundError, version
from typing import Any

_PACKAGES = (
    *("onnxruntime-gpu", "onnxruntime", "tensorflow", "nvidia-cudnn-cu13", "nvidia-cublas", "nvidia-cuda-runtime"),
    *("nvidia-cufft", "nvidia-curand"),
)
_FIELDS = ("name", "driver_version", "memory.total", "compute_cap", "pcie.link.gen.max", "pcie.link.width.max")


def gpus() -> list[dict[str, str]]:
    """The GPUs of this machine, as the driver's own program describes them; none where it is not there."""
    return [dict(zip(_FIELDS, line, strict=True)) for line in _asked(",".join(_FIELDS))]


def memory_mb(gpu: int = 0) -> int:
    """MB of the GPU's memory that are in use, by whom ever; 0 where it is not known."""
    lines = _asked("memory.used")
    return int(lines[gpu][0].split()[0]) if gpu < len(lines) else 0


def utilization(gpu: int = 0) -> int:
    """In how many percent of the last moment something ran on the GPU; 0 where it is not known."""
    lines = _asked("utilization.gpu")
    return int(lines[gpu][0].split()[0]) if gpu < len(lines) and lines[gpu][0][0].isdigit() else 0


def packages() -> dict[str, str]:
    """The versions of what is installed of CUDA and of the runtimes."""
    found: dict[str, Any] = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _asked(fields: str) -> list[list[str]]:
    try:
        printed = subprocess.run(
            ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [[word.strip() for word in line.split(",")] for line in printed.strip().splitlines()]
