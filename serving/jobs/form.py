"""A job as it arrives: JSON, or a form with the job and a file, which goes to the job store piece by piece.

curl -d '{"kind": "score", …}' …
curl -F 'job={"kind": "score", …};type=application/json' -F input=@rows.csv …
"""

import re
from collections.abc import Callable
from typing import Any

from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.http import parse_options_header
from werkzeug.sansio.multipart import Data, Field, File, MultipartDecoder, NeedData, State

from millrace.jobs.store import JobStore
from millrace.jobs.uploads import Upload, UploadWriter
from millrace.protocol.errors import CodingNotSupported, InvalidRequest, PayloadTooLarge

MAX_DOCUMENT_BYTES = 2**20
JOB, INPUT = "job", "input"
_MAX_PARTS = 16
_MAX_HEAD_BYTES = 64 * 1024  # of one part, and of what stands before the first
_SLICE_BYTES = 32 * 1024
_JSON = ("application/json", "application/x-www-form-urlencoded", "")  # the second is what curl says of its own accord
_BOUNDARY = re.compile(r"[ -~]{0,199}[!-~]")


class JobForm:
    """Takes in one body with `write`; then `document` is the job's JSON, and `upload` the file that came with it.

    Its methods block on the disk and on the jobs' Redis. Left without `upload`, `close` deletes what was written; it
    calls `closed`.
    """

    def __init__(self, store: JobStore, content_type: str, closed: Callable[[], None] = lambda: None) -> None:
        kind, options = parse_options_header(content_type)
        self._closed: Callable[[], None] | None = closed
        self._store = store
        self._document = bytearray()
        self._has_document = kind in _JSON
        self._writer: UploadWriter | None = None
        self._part = ""
        self._is_complete = False
        self._decoder = None if self._has_document else _decoder(kind, options.get("boundary", ""))

    def write(self, data: bytes) -> None:
        """Take in more of the body. Raises `InvalidRequest`, `PayloadTooLarge`, `StorageFull`."""
        if self._decoder is None:
            self._add_to_document(data)
            return
        view = memoryview(data)
        for start in range(0, len(view), _SLICE_BYTES):
            self._decode(self._decoder, bytes(view[start : start + _SLICE_BYTES]))

    def document(self) -> bytes:
        """The job as JSON, once all of the body is here. Raises `InvalidRequest`."""
        if self._decoder is not None and not self._is_complete:
            raise InvalidRequest("the form has no end: its last boundary is missing")
        if not self._has_document:
            raise InvalidRequest(f"the form has no part {JOB!r} with the job as JSON")
        return bytes(self._document)

    def upload(self) -> Upload | None:
        """The file, now complete; None where none came."""
        return self._writer.finish() if self._writer else None

    def close(self) -> None:
        """Delete a file that was not finished. Closing again does nothing."""
        if self._writer:
            self._writer.__exit__(None, None, None)
        closed, self._closed = self._closed, None
        if closed:
            closed()

    def _decode(self, decoder: MultipartDecoder, data: bytes) -> None:
        try:
            decoder.receive_data(data)
            while not isinstance(event := decoder.next_event(), NeedData):
                self._take(event)
        except RequestEntityTooLarge:
            raise InvalidRequest(f"the form has more than {_MAX_PARTS} parts, or a part's head is too large") from None
        except ValueError as error:  # that of werkzeug's decoder
            raise InvalidRequest(f"the form cannot be read: {error}") from None
        self._is_complete = decoder.state == State.EPILOGUE

    def _take(self, event: Any) -> None:
        if isinstance(event, Field | File):
            self._begin(event)
        elif isinstance(event, Data) and self._part == JOB:
            self._add_to_document(event.data)
        elif isinstance(event, Data) and self._writer:
            self._writer.write(event.data)

    def _begin(self, part: Field | File) -> None:
        self._part = part.name or ""
        if part.name == JOB and not self._has_document:
            self._has_document = True
        elif part.name == INPUT and isinstance(part, File) and not self._writer:
            self._writer = self._store.upload(part.filename or INPUT)
        else:
            raise InvalidRequest(
                f"the form's part {self._part[:100]!r}: a form has one part {JOB!r}, and at most one file {INPUT!r}"
            )

    def _add_to_document(self, data: bytes | bytearray) -> None:
        if len(self._document) + len(data) > MAX_DOCUMENT_BYTES:
            raise PayloadTooLarge(f"the job is larger than {MAX_DOCUMENT_BYTES} bytes; its rows belong into a file")
        self._document += data


def _decoder(kind: str, boundary: str) -> MultipartDecoder:
    if kind != "multipart/form-data":
        raise CodingNotSupported(
            f"a job is sent as application/json, or with a file as multipart/form-data, and not as {kind[:100]!r}"
        )
    if not _BOUNDARY.fullmatch(boundary):
        raise InvalidRequest("the form's Content-Type has no boundary")
    return MultipartDecoder(boundary.encode(), max_form_memory_size=_MAX_HEAD_BYTES, max_parts=_MAX_PARTS)
