"""How a request is written and its answer read, by the name of its form; the names are those of the peers' harness."""

import http.client
import json
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

Floats = npt.NDArray[np.float32]
_JSON = {"Content-Type": "application/json"}
_BYTES = {"Content-Type": "application/octet-stream"}
_HEAD_LENGTH = "Inference-Header-Content-Length"


class Refused(Exception):
    """The server answered, but not with 200; the text is the status and the beginning of the body."""


@dataclass(frozen=True, slots=True)
class Form:
    """`encode` makes headers and body of one item; `decode` reads the scores, flat, out of an answer to it.

    `marker` is the text after which the scores stand in a JSON answer, for wrk.lua; "" where they are its last bytes.
    """

    encode: Callable[[Any], tuple[dict[str, str], bytes]]
    decode: Callable[[Mapping[str, str], bytes], Floats]
    marker: str


def _instances(images: Floats) -> tuple[dict[str, str], bytes]:
    return _JSON, _compact({"instances": images.astype(int).tolist()})


def _text(text: str) -> tuple[dict[str, str], bytes]:
    return _JSON, _compact({"instances": [text]})


def _v2_json(images: Floats) -> tuple[dict[str, str], bytes]:
    return _JSON, _compact({"inputs": [_head(images) | {"data": images.astype(int).ravel().tolist()}]})


def _v2_binary(images: Floats) -> tuple[dict[str, str], bytes]:
    tensor = _head(images) | {"parameters": {"binary_data_size": images.nbytes}}
    head = _compact({"inputs": [tensor], "parameters": {"binary_data_output": True}})
    return _BYTES | {_HEAD_LENGTH: str(len(head))}, head + images.tobytes()


def _words(words: list[str]) -> tuple[dict[str, str], bytes]:
    tensor = {"name": "tokens", "datatype": "BYTES", "shape": [1, len(words)], "data": words}
    return _JSON, _compact({"inputs": [tensor], "outputs": [{"name": "similarities"}]})


def _head(images: Floats) -> dict[str, Any]:
    return {"name": "image", "shape": list(images.shape), "datatype": "FP32"}


def _compact(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _predictions(_: Mapping[str, str], body: bytes) -> Floats:
    return np.asarray(orjson.loads(body)["predictions"], "f4").ravel()


def _data(_: Mapping[str, str], body: bytes) -> Floats:
    return np.asarray(orjson.loads(body)["outputs"][0]["data"], "f4")


def _tail(headers: Mapping[str, str], body: bytes) -> Floats:
    """The bytes after the JSON; a raw answer has none."""
    return np.frombuffer(body[int(headers.get(_HEAD_LENGTH.lower(), 0)) :], "f4")


FORMS = {
    "instances": Form(_instances, _predictions, '"predictions"'),
    "text": Form(_text, _predictions, '"predictions"'),
    "words": Form(_words, _data, '"data"'),
    "v2 json": Form(_v2_json, _data, '"data"'),
    "v2 binary": Form(_v2_binary, _tail, ""),
    "v2 raw": Form(lambda images: (_BYTES | {_HEAD_LENGTH: "0"}, images.tobytes()), _tail, ""),
    "raw f4": Form(lambda images: (_BYTES, images.tobytes()), _tail, ""),
}


class Connection:
    """One kept connection to a server, for one request at a time."""

    def __init__(self, url: str) -> None:
        parts = urllib.parse.urlsplit(url)
        self._http = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
        self._path = parts.path

    def post(self, headers: dict[str, str], body: bytes) -> tuple[dict[str, str], bytes]:
        """The answer's headers, their names in lower case, and body. Raises `Refused`, `OSError`, `HTTPException`."""
        self._http.request("POST", self._path, body, headers)
        answer = self._http.getresponse()
        content = answer.read()
        if answer.status != http.HTTPStatus.OK:
            raise Refused(f"HTTP {answer.status}: {content[:200].decode(errors='replace')}")
        return {name.lower(): value for name, value in answer.getheaders()}, content

    def close(self) -> None:
        """Disconnect."""
        self._http.close()


def ask(url: str, form: Form, item: Any) -> Floats:
    """One answer, on a connection of its own. Raises what `Connection.post` raises."""
    connection = Connection(url)
    try:
        return form.decode(*connection.post(*form.encode(item)))
    finally:
        connection.close()
