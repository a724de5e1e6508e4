"""The manifest: what a model version says of itself, in `manifest.json` beside its files.

A model file alone is servable: its signature and batching are then read from the file. A manifest adds what a model
file cannot say: labels, preprocessing that does not fit a graph, scores, where the data came from, and the hash of
every file, so that a version that was changed after it was published is refused.

Every field may be left out; a manifest written by hand has those that are needed. `signatures` are what a caller sees;
without them they are made of the model's file and the steps. `preprocessing` turns those inputs into the graph's own,
`postprocessing` the graph's outputs into the caller's. The graph's tensors carry the same names in every format.
"""

import hashlib
import math
import re
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from millrace.protocol.tensors import Signature

FILE_NAME = "manifest.json"
MOST_BYTES = 16 * 2**20
MAX_SIDE = 8192  # pixels of an image that a graph takes
_FRACTION = re.compile(r"(\d+(?:\.\d+)?)(?:/(\d+(?:\.\d+)?))?")
_Number = TypeVar("_Number", int, float)


def each(value: _Number | tuple[_Number, ...]) -> tuple[_Number, ...]:
    """The values, of which one stands for all."""
    return value if isinstance(value, tuple) else (value,)


class DecodeImage(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    forbid_unknown_fields=True,
    tag="decode_image",
    tag_field="kind",
):
    """BYTES that are image files (JPEG, PNG, WebP, GIF) become the pixels that the graph's input takes, in place.

    Tensors of the input's declared datatype pass unchanged. `input` may be left out where the graph has one input.

    Where nothing else is said and the graph takes FP32 [-1, 28, 28, 1], the pixels have the form of MNIST (see
    `artifacts.images`); an image on which the `detector`, a file beside the manifest, sees no digit is refused (see
    `artifacts.detector`). Else they are those of the image, upright, as Pillow makes them, in this order:

    1. `colour`: three channels in that order, or one of gray; by default RGB or gray, as the graph has channels.
    2. `fit` to `size` (height and width, or one number for both; by default the graph's own): "stretch" to it; "crop",
       which scales the image until its shorter side has `shorter_side` pixels (by default until it covers `size`) and
       cuts the middle out; or "pad", which scales it until it fits and fills the rest with `fill`, 0 to 255.
       `interpolation` looks at all pixels that a new one covers (antialias), but for "nearest".
    3. (pixel * `scale` - `mean`) / `std`, in float32. `scale` may be a fraction: "1/255". An input of real numbers
       needs it, be it 1; for one of whole numbers the result is rounded and kept within their range.
    4. `layout`: where the channels are in a batch; "NHW" has none. By default as the graph's shape says.

    `fill`, `mean` and `std` are one number, or one for each channel in the graph's order.
    """

    input: str = ""
    detector: str = ""
    size: int | tuple[int, int] | None = None
    layout: Literal["NHWC", "NCHW", "NHW"] | None = None
    colour: Literal["RGB", "BGR", "gray"] | None = None
    fit: Literal["stretch", "crop", "pad"] | None = None
    shorter_side: int | None = None
    fill: int | tuple[int, ...] = 0
    interpolation: Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"] | None = None
    scale: float | str | None = None
    mean: float | tuple[float, ...] = 0.0
    std: float | tuple[float, ...] = 1.0

    def __post_init__(self) -> None:
        """Raises `ValueError` for values that make no pixels."""
        if self.detector and not self.is_bare:
            raise ValueError("detector is for images in the form of MNIST, of which nothing else is said")
        if self.size is not None and not all(0 < side <= MAX_SIDE for side in each(self.size)):
            raise ValueError(f"size must be a height and a width from 1 to {MAX_SIDE}")
        if self.shorter_side is not None and (self.fit != "crop" or not 0 < self.shorter_side <= MAX_SIDE):
            raise ValueError(f'shorter_side is for "fit": "crop", and from 1 to {MAX_SIDE}')
        if any(not 0 <= value <= 255 for value in each(self.fill)):
            raise ValueError("fill must be from 0 to 255")
        numbers = (*each(self.mean), *each(self.std), *self.fraction)
        if not all(map(math.isfinite, numbers)) or 0 in (*each(self.std), *self.fraction):
            raise ValueError("scale, mean and std must be finite numbers, scale and std not 0")

    @property
    def is_bare(self) -> bool:
        """Whether nothing is said of the pixels."""
        return msgspec.structs.replace(self, detector="") == DecodeImage(input=self.input)

    @property
    def fraction(self) -> tuple[float, float]:
        """The scale as a numerator and a denominator. Raises `ValueError` for a text that is none."""
        if not isinstance(self.scale, str):
            return (1.0 if self.scale is None else float(self.scale)), 1.0
        if not (match := _FRACTION.fullmatch(self.scale)):
            raise ValueError(f'scale must be a number or a fraction such as "1/255", not {self.scale!r}')
        return float(match[1]), float(match[2] or 1)


