"""What a caller asks for: one class for each kind of job, and `read_document`, which validates JSON against it.

Every field that a caller may set stands here with its meaning; a field that is not here is refused with its name. Rows
come from the file that was uploaded with the job, or from `input`: a path below the operator's root, or a URL.
"""

import re
from collections.abc import Collection, Mapping
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from millrace.protocol.errors import InvalidRequest
from millrace.protocol.tensors import DEFAULT_SIGNATURE

Format = Literal["auto", "csv", "jsonl", "parquet", "arrow", "npy", "npz", "images"]
ExportFormat = Literal["savedmodel", "onnx", "tflite", "tflite-fp16", "tflite-dynamic", "tflite-int8", "coreml"]
_Text = Annotated[str, Meta(min_length=1, max_length=4096)]
_Count = Annotated[int, Meta(ge=1, le=2**53)]
_MODEL = re.compile(r"[^./\\\x00-\x1f-][^/\\\x00-\x1f]{0,255}")  # one folder's name
_KIND = re.compile(r"[a-z][a-z0-9_-]{0,63}")


class JobDocument(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What every job has. `callback_url` is told when the job ends (POST, signed; docs/howto/score-a-file.md)."""

    takes_upload: ClassVar[bool] = True

    kind: str
    callback_url: Annotated[str, Meta(max_length=4096)] = ""

    def check(self) -> None:
        """Raises `InvalidRequest`, with the field's name, for what the types do not say."""
        if self.callback_url and not _is_web(self.callback_url):
            raise InvalidRequest("callback_url: must be an http:// or https:// URL with a host")


class RowsDocument(JobDocument, frozen=True, kw_only=True):
    """A job that sends the rows of a file to a model.

    `input` is "" where the file is uploaded. `column` names the column that feeds a model with one input; `columns`
    says for each input which column feeds it; without both, columns feed the inputs of their names (of an array: its
    rows feed the one input).

    `max_errors` is how many rows the model may refuse before the job fails; None for any number. `part_rows` is how
    many rows go into one part, 0 for as many as suit the file.

    """

    model: _Text
    version: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None = None
    label: _Text | None = None
    signature: _Text = DEFAULT_SIGNATURE
    input: Annotated[str, Meta(max_length=4096)] = ""
    input_format: Format = "auto"
    column: _Text | None = None
    columns: dict[_Text, _Text] = {}
    max_errors: Annotated[int, Meta(ge=0)] | None = None
    part_rows: Annotated[int, Meta(ge=0, le=10_000_000)] = 0

    def check(self) -> None:
        """See `JobDocument`."""
        super().check()
        if self.column is not None and self.columns:
            raise InvalidRequest("column: use either column or columns")
        if self.version is not None and self.label is not None:
            raise InvalidRequest("label: use either version or label")


class ScoreDocument(RowsDocument, frozen=True, kw_only=True):
    """The model's outputs for every row, in the rows' order.

    `output` is a path below the operator's root or a URL; "" keeps the result in the job store. `carry` names the
    columns of the input that the result repeats; None for all. `outputs` names the model's outputs to write; None for
    all. `labels` writes the name of the best class, `top_k` the k best with their scores, beside or, with
    `scores=False`, in the place of the scores.
    """

    kind: Literal["score"] = "score"
    output: Annotated[str, Meta(max_length=4096)] = ""
    output_format: Format = "auto"
    carry: tuple[_Text, ...] | None = None
    outputs: tuple[_Text, ...] | None = None
    labels: bool = False
    top_k: Annotated[int, Meta(ge=1, le=1000)] | None = None
    scores: bool = True


class EvaluateDocument(RowsDocument, frozen=True, kw_only=True):
    """A report on rows whose right answer is known: `target` names its column, of class numbers or of labels.

    `output` names the model's output of scores, "" the only one that can be. `worst` is how many of the surest
    mistakes the report lists.
    """

    kind: Literal["evaluate"] = "evaluate"
    target: _Text
    output: Annotated[str, Meta(max_length=4096)] = ""
    worst: Annotated[int, Meta(ge=0, le=1000)] = 20


class ExportDocument(JobDocument, frozen=True, kw_only=True):
    """What `millrace export` does, for an uploaded `.keras` file, or for a published version of `model`.

    `version` is the newest where none is named. `force` keeps formats whose answers differ too much.
    """

    kind: Literal["export"] = "export"
    model: Annotated[str, Meta(max_length=4096)] = ""
    version: Annotated[int, Meta(ge=1)] | None = None
    formats: Annotated[tuple[ExportFormat, ...], Meta(min_length=1)] = ("savedmodel", "onnx", "tflite")
    force: bool = False

    def check(self) -> None:
        """See `JobDocument`."""
        super().check()
        if self.model and not _MODEL.fullmatch(self.model):
            raise InvalidRequest("model: must be the name of a published model")


class CustomDocument(JobDocument, frozen=True, kw_only=True):
    """A job of a kind that an operator added (docs/howto/add-a-job-kind.md); the kind itself validates `options`."""

    input: Annotated[str, Meta(max_length=4096)] = ""
    options: dict[str, Any] = {}


DOCUMENTS: Mapping[str, type[JobDocument]] = {
    "score": ScoreDocument,
    "evaluate": EvaluateDocument,
    "export": ExportDocument,
}


def read_document(raw: bytes | str | Mapping[str, Any], kinds: Collection[str] = ()) -> JobDocument:
    """The document that JSON describes. `kinds` are those that the jobs programs have beside ours (`JobStore.kinds`).

    Raises `InvalidRequest`, whose text begins with the field's name.
    """
    found = _object(raw)
    kind = found.get("kind")
    if not isinstance(kind, str) or not _KIND.fullmatch(kind):
        raise InvalidRequest(f"kind: a job needs one: {', '.join(sorted({*DOCUMENTS, *kinds}))}")
    if kind not in DOCUMENTS and kind not in kinds:
        raise InvalidRequest(f"kind: {kind!r} is none of {', '.join(sorted({*DOCUMENTS, *kinds}))}")
    try:
        document = msgspec.convert(found, DOCUMENTS.get(kind, CustomDocument))
    except msgspec.ValidationError as error:
        raise InvalidRequest(_in_words(str(error))) from None
    document.check()
    return document


def encode_document(document: JobDocument) -> bytes:
    """The document as JSON that `read_document` reads; equal documents give equal bytes."""
    return msgspec.json.encode({"kind": document.kind} | msgspec.to_builtins(document), order="sorted")


def _is_web(url: str) -> bool:
    """Whether it is a URL of the web, with a host and without a port that is none."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _object(raw: bytes | str | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(raw, Mapping):
        return raw
    try:
        found = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"the job is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise InvalidRequest("the job must be a JSON object")
    return found


def _in_words(message: str) -> str:
    """msgspec's text, with the field's name first: "columns: Expected `object`, got `int`"."""
    text, _, path = message.partition(" - at `")
    named = re.search(r"(?:unknown|required) field `([^`]*)`", text)
    field = named[1] if named else path.rstrip("`").removeprefix("$").lstrip(".")
    return f"{field or 'job'}: {text}"
