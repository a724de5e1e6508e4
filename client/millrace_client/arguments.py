"""What an argument on the command line stands for.

argument                    stands for
an image file               the file, as it is
a file ending in .npy       the array in it
a file ending in .json      a TensorFlow Serving body ("inputs" or "instances"; "signature_name"), or a bare value
-                           standard input: JSON, an .npy or image file, or text, told apart by the content
anything else               the text itself
"""

import base64
import binascii
import io
import json
import mimetypes
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from millrace_client.errors import InvalidRequest

_NUMPY_MAGIC = b"\x93NUMPY"


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """The inputs of one prediction, as `Client.predict` takes them."""

    inputs: object
    signature: str | None = None


def query_of(argument: str, stdin: BinaryIO) -> Query:
    """The query that an argument stands for. Raises `InvalidRequest` for a file that is missing or malformed."""
    if argument == "-":
        return _query_of_content(stdin.read())
    path, kind = Path(argument), mimetypes.guess_type(argument, strict=False)[0] or ""
    is_image = kind.startswith("image/")
    if path.suffix not in (".json", ".npy") and not is_image:
        return Query(inputs=argument)
    try:
        content = path.read_bytes()
    except OSError as error:
        if " " in argument:  # a sentence that happens to end like a file's name
            return Query(inputs=argument)
        raise InvalidRequest(f"cannot read {argument}: {error.strerror}") from None
    if is_image:
        return Query(inputs=content)
    try:
        return _query_of_json(json.loads(content)) if path.suffix == ".json" else Query(inputs=_array_in(content))
    except ValueError as error:
        raise InvalidRequest(f"{argument} is not a {path.suffix} file: {error}") from None


def _query_of_content(content: bytes) -> Query:
    if content.startswith(_NUMPY_MAGIC):
        return Query(inputs=_array_in(content))
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return Query(inputs=content)
    if text.lstrip().startswith(("{", "[")):
        try:
            return _query_of_json(json.loads(text))
        except ValueError as error:
            raise InvalidRequest(f"standard input begins like JSON and is not: {error}") from None
    return Query(inputs=text.rstrip("\r\n"))


def _array_in(content: bytes) -> Any:
    return np.load(io.BytesIO(content), allow_pickle=False)


def _query_of_json(document: Any) -> Query:
    if not isinstance(document, dict):
        return Query(inputs=_decoded(document))
    signature = document.get("signature_name")
    if "instances" in document:
        return Query(inputs=_columns(_decoded(document["instances"])), signature=signature)
    return Query(inputs=_decoded(document.get("inputs", document)), signature=signature)


def _decoded(value: Any) -> Any:
    """The value with each {"b64": ...} as bytes."""
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() != {"b64"}:
        return {name: _decoded(item) for name, item in value.items()}
    try:
        return base64.b64decode(value["b64"], validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise ValueError(f"bad base64: {error}") from None


def _columns(instances: Any) -> Any:
    """One list per input name where the instances are objects by name, else the instances."""
    if not isinstance(instances, list) or not instances or not isinstance(instances[0], dict):
        return instances
    names = instances[0].keys()
    if any(not isinstance(row, dict) or row.keys() != names for row in instances):
        raise ValueError("the instances do not all have the same inputs")
    return {name: [row[name] for row in instances] for name in names}
