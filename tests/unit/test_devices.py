"""Devices: their names, the GPUs that a driver shows, and which of them a model runs on."""

import ctypes
from typing import Any

import pytest

from millrace.artifacts.configs import TritonConfig
from millrace.devices import device_name, gpu_of
from millrace.settings import SettingsError, load
from ops import options
from worker.backends import gpus
from worker.backends.base import Device, LoadError
from worker.loading import placement
from worker.settings import WorkerSettings

CUDA = Device("cuda")


@pytest.mark.parametrize(("name", "gpu"), [("cpu", None), ("cuda", None), ("cuda:0", 0), ("cuda:12", 12)])
def test_a_device_is_named_as_frameworks_name_it(name: str, gpu: int | None) -> None:
    assert (device_name(name), gpu_of(name)) == (name, gpu)
    device = Device.named(name, threads=2, memory_mb=500, tf32=False)
    assert (device.name, device.gpu, device.threads) == (name, gpu, 2)
    assert (device.memory_mb, device.tf32) == ((0, True) if name == "cpu" else (500, False))


@pytest.mark.parametrize("name", ["", "gpu", "cuda:", "cuda:-1", "cuda:1,2", "cuda: 1", "CUDA", "cpu:0", "cuda:1\n"])
def test_what_is_no_device_is_refused_wherever_it_is_named(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SettingsError, match="MILLRACE_WORKER_DEVICE: a device is cpu, cuda, or cuda:N"):
        load(WorkerSettings, {"MILLRACE_WORKER_DEVICE": name})
    with pytest.raises(SystemExit):
        options.parse(["--device", name], {})
    assert "a device is cpu, cuda, or cuda:N" in capsys.readouterr().err


def test_one_gpu_may_be_chosen_by_the_variable_and_by_the_option() -> None:
    assert load(WorkerSettings, {"MILLRACE_WORKER_DEVICE": "cuda:1"}).device == "cuda:1"
    assert options.parse(["--device", "cuda:1"], {}).device == "cuda:1"
    assert options.parse([], {"MILLRACE_WORKER_DEVICE": "cuda:2"}).device == "cuda:2"


class Driver:
    """CUDA's driver as far as it is asked: it shows so many GPUs, or fails with that error."""

    def __init__(self, count: int = 0, error: int = 0) -> None:
        self._count, self._error = count, error

    def cuInit(self, flags: int) -> int:
        return self._error

    def cuDeviceGetCount(self, count: Any) -> int:
        ctypes.cast(count, ctypes.POINTER(ctypes.c_int))[0] = self._count
        return 0

    def cuGetErrorString(self, error: int, text: Any) -> int:
        ctypes.cast(text, ctypes.POINTER(ctypes.c_char_p))[0] = b"no CUDA-capable device is detected"
        return 0


@pytest.mark.parametrize(
    ("gpu", "driver", "words"),
    [
        (2, Driver(2), "GPU 2 was asked for, and the driver shows 2 GPUs, numbers 0 to 1 (CUDA_VISIBLE_DEVICES"),
        (1, Driver(1), "GPU 1 was asked for, and the driver shows one GPU, number 0"),
        (None, Driver(0), "the driver shows no GPU (CUDA_VISIBLE_DEVICES may hide it)"),
        (None, Driver(error=100), "finds no usable GPU: no CUDA-capable device is detected (error 100)"),
    ],
)
def test_a_gpu_that_is_not_there_is_refused_in_words(gpu: int | None, driver: Driver, words: str) -> None:
    with pytest.raises(LoadError) as refused:
        gpus.check(Device("cuda", gpu=gpu), driver)
    assert words in str(refused.value)


def test_a_gpu_that_is_there_passes_and_a_cpu_asks_no_driver() -> None:
    gpus.check(Device("cuda", gpu=1), Driver(2))
    gpus.check(CUDA, Driver(1))
    gpus.check(Device("cpu"), Driver(error=100))


def test_a_machine_without_a_driver_says_what_to_do() -> None:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        with pytest.raises(LoadError, match=r"no NVIDIA driver .*--gpus all.* --device cpu"):
            gpus.check(CUDA)
    else:
        pytest.skip("this machine has a driver")


@pytest.mark.parametrize(
    ("device", "used", "left_out"),
    [
        ("cuda", (0, 0, 1), []),
        ("cuda:0", (0, 0), [1]),
        ("cuda:1", (1,), [0]),
        ("cuda:2", (), [0, 1]),
        ("cpu", (), [0, 1]),
    ],
)
def test_a_worker_for_one_gpu_runs_nothing_on_others(device: str, used: tuple[int, ...], left_out: list[int]) -> None:
    config = TritonConfig(gpus=(0, 0, 1), instances={"cuda": 3})
    assert placement.gpus(config, Device.named(device)) == used
    assert placement.left_out(config, Device.named(device)) == left_out
