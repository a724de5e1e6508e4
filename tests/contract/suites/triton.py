"""Triton's test models, made by its own generator, and a place to run its suites in."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.contract.suites import sources

_OPSET = "17"
# The generator's programs, with the folder that each writes.
_MADE = {
    "qa_model_repository": ("gen_qa_models.py", "--onnx"),
    "qa_variable_model_repository": ("gen_qa_models.py", "--onnx", "--variable"),
    "qa_identity_model_repository": ("gen_qa_identity_models.py", "--onnx"),
    "qa_reshape_model_repository": ("gen_qa_reshape_models.py", "--onnx", "--variable"),
    "qa_scalar_models": ("gen_qa_ort_scalar_models.py",),
}


class TritonModels:
    """Makes a repository of its generator's models below `root`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._made: set[str] = set()

    def copied(self, target: Path, repository: str, pattern: str = "*", *, name: str = "") -> list[Path]:
        """Those models of a repository whose names fit, copied to the target, or the one that fits as `name`."""
        self._make(repository)
        found = sorted(self._root.joinpath(repository).glob(pattern))
        assert found, f"the generator makes no {pattern} in {repository}"
        copies = [target / (name or folder.name) for folder in found]
        for folder, copy in zip(found, copies, strict=True):
            shutil.copytree(folder, copy)
            if name:
                edit_config(copy, rf'name: "{folder.name}"', f'name: "{name}"')
        return copies

    def _make(self, repository: str) -> None:
        if repository in self._made:
            return
        python, program = sources.place(sources.PYTHON), _MADE[repository]
        common = sources.place(sources.TRITON) / "qa" / "common"
        folder = self._root / repository
        folder.mkdir(parents=True)
        command = [str(python), *program, f"--onnx_opset={_OPSET}", f"--models_dir={folder}"]
        made = subprocess.run(command, cwd=common, capture_output=True, text=True, timeout=300, check=False)
        if made.returncode:
            pytest.fail(f"Triton's generator failed: {made.stderr[-2000:]}")
        self._made.add(repository)


def edit_config(model: Path, pattern: str, text: str, count: int = 1) -> None:
    """Change a model's `config.pbtxt`, as Triton's own scripts do."""
    config = model / "config.pbtxt"
    written, done = re.subn(pattern, text, config.read_text(), count=count)
    assert done, f"{pattern} is not in {config}"
    config.write_text(written)


def workplace(tmp_path: Path, suite: str) -> Path:
    """A copy of a suite's folder, with what it imports beside it: suites write into their folder."""
    qa = sources.place(sources.TRITON) / "qa"
    for name in ("common", suite):
        shutil.copytree(qa / name, tmp_path / "qa" / name)
    return tmp_path / "qa" / suite
