"""What one request may hold: counted before anything is built from it.

A few kilobytes can stand for gigabytes: as gzip, as JSON of empty values, as messages without fields. So numbers of
rows, values and messages are compared with these limits first. The limits are far above what clients send.
"""

import msgspec

from millrace.protocol.errors import PayloadTooLarge

MAX_VALUES = 4_000_000  # of JSON or messages, each of which becomes an object of about 100 bytes
MAX_NAMED = 1024  # inputs, outputs, parameters and the like of one request
MAX_RANK = 32  # dimensions of a tensor, as in TensorFlow and numpy
MAX_CLASSES = 2**23  # classes that one response may name, each of which becomes a string
QUICK_VALUES = 2048  # objects that are built in about a millisecond
QUICK_BYTES = 65_536  # JSON numbers that are read in about half a millisecond
QUICK_TEXT_BYTES = 4 * QUICK_BYTES  # the same of JSON that is long strings


class NotQuick(Exception):
    """Reading the request, or writing its response, takes longer than the event loop has time for."""


class ReadLimits(msgspec.Struct, frozen=True):
    """The limits of one reading: `max_rows` of a batch, `max_values` that become objects.

    `max_quick` is how many values may be read here and now, 0 where there is all the time until the deadline.
    """

    max_rows: int = 4096
    max_values: int = MAX_VALUES
    max_quick: int = 0

    def check_quick_json(self, body: bytes | memoryview, length: int) -> None:
        """Raises `NotQuick` where the JSON in the first `length` bytes of a body takes too long to read."""
        self.check_quick_length(length)
        if self.max_quick and length > QUICK_BYTES:
            self.check_quick(most_values(bytes(body[:length])))

    def check_quick_length(self, length: int) -> None:
        """Raises `NotQuick` where JSON of that many bytes takes too long to read, however few values it has."""
        if self.max_quick and length > QUICK_TEXT_BYTES:
            raise NotQuick

    def check_quick(self, values: int) -> None:
        """Raises `NotQuick` where so many values take too long."""
        if self.max_quick and values > self.max_quick:
            raise NotQuick


def most_values(document: bytes) -> int:
    """How many values the JSON has at most: each stands behind one of these; those inside of strings count too."""
    return document.count(b",") + document.count(b"[") + document.count(b"{") + 1


def too_many(what: str, limit: int) -> PayloadTooLarge:
    """The error for a request with more of something than the limit."""
    return PayloadTooLarge(f"the request has more than {limit} {what}, which is the limit")


def check_count(what: str, count: int, limit: int = MAX_NAMED) -> None:
    """Raises `PayloadTooLarge` where there is more of something than the limit."""
    if count > limit:
        raise too_many(what, limit)
