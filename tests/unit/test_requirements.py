"""The pinned requirements: what tests run is what the roles run, from any index and on any machine."""

import re
import runpy

import pytest

from tests.support.running import ROOT

_FOLDER = ROOT / "requirements"
_ROLES = ["build", "serving", "serving-extras", "training", "up", "worker"]


def _pins(name: str) -> set[str]:
    """`NAME==VERSION` of a file, without its conditions."""
    return set(re.findall(r"^\S+==\S+", (_FOLDER / f"{name}.txt").read_text(), re.MULTILINE))


@pytest.mark.parametrize("role", _ROLES)
def test_the_tests_run_the_versions_that_the_roles_run(role: str) -> None:
    assert _pins(role)
    assert _pins(role) <= _pins("test")


@pytest.mark.parametrize("role", [*_ROLES, "test", "worker-gpu"])
def test_every_pin_has_hashes_and_none_names_a_place(role: str) -> None:
    text = (_FOLDER / f"{role}.txt").read_text()
    pins = re.split(r"^(?=\S+==)", text, flags=re.MULTILINE)[1:]
    assert all("--hash=sha256:" in pin for pin in pins)
    assert "://" not in text


@pytest.mark.parametrize("role", ["serving", "training", "up", "worker", "worker-gpu"])
def test_the_bill_of_materials_has_each_pin(role: str) -> None:
    bill = runpy.run_path(str(_FOLDER / "bom.py"))["bill"](role, "1.0")
    listed = {f"{component['name']}=={component['version']}" for component in bill["components"]}
    assert listed == {re.sub(r"\[.*\]", "", pin) for pin in _pins(role)}
    assert all(component["properties"] for component in bill["components"])


def test_the_gpu_image_brings_all_of_cuda_but_the_driver() -> None:
    """What ONNX Runtime's CUDA loads (`onnxruntime.preload_dlls`), in the versions that it was built for."""
    pinned = dict(pin.split("==") for pin in _pins("worker-gpu"))
    needed = {
        "onnxruntime-gpu": "1.",
        "nvidia-cublas": "13.",
        "nvidia-cuda-nvrtc": "13.",
        "nvidia-cuda-runtime": "13.",
        "nvidia-cufft": "12.",
        "nvidia-curand": "10.",
        "nvidia-cudnn-cu13": "9.",
        "nvidia-nvjitlink": "13.",
    }
    found = {re.sub(r"\[.*\]", "", name): version for name, version in pinned.items()}
    assert {name: found.get(name, "").startswith(version) for name, version in needed.items()} == dict.fromkeys(
        needed, True
    )
    assert "onnxruntime" not in found  # both have the same files, and the one that is installed last would count
