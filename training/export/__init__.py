"""Export and publish: one trained model as SavedModel, ONNX and TFLite, in one version's folder with its manifest.

The version appears only when every format was run and answers as the trained model does; see `parity`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from millrace.artifacts import manifest
from millrace.artifacts.manifest import Manifest
from millrace.artifacts.repository import ModelRepository, RepositoryError
from millrace.artifacts.vocabulary import Vocabulary
from training import cards, parity
from training.export import exporting
from training.export.keras_model import answers_of, exports_of
from training.export.model import ExportError, Exports, Trained
from training.export.onnx_graph import onnx_from_nodes, onnx_from_tensorflow, onnx_of, write_onnx
from training.export.preparation import with_raw_inputs
from training.export.report import Report

KERAS = "model.keras"
PUBLISHED = ("savedmodel", "onnx", "tflite")  # by training; `millrace export` writes the others

__all__ = [
    "ExportError",
    "Exports",
    "Target",
    "Trained",
    "answers_of",
    "exports_of",
    "onnx_from_nodes",
    "onnx_from_tensorflow",
    "onnx_of",
    "publish",
    "write_onnx",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where a trained model goes: a version in a repository; `replace` says whether it may be there already.

    A Keras model is saved in the folder `kept` before anything is exported. Formats that the version `may_lack` are
    left out where they cannot be had, with the reason in the manifest.
    """

    repository: ModelRepository
    version: int
    replace: bool = False
    kept: Path | None = None
    may_lack: Sequence[str] = ()

    def keep(self, model: Any) -> str:
        """Save the Keras model, so that no training is lost; says where it is, "" where there is none to save."""
        if model is None or self.kept is None:
            return ""
        self.kept.mkdir(parents=True, exist_ok=True)
        path, partial = self.kept / KERAS, self.kept / f"partial.{KERAS}"
        model.save(partial)
        partial.replace(path)
        return f". The trained model is in {path}: see `millrace doctor {path}`, or allow --may-lack"

    def check(self, name: str) -> None:
        """Raises `RepositoryError` when that version is there and may not be, before the time to train is spent."""
        folder = self.repository.folder(name, self.version)
        if folder.exists() and not self.replace:
            raise RepositoryError(f"{folder} exists; choose another --version, or --replace it")


def publish(
    target: Target,
    description: Manifest,
    exports: Exports,
    answer: parity.Run,
    batches: Sequence[parity.Arrays],
    vocabulary: Vocabulary | None = None,
    beside: Mapping[str, bytes] | None = None,
) -> Path:
    """Write, compare and publish; returns the version's folder. The manifest's `parity` and `files` are filled in.

    The Keras model is kept first; see `Target`. A model card is written from the manifest, and the files `beside` the
    model (plots) by their paths in the folder.
    `answer` runs the trained model on the `batches`. Nothing is published when an error is raised: `ExportError` for a
    format that cannot be written or does not answer as the trained model does, `RepositoryError` when the version
    exists.
    """
    trained = Trained(
        description=description,
        exports=with_raw_inputs(exports, description, vocabulary),
        answer=answer,
        batches=batches,
        vocabulary=vocabulary,
    )
    name, version = description.name, target.version
    kept = target.keep(exports.keras_model)
    with target.repository.publishing(name, version, replace=target.replace) as folder:
        found = exporting.export(trained, PUBLISHED, folder)
        _check_lacking(found, target, kept)
        if vocabulary is not None:
            vocabulary.write(folder / "vocabulary.txt")
        if exports.keras_model is not None:
            exports.keras_model.save(folder / KERAS)
        for path, content in (beside or {}).items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        left_out = exporting.left_out(found)
        parities = exporting.parities(found)
        description = msgspec.structs.replace(description, version=version, parity=parities, left_out=left_out)
        cards.write(folder, description)
        manifest.write(folder, description)
    folder = target.repository.folder(name, version)
    for row in found.rows[1:]:
        differs = f"differs from the trained model by at most {row.max_abs_difference or 0:.1e}"
        print(f"{row.title}: {differs}" if row.is_published else f"left out: {row.missed}")
    print(f"published {folder}")
    return folder


def _check_lacking(found: Report, target: Target, kept: str) -> None:
    """Raises `ExportError` where a format is missing that has to be there, or all are."""
    missed = [row.missed for row in found.rows if not row.is_published and row.format not in target.may_lack]
    if missed or not any(row.is_published for row in found.rows[1:]):
        raise ExportError(f"{'; '.join(missed or [row.missed for row in found.rows[1:]])}{kept}")
