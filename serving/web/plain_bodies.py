"""Takes the content coding off request bodies for a WSGI application, so that every route of it gets plain ones.

Our own server does so before a request comes to Flask; this is for other WSGI servers.
"""

import io
from collections.abc import Callable, Iterable
from typing import Any

from millrace.protocol.errors import InvalidRequest, MillraceError
from serving.transport.content_encoding import unpack
from serving.transport.intake import body_error
from serving.transport.responses import error_body, error_headers
from serving.transport.unpacking import allowed_bytes, unpacked_error

Environ = dict[str, Any]
Application = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]


class PlainBodies:
    """Wraps an application. `limit_bytes` is the most that a body may have, packed or not."""

    def __init__(self, application: Application, limit_bytes: int) -> None:
        self._application = application
        self._limit_bytes = limit_bytes

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """The application's response, or the error of a body that cannot be unpacked."""
        coding = environ.pop("HTTP_CONTENT_ENCODING", None)
        if coding is not None:
            try:
                self._unpack(environ, coding)
            except MillraceError as error:
                headers = [("content-type", "application/json"), *error_headers(error)]
                start_response(f"{error.status} Refused", headers)
                return [error_body(str(error))]
        return self._application(environ, start_response)

    def _unpack(self, environ: Environ, coding: str) -> None:
        length = environ.get("CONTENT_LENGTH") or "0"
        if not length.isdigit():
            raise InvalidRequest("the Content-Length is not a number")
        if int(length) > self._limit_bytes:
            raise body_error(self._limit_bytes)
        packed = environ["wsgi.input"].read(int(length))
        plain = unpack(packed, coding.encode("latin-1"), allowed_bytes(len(packed), self._limit_bytes))
        if plain is None:
            raise unpacked_error(len(packed), self._limit_bytes)
        environ["wsgi.input"] = io.BytesIO(plain)
        environ["CONTENT_LENGTH"] = str(len(plain))