class Tokenize(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    forbid_unknown_fields=True,
    tag="tokenize",
    tag_field="kind",
):
    """Text (BYTES [-1]) becomes ids [-1, n]; n is the longest text in the batch, or what the graph's shape says.

    With a `tokenizer`, a Hugging Face `tokenizer.json` beside the manifest, the graph gets `output` (by default
    `input_ids`) and, where it has such inputs, a `mask` (`attention_mask`: 1, and 0 for padding) and `types`
    (`token_type_ids`). `pair` names a second text of each row. A text of more than `max_length` tokens (by default what
    the tokenizer's file says, else 512) is cut at its end, or with `keep` "end" at its beginning. Padding has the
    tokenizer's id and side. Texts of more than `max_bytes` bytes are refused.

    Without, the ids (INT32) are those of `artifacts.vocabulary`: texts are padded at the end with id 0, which the graph
    masks, and of a text with more than `max_length` words the first, or the last, that many are kept, as `keep` says.
    Where it `needs_known`, a text of which none of them is in the vocabulary is refused.
    """

    input: str = "text"
    output: str = ""
    vocabulary: str = "vocabulary.txt"
    max_length: int = 0
    keep: Literal["start", "end"] = "start"
    needs_known: bool = False
    tokenizer: str = ""
    mask: str = ""
    types: str = ""
    pair: str = ""
    max_bytes: int = 65_536

    def __post_init__(self) -> None:
        """Raises `ValueError` for fields that do not go together."""
        if self.tokenizer:
            if self.max_length < 0:
                raise ValueError("max_length must be above 0")
            if self.needs_known:
                raise ValueError("needs_known is for the words of a vocabulary; a tokenizer knows every text")
        elif not self.output or self.max_length < 1:
            raise ValueError("tokenize needs a tokenizer, or an output and a max_length for the words of a vocabulary")
        elif self.mask or self.types or self.pair:
            raise ValueError("mask, types and pair need a tokenizer")
        if self.max_bytes < 1:
            raise ValueError("max_bytes must be above 0")


class LookUpWords(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="look_up_words", tag_field="kind"
):
    """Words (BYTES [-1, n]) become ids (INT32 [-1, n]); a word that the vocabulary lacks is the caller's error.

    `weights` names an FP32 [-1, n] input of the graph: all ones where the caller sends none. Rows of fewer words are
    padded with their own last word at weight 0, so that padding changes nothing.
    """

    input: str
    output: str
    weights: str
    vocabulary: str = "vocabulary.txt"


