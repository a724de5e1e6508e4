"""Export and publish: one trained model as SavedModel, ONNX and TFLite, in one version's folder with its manifest.

The version appears only when every format was run and answers as the trained model does; see `parity`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from millrace.artifacts import manifest
from millrace.artifacts.manifest import Manifest
from millrace.artifacts.repository import ModelRepository, RepositoryError
from millrace.artifacts.vocabulary import Vocabulary
from training import cards, parity
from training.export import exporting
from training.export.keras_model import answers_of, exports_of
from training.export.model import ExportError, Exports, Trained
from training.export.onnx_graph import onnx_from_nodes, onnx_from_tensorflow, write_onnx
from training.export.preparation import with_raw_inputs

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
    "publish",
    "write_onnx",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where a trained model goes: a version in a repository; `replace` says whether it may be there already."""

    repository: ModelRepository
    version: int
    replace: bool = False

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

    A model card is written from the manifest, and the files `beside` the model (plots) by their paths in the folder.
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
    with target.repository.publishing(name, version, replace=target.replace) as folder:
        found = exporting.export(trained, PUBLISHED, folder)
        if missed := [row.missed for row in found.rows if row.missed]:
            raise ExportError("; ".join(missed))
        if vocabulary is not None:
            vocabulary.write(folder / "vocabulary.txt")
        if exports.keras_model is not None:
            exports.keras_model.save(folder / "model.keras")
        for path, content in (beside or {}).items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        description = msgspec.structs.replace(description, version=version, parity=exporting.parities(found))
        cards.write(folder, description)
        manifest.write(folder, description)
    folder = target.repository.folder(name, version)
    for row in found.rows[1:]:
        print(f"{row.title}: differs from the trained model by at most {row.max_abs_difference:.1e}")
    print(f"published {folder}")
    return folder
