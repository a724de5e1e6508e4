"""The writer of the payload log, a process of its own: it reads records from a socket until the API closes it."""

import logging
import os
import signal
import socket
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from millrace import logs
from serving.payloads.files import PayloadFiles
from serving.payloads.parquet import to_parquet
from serving.payloads.record import Record, line

_log = logging.getLogger(__name__)
_MOST_MESSAGE_BYTES = 2**20
_IDLE_S = 0.5
_PRUNE_S = 60.0
_LEAST_COMPLAINT_S = 60.0


def main(arguments: Sequence[str]) -> None:
    """Write what comes through a socket, given by its descriptor, to a folder of so many bytes and seconds of age.

    The format is `jsonl` or `parquet`.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logs.configure("payloads", "warning")
    descriptor, folder, most_bytes, most_age_s, file_format = arguments
    closed = _to_parquet if file_format == "parquet" else None
    files = PayloadFiles(Path(folder), str(os.getpid()), int(most_bytes), float(most_age_s), closed=closed)
    write_all(socket.socket(fileno=int(descriptor)), files)


def write_all(records: socket.socket, files: PayloadFiles) -> None:
    """Write records until the other side has closed the socket. A disk that is full costs records, and is logged."""
    decode = msgspec.msgpack.Decoder(Record).decode
    complaint_s = -_LEAST_COMPLAINT_S
    pruned_s = time.monotonic() - _PRUNE_S
    records.settimeout(_IDLE_S)
    while True:
        try:
            message = records.recv(_MOST_MESSAGE_BYTES)
        except TimeoutError:
            message = None
        except OSError:  # how a socket of datagrams says that its other side is closed
            break
        if message == b"":
            break
        try:
            if message:
                record = decode(message)
                files.append(record.model, line(record))
            if time.monotonic() - pruned_s >= _PRUNE_S:
                pruned_s = time.monotonic()
                files.prune()
        except Exception as error:
            if time.monotonic() - complaint_s >= _LEAST_COMPLAINT_S:
                complaint_s = time.monotonic()
                _log.error("a payload was not written", extra={"reason": f"{type(error).__name__}: {error}"})
    files.close()


def _to_parquet(path: Path) -> None:
    try:
        to_parquet(path)
    except Exception as error:  # pyarrow's own, the disk's, or no memory: the lines are there in any case
        _log.error("a file of the payload log stays JSON Lines", extra={"file": str(path), "reason": str(error)})
