"""Which GPUs a model runs on: those that its `instance_group` names, unless the worker is for one GPU, or for none."""

from millrace.artifacts.configs import TritonConfig
from worker.backends.base import Device


def gpus(config: TritonConfig, device: Device) -> tuple[int, ...]:
    """The number of a GPU for each instance; empty where the worker's own device is used, as often as it is told."""
    if device.kind != "cuda":
        return ()
    return config.gpus if device.gpu is None else tuple(gpu for gpu in config.gpus if gpu == device.gpu)


def left_out(config: TritonConfig, device: Device) -> list[int]:
    """The GPUs that are named and not used."""
    return sorted(set(config.gpus) - set(gpus(config, device)))
