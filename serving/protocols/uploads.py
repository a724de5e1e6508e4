"""Bodies that are files: an image alone, or a form (multipart/form-data) whose parts are rows of a model's inputs.

    curl --data-binary @cat.jpg -H 'Content-Type: image/jpeg' …        one row of the model's input for files
    curl -F image=@cat.jpg -F image=@dog.png …                         two rows

A part belongs to the input that it is named after; a file of another name to the input for files, where there is one.
The input for files is the one that takes images, or else the only one that takes strings. The file itself is looked at
by the worker. All other parts are JSON.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from millrace.protocol.errors import InvalidRequest
from millrace.protocol.tensors import BYTES, DEFAULT_SIGNATURE, Signature, Tensor, TensorSpec, string_tensor
from serving.models.registry import ServedModel
from serving.protocols import json_tensors
from serving.protocols.limits import ReadLimits, check_count
from serving.protocols.verb import Body
from serving.queueing.admission import check_rows

_KINDS = (b"image/", b"multipart/form-data")
_FIRST_LETTERS = b"iImM"  # of these; most bodies have another kind, or none
_LONGEST_KIND = 19
_BOUNDARY = re.compile(rb'(?i);\s*boundary=(?:"([^"]{1,70})"|([^;,\s"]{1,70}))')
_PARAMETER = re.compile(rb';\s*([\w*]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;\s]*))')
_MAX_HEAD_BYTES = 8192
_PLAIN_CODINGS = (b"", b"7bit", b"8bit", b"binary")
_PART_VALUES = 16  # reading a part costs as much as so many values
_SIGNATURE_NAME = "signature_name"


class Upload(NamedTuple):
    """What a body of files asks for: a signature and its inputs."""

    signature: str
    inputs: dict[str, Tensor]


class Part(NamedTuple):
    """One part of a form. `is_file` says whether it has a file's name or an image's type."""

    name: str
    is_file: bool
    data: bytes


def content_type(headers: Mapping[bytes, bytes]) -> bytes | None:
    """The Content-Type of a body of files; None of any other body. `headers` have names in lower case."""
    given = headers.get(b"content-type")
    if given is None or given[:1] not in _FIRST_LETTERS:
        return None
    return given if given[:_LONGEST_KIND].lower().startswith(_KINDS) else None


def read(body: Body, kind: bytes, model: ServedModel, limits: ReadLimits) -> Upload:
    """What a body of that Content-Type asks for. Raises `InvalidRequest`, `PayloadTooLarge` and `NotQuick`."""
    limits.check_quick(len(body.data) >> 7)
    if kind.lower().startswith(_KINDS[0]):
        signature = model.signature()
        spec = _file_input(signature)
        if spec is None:
            raise InvalidRequest(f"model '{model.name}' takes no files; its inputs are {_inputs(signature)}")
        return Upload(DEFAULT_SIGNATURE, {spec.name: _files([bytes(body.data)], spec)})
    return _of_form(list(parts(bytes(body.data), kind, _most_parts(model, limits), limits)), model, limits)


def _most_parts(model: ServedModel, limits: ReadLimits) -> int:
    """How many parts there can be: each row of each input, and the signature's name."""
    return 1 + limits.max_rows * max(1, *(len(each.inputs) for each in model.announcement.signatures.values()))


def parts(data: bytes, kind: bytes, most: int, limits: ReadLimits) -> Iterator[Part]:
    """The parts of a form, in order. Raises `InvalidRequest`, and for more than `most` of them `PayloadTooLarge`."""
    found = _BOUNDARY.search(kind)
    if not found:
        raise InvalidRequest("the form's Content-Type has no boundary")
    delimiter = b"\r\n--" + (found[1] or found[2])
    data = b"\r\n" + data
    count = data.count(delimiter)
    check_count("parts", count - 1, most)
    limits.check_quick(_PART_VALUES * count)
    place = data.find(delimiter)
    while place >= 0:
        place += len(delimiter)
        if data.startswith(b"--", place):
            return
        end = data.find(delimiter, place)
        if end < 0:
            break
        yield _part(data, place, end)
        place = end
    raise InvalidRequest("the form has no end: its last boundary is missing")


