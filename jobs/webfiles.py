"""Files at http and https URLs: fetched as a stream, from public addresses alone unless others are allowed too.

Each redirect is checked as the first URL is. No proxy is asked, and no credentials are sent.
"""

import http.client
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from jobs.addresses import connected
from jobs.patience import Patience
from millrace.protocol.errors import InvalidRequest

_TIMEOUT_S = 30.0
_PIECE = 1024**2
_FEWEST_BYTES_S = 16 * 1024  # on average, after the first 30 s: a job that waits keeps others waiting
_HEADERS = {"Accept-Encoding": "identity", "User-Agent": "millrace"}
_TRIES, _AGAIN_S = 3, 0.5


class WebFiles:
    """Fetches files. `protocols` are those of "http" and "https" that may be used.

    A server that sends nothing of a head or of a body for `patience_s` is hung up on. `wait` waits so many seconds, and
    `clock` counts them.
    """

    def __init__(
        self,
        protocols: Collection[str],
        *,
        allow_private: bool,
        patience_s: float = _TIMEOUT_S,
        wait: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wait = wait
        self._clock = clock
        self._patience = Patience(patience_s)
        self._opener = urllib.request.OpenerDirector()
        for handler in (
            _Http(allow_private, self._patience),
            _Https(allow_private, self._patience),
            _Redirects(protocols),
            urllib.request.HTTPErrorProcessor(),
            urllib.request.HTTPDefaultErrorHandler(),
        ):
            self._opener.add_handler(handler)

    def fetch(self, url: str, path: Path, check_room: Callable[[int], None]) -> None:
        """Write the file at the URL to `path`. Raises `InvalidRequest`, and whatever `check_room` raises."""
        host = urlsplit(url).hostname
        for attempt in range(1, _TRIES + 1):
            try:
                with self._patience:
                    self._once(url, path, check_room)
                return
            except InvalidRequest as error:
                problem = str(error)
                break
            except urllib.error.HTTPError as error:
                problem = f"{host} answered {error.code} {error.reason}"
                if error.code < 500:
                    break
            except (OSError, http.client.HTTPException) as error:
                problem = f"{host} cannot be read: {getattr(error, 'reason', None) or error}"
            except ValueError as error:
                problem = f"{host} redirects to what is no URL: {error}"
                break
            if attempt < _TRIES:
                self._wait(_AGAIN_S * attempt)
        raise InvalidRequest(f"input: {problem}")

    def _once(self, url: str, path: Path, check_room: Callable[[int], None]) -> None:
        request = urllib.request.Request(url, headers=_HEADERS)  # noqa: S310  # the opener knows two protocols
        with self._opener.open(request, timeout=_TIMEOUT_S) as response, path.open("wb") as file:
            began = self._clock()
            while piece := response.read1(_PIECE):
                self._patience.renew()
                check_room(len(piece))
                file.write(piece)
                taken_s = self._clock() - began
                if taken_s > _TIMEOUT_S and file.tell() < _FEWEST_BYTES_S * taken_s:
                    raise InvalidRequest(f"{urlsplit(url).hostname} sends fewer than {_FEWEST_BYTES_S} bytes a second")
            if response.length:  # what is missing of the announced length
                raise http.client.IncompleteRead(b"", response.length)


class _HttpConnection(http.client.HTTPConnection):
    def __init__(self, *args: Any, allow_private: bool, patience: Patience, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._allow_private = allow_private
        self._patience = patience

    def connect(self) -> None:
        self.sock = self._secured(connected(self.host, self.port, self._allow_private, _TIMEOUT_S))
        self._patience.watch(self.sock)

    def _secured(self, opened: socket.socket) -> socket.socket:
        return opened


class _HttpsConnection(_HttpConnection):
    default_port = 443

    def _secured(self, opened: socket.socket) -> socket.socket:
        return ssl.create_default_context().wrap_socket(opened, server_hostname=self.host)


class _Http(urllib.request.HTTPHandler):
    def __init__(self, allow_private: bool, patience: Patience) -> None:
        super().__init__()
        self._connection = partial(_HttpConnection, allow_private=allow_private, patience=patience)

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._connection, req)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, allow_private: bool, patience: Patience) -> None:
        super().__init__()
        self._connection = partial(_HttpsConnection, allow_private=allow_private, patience=patience)

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._connection, req)


class _Redirects(urllib.request.HTTPRedirectHandler):
    def __init__(self, protocols: Collection[str]) -> None:
        self._protocols = protocols

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        protocol = urlsplit(newurl).scheme
        if protocol not in self._protocols:
            raise InvalidRequest(f"it was redirected to {protocol}://, which is not allowed")
        fp.close()  # else its body would be read into memory, however long it is
        return super().redirect_request(req, fp, code, msg, headers, newurl)
