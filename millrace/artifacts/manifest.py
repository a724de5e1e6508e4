"""The manifest: what a model version says of itself, in `manifest.json` beside its files.

A model file alone is servable: its signature and batching are then read from the file. A manifest adds what a model
file cannot say: labels, preprocessing that does not fit a graph, scores, where the data came from, and the hash of
every file, so that a version that was changed after it was published is refused.

`signatures` are what a caller sees. `preprocessing` turns those inputs into the graph's own, `postprocessing` the
graph's outputs into the caller's. The graph's tensors carry the same names in every format.
"""

import hashlib
from pathlib import Path
from typing import Any, Literal

import msgspec

from millrace.protocol.tensors import Signature

FILE_NAME = "manifest.json"


class DecodeImage(msgspec.Struct, frozen=True, kw_only=True, tag="decode_image", tag_field="kind"):
    """BYTES that are PNG or JPEG files become pixels in the form of MNIST (see `artifacts.images`), in place.

    Tensors of the input's declared datatype pass unchanged.
    """

    input: str


class Tokenize(msgspec.Struct, frozen=True, kw_only=True, tag="tokenize", tag_field="kind"):
    """Text (BYTES [-1]) becomes word ids (INT32 [-1, n]) by `artifacts.vocabulary`; n is the longest text in the batch.

    Shorter texts are padded at the end with id 0, which the graph masks. Of a text with more than `max_length` words
    the first, or the last, that many are kept, as `keep` says.
    """

    input: str
    output: str
    vocabulary: str = "vocabulary.txt"
    max_length: int
    keep: Literal["start", "end"] = "start"


class LookUpWords(msgspec.Struct, frozen=True, kw_only=True, tag="look_up_words", tag_field="kind"):
    """Words (BYTES [-1, n]) become ids (INT32 [-1, n]); a word that the vocabulary lacks is the caller's error.

    `weights` names an FP32 [-1, n] input of the graph: all ones where the caller sends none. Rows of fewer words are
    padded with their own last word at weight 0, so that padding changes nothing.
    """

    input: str
    output: str
    weights: str
    vocabulary: str = "vocabulary.txt"


class NameWords(msgspec.Struct, frozen=True, kw_only=True, tag="name_words", tag_field="kind"):
    """Word ids (INT32) of one output become the words themselves (BYTES of the same shape), in place."""

    output: str
    vocabulary: str = "vocabulary.txt"


class Batching(msgspec.Struct, frozen=True, kw_only=True):
    """How requests are grouped. `max_batch_size` counts rows; 0 means that the first dimension does not count rows.

    `max_queue_delay_ms` is how long a worker waits for a fuller batch; it helps only where the model gains from it.
    `rows_are_independent` is the publisher's word that a row's answer never depends on the rows beside it; without it
    that is tried when the version is loaded.
    """

    max_batch_size: int = 32
    max_queue_delay_ms: float = 0.0
    rows_are_independent: bool = False


class Parity(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How one exported format compared with the trained model, on the same examples.

    `score` is its part of right answers on a test set. A format that missed its bound and was published by force says
    in `missed` what is wrong with it.
    """

    max_abs_difference: float
    top1_agreement: float | None = None
    examples: int
    score: float | None = None
    missed: str = ""


class Manifest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The manifest of one model version; see the module and each part's class."""

    format: Literal[1] = 1
    name: str
    version: int
    description: str = ""
    signatures: dict[str, Signature]
    preprocessing: tuple[DecodeImage | Tokenize | LookUpWords, ...] = ()
    postprocessing: tuple[NameWords, ...] = ()
    batching: Batching = Batching()
    labels: tuple[str, ...] = ()
    # A request body that the model answers, in TensorFlow Serving's row form: {"instances": [...]}.
    example: dict[str, Any] = {}
    scores: dict[str, float] = {}
    # What the model is not good for, a sentence each.
    limits: tuple[str, ...] = ()
    # The hyper-parameters that it was trained with.
    training: dict[str, int | float | str] = {}
    parity: dict[str, Parity] = {}
    # File name of each training set -> SHA-256. The same of the files in the version's folder is in `files`.
    data: dict[str, str] = {}
    # Name of each data set -> under which terms it may be used.
    licences: dict[str, str] = {}
    files: dict[str, str] = {}


class ManifestError(Exception):
    """A manifest that cannot be read, or a folder that is not what its manifest says."""


def read(folder: Path) -> Manifest | None:
    """The manifest in a version's folder, None where there is none. Raises `ManifestError`."""
    path = folder / FILE_NAME
    try:
        return msgspec.json.decode(path.read_bytes(), type=Manifest)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:  # no JSON, of another form, no UTF-8, or nested too deep
        raise ManifestError(f"{path}: {error}") from error


def write(folder: Path, manifest: Manifest) -> None:
    """Write the manifest into the folder, with the hash of every other file there filled in."""
    manifest = msgspec.structs.replace(manifest, files=file_hashes(folder))
    (folder / FILE_NAME).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")


def verify(folder: Path, manifest: Manifest) -> None:
    """Compare the files that are there with the hashes; raises `ManifestError` at the first that differs.

    A file that is listed but not there is no error: a repository may carry one format of several.
    """
    for name, expected in manifest.files.items():
        path = folder / name
        if path.exists() and file_hash(path) != expected:
            raise ManifestError(f"{path} was changed after it was published: its SHA-256 is not the manifest's")


def file_hash(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below the folder but the manifest, by path relative to it, in order."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != FILE_NAME)
    return {path.relative_to(folder).as_posix(): file_hash(path) for path in files}