def _part(data: bytes, start: int, end: int) -> Part:
    """The part between two boundaries: the rest of the first one's line, a head, an empty line, and the data."""
    head_end = data.find(b"\r\n\r\n", start, min(end, start + _MAX_HEAD_BYTES))
    if head_end < 0:
        raise InvalidRequest("a part of the form has no head that names it")
    head = dict(_header(line) for line in data[start:head_end].split(b"\r\n")[1:])
    disposition = {
        key.lower(): quoted or plain for key, quoted, plain in _PARAMETER.findall(head.get(_DISPOSITION, b""))
    }
    if b"name" not in disposition:
        raise InvalidRequest("a part of the form has no head that names it")
    if head.get(b"content-transfer-encoding", b"").lower() not in _PLAIN_CODINGS:
        raise InvalidRequest("the parts of a form are sent as they are, without Content-Transfer-Encoding")
    is_file = bool({b"filename", b"filename*"} & disposition.keys()) or head.get(
        b"content-type", b""
    ).lower().startswith(_KINDS[0])
    return Part(disposition[b"name"].decode("utf-8", "replace"), is_file, data[head_end + 4 : end])


_DISPOSITION = b"content-disposition"


def _header(line: bytes) -> tuple[bytes, bytes]:
    name, _, value = line.partition(b":")
    return name.strip().lower(), value.strip()


def _of_form(found: list[Part], model: ServedModel, limits: ReadLimits) -> Upload:
    names = [part.data.decode("utf-8", "replace") for part in found if part.name == _SIGNATURE_NAME]
    signature = model.signature(names[0] if names else "")
    specs = {spec.name: spec for spec in signature.inputs}
    rows: dict[str, list[Part]] = {}
    for part in found:
        if part.name in specs:
            rows.setdefault(part.name, []).append(part)
        elif part.is_file and (spec := _file_input(signature)):
            rows.setdefault(spec.name, []).append(part)
        elif part.name != _SIGNATURE_NAME:
            raise InvalidRequest(
                f"the form's part {json_tensors.quote(part.name)} is no input of model '{model.name}'; its inputs are "
                f"{_inputs(signature)}"
            )
    for of_input in rows.values():
        check_rows(model, len(of_input), limits.max_rows)
    inputs = {name: _tensor(of_input, specs[name], limits) for name, of_input in rows.items()}
    return Upload(names[0] if names and names[0] else DEFAULT_SIGNATURE, inputs)


def _tensor(rows: list[Part], spec: TensorSpec, limits: ReadLimits) -> Tensor:
    if spec.datatype == BYTES or (spec.media and all(part.is_file for part in rows)):
        return _files([part.data for part in rows], spec)
    return json_tensors.to_tensor([json_tensors.load(part.data, limits) for part in rows], spec)


def _files(files: list[bytes], spec: TensorSpec) -> Tensor:
    """A string for each row of the input."""
    row = () if spec.media or spec.unknown_rank else tuple(map(abs, spec.shape[1:]))
    if math.prod(row) != 1:
        raise InvalidRequest(f"input '{spec.name}' takes {math.prod(row)} strings a row, which files do not make")
    is_scalar = not spec.shape and not spec.unknown_rank and len(files) == 1
    return string_tensor(files, () if is_scalar else (len(files), *row))


def _file_input(signature: Signature) -> TensorSpec | None:
    """The input for files, None where there is none, or no telling which it is."""
    of_media = [spec for spec in signature.inputs if spec.media]
    of_strings = [spec for spec in signature.inputs if spec.datatype == BYTES and not spec.optional]
    found = of_media or of_strings
    return found[0] if len(found) == 1 else None


def _inputs(signature: Signature) -> str:
    return ", ".join(f"'{spec.name}' ({spec.datatype})" for spec in signature.inputs) or "none"
