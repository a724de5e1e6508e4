"""Tells an address of the caller's that its job ended: signed, to allowed hosts alone, and again until it answers.

The body is the job's record as JSON. `X-Millrace-Signature: sha256=HEX` is the HMAC-SHA256 of "TIMESTAMP.BODY" with the
operator's secret, and `X-Millrace-Timestamp` that timestamp (seconds since 1970), so that nobody can replay it later.
Redirects are not followed, and the address that is connected to is the one that was checked.
"""

import contextlib
import hashlib
import hmac
import http.client
import logging
import socket
import ssl
import threading
from typing import Any
from urllib.parse import SplitResult, urlsplit

import msgspec

from jobs.addresses import connected
from jobs.settings import JobsSettings
from millrace.jobs.keys import CALLS
from millrace.jobs.records import JobRecord
from millrace.jobs.store import JobStore, check_callback, in_words
from millrace.protocol.errors import MillraceError, NotFound

_log = logging.getLogger(__name__)
_EVERY_S = 0.5
_TIMEOUT_S, _CALL_S = 5.0, 15.0  # for each step of a call, and for all of it
_FIRST_AGAIN_S, _LONGEST_AGAIN_S, _MOST_TRIES = 1.0, 600.0, 12


class Webhooks:
    """The webhooks of all jobs, made by whichever program comes first."""

    def __init__(self, store: JobStore, settings: JobsSettings) -> None:
        self._store = store
        self._settings = settings

    def run(self, stopping: threading.Event) -> None:
        """Call until it stops."""
        while not stopping.wait(_EVERY_S):
            try:
                self.call_due()
            except MillraceError as error:
                _log.warning("webhooks could not be looked after", extra={"reason": str(error)})
            except Exception:
                _log.exception("webhooks could not be looked after")

    def call_due(self) -> None:
        """Make every call whose time has come. Raises `Unavailable`."""
        client, now = self._store.client, self._store.clock()
        with in_words():
            due: Any = client.zrangebyscore(CALLS, 0, now)
        for raw in due:
            with in_words():  # whoever moves it first makes the call; it stays due if we die
                mine = client.eval(_TAKE, 1, CALLS, raw, repr(now), repr(now + 2 * _CALL_S))
            if mine:
                self._call(str(raw, "utf-8"))

    def _call(self, job: str) -> None:
        try:
            record = self._store.get(job)
        except NotFound:
            with in_words():
                self._store.client.zrem(CALLS, job)
            return
        try:
            status = self.tell(record)
            problem = "" if 200 <= status < 300 else f"status {status}"
        except (MillraceError, OSError, http.client.HTTPException, ValueError) as error:
            problem = str(error) or type(error).__name__
        self._settle(job, problem)

    def _settle(self, job: str, problem: str) -> None:
        """Note what came of it, and when to try again."""
        tries = self._store.count_try(job, "webhook")
        if not problem or tries >= _MOST_TRIES:
            self._store.log(job, f"webhook given up: {problem}" if problem else "webhook delivered")
            with in_words():
                self._store.client.zrem(CALLS, job)
            return
        again_s = min(_LONGEST_AGAIN_S, _FIRST_AGAIN_S * 2 ** (tries - 1))
        self._store.log(job, f"webhook failed, again in {again_s:g} s: {problem}")
        with in_words():
            self._store.client.zadd(CALLS, {job: self._store.clock() + again_s})

    def tell(self, record: JobRecord) -> int:
        """Call once; the status of the answer. Raises `MillraceError` for what is not allowed, `OSError` and others."""
        url = urlsplit(str(record.document["callback_url"]))
        check_callback(url.geturl(), self._settings.allowed_callback_hosts)
        body, stamp = msgspec.json.encode(record), str(int(self._store.clock()))
        headers = {"Content-Type": "application/json", "X-Millrace-Timestamp": stamp}
        if secret := self._settings.callback_secret:
            key = secret.get_secret_value().encode()
            signature = hmac.new(key, f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()
            headers["X-Millrace-Signature"] = f"sha256={signature}"
        connection = self._connect(url)
        hang_up = threading.Timer(_CALL_S, _shut, [connection.sock])
        hang_up.start()
        try:
            connection.request("POST", url._replace(scheme="", netloc="").geturl() or "/", body, headers)
            return connection.getresponse().status
        finally:
            hang_up.cancel()
            connection.close()

    def _connect(self, url: SplitResult) -> http.client.HTTPConnection:
        """A connection to an address that is allowed; the name is not looked up a second time."""
        host, port = url.hostname or "", url.port or (443 if url.scheme == "https" else 80)
        opened = connected(host, port, self._settings.callback_private, _TIMEOUT_S)
        connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)
        if url.scheme == "https":
            opened = ssl.create_default_context().wrap_socket(opened, server_hostname=host)
        connection.sock = opened
        return connection


def _shut(opened: socket.socket) -> None:
    """End a call that takes too long, whatever it waits for."""
    with contextlib.suppress(OSError):
        opened.shutdown(socket.SHUT_RDWR)


_TAKE = """
local due = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not due or tonumber(due) > tonumber(ARGV[2]) then return 0 end
redis.call('ZADD', KEYS[1], ARGV[3], ARGV[1])
return 1
"""
