"""The names of the devices that models run on, as settings and command lines have them: `cpu`, `cuda`, `cuda:1`."""

import re

DEVICE_HELP = "where the models run: cpu, cuda, or cuda:N for the GPU number N alone"
_NAME = re.compile(r"cpu|cuda(?::(?P<gpu>\d{1,3}))?")


def device_name(text: str) -> str:
    """The name, as it was given. Raises `ValueError` where no device is called so."""
    _found(text)
    return text


def gpu_of(name: str) -> int | None:
    """The GPU's number in a device's name, None where it names none."""
    number = _found(name)["gpu"]
    return None if number is None else int(number)


def _found(text: str) -> re.Match[str]:
    found = _NAME.fullmatch(text)
    if found is None:
        raise ValueError("a device is cpu, cuda, or cuda:N for the GPU number N (from 0)")
    return found