class NameWords(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="name_words", tag_field="kind"
):
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
    name: str = ""
    version: int = 0
    description: str = ""
    signatures: dict[str, Signature] = {}
    preprocessing: tuple[DecodeImage | Tokenize | LookUpWords, ...] = ()
    postprocessing: tuple[NameWords, ...] = ()
    # Where it is not said: `Batching()` beside signatures, else as for a model file alone.
    batching: Batching | None = None
    labels: tuple[str, ...] = ()
    # In their place: a text file beside the manifest with one label a line.
    labels_file: str = ""
    # A request body that the model answers, in TensorFlow Serving's row form: {"instances": [...]}.
    example: dict[str, Any] = {}
    scores: dict[str, float] = {}
    # What the model is not good for, a sentence each.
    limits: tuple[str, ...] = ()
    # The hyper-parameters that it was trained with.
    training: dict[str, int | float | str] = {}
    parity: dict[str, Parity] = {}
    # Format that was wanted and is not there -> why.
    left_out: dict[str, str] = {}
    # File name of each training set -> SHA-256. The same of the files in the version's folder is in `files`.
    data: dict[str, str] = {}
    # Name of each data set -> under which terms it may be used.
    licences: dict[str, str] = {}
    files: dict[str, str] = {}


class ManifestError(Exception):
    """A manifest that cannot be read, or a folder that is not what its manifest says."""


def detectors(manifest: Manifest) -> list[str]:
    """The names of the files of its detectors."""
    return [step.detector for step in manifest.preprocessing if isinstance(step, DecodeImage) and step.detector]


def read(folder: Path) -> Manifest | None:
    """The manifest in a version's folder, None where there is none. Raises `ManifestError`."""
    path = folder / FILE_NAME
    try:
        with path.open("rb") as file:
            text = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ManifestError(f"{path}: {error}") from error
    if len(text) > MOST_BYTES:
        raise ManifestError(f"{path} has more than {MOST_BYTES} bytes")
    try:
        manifest = msgspec.json.decode(text, type=Manifest)
        return _with_labels(folder, manifest) if manifest.labels_file else manifest
    except (OSError, ValueError, RecursionError) as error:  # no JSON, of another form, no UTF-8, or nested too deep
        raise ManifestError(f"{path}: {error}") from error


def _with_labels(folder: Path, manifest: Manifest) -> Manifest:
    """The manifest with the labels of its file. Raises `OSError`, and `ValueError` for what is no file of labels."""
    if Path(manifest.labels_file).name != manifest.labels_file:
        raise ValueError(f"labels_file {manifest.labels_file!r} must be a file beside the manifest")
    labels = (folder / manifest.labels_file).read_text(encoding="utf-8").splitlines()
    return msgspec.structs.replace(manifest, labels=tuple(labels))


def write(folder: Path, manifest: Manifest) -> None:
    """Write the manifest into the folder, with the hash of every other file there filled in."""
    save(folder, msgspec.structs.replace(manifest, files=file_hashes(folder)))


def save(folder: Path, manifest: Manifest) -> None:
    """Write the manifest into the folder as it is."""
    (folder / FILE_NAME).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")


def verify(folder: Path, manifest: Manifest) -> None:
    """Compare the files that are there with the hashes; raises `ManifestError` at the first that differs.

    A file that is listed but not there is no error: a repository may carry one format of several.
    """
    for name, expected in manifest.files.items():
        path = folder / name
        if _is_there(folder, name) and file_hash(path) != expected:
            raise ManifestError(f"{path} was changed after it was published: its SHA-256 is not the manifest's")


def _is_there(folder: Path, name: str) -> bool:
    """Whether the folder has that file. Raises `ManifestError` for what would lead out of it, and for what is no file.

    The hash of a device, for one, has no end.
    """
    path = folder / name
    try:
        if not Path(name).is_absolute() and ".." not in Path(name).parts and path.is_file() == path.exists():
            return path.is_file()
    except OSError:  # a name that is too long, for one
        pass
    raise ManifestError(f"{folder / FILE_NAME} names {name[:300]!r}, which is no file of its folder")


def file_hash(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below the folder but the manifest, by path relative to it, in order."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != FILE_NAME)
    return {path.relative_to(folder).as_posix(): file_hash(path) for path in files}
