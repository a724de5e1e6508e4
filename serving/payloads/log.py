"""The API's side of the payload log: it decides, copies a bounded number of bytes, and hands them over.

    event loop ──one datagram, never waited for──► writer, a process of its own ──► files

Where the writer does not keep up, the socket between them is full: the record is dropped and counted. A writer that
ends is started again, and finds what waits in the socket.
"""

import logging
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping

import msgspec

from millrace.protocol.tensors import Tensor
from millrace.restarts import RestartDelays
from serving.payloads.record import Content, Record
from serving.payloads.shares import read_shares, share_of
from serving.queueing.requests import InferenceRequest
from serving.settings import ServingSettings

_log = logging.getLogger(__name__)
_SOCKET_BYTES = 4 * 1024**2  # asked for; the system gives what it allows
# Messages stay whole in both kinds; only the first holds many small ones.
_KIND = socket.SOCK_SEQPACKET if sys.platform == "linux" else socket.SOCK_DGRAM
_STOP_TIMEOUT_S = 2.0
_COMMAND = "import sys; sys.path[:] = sys.argv[6:]; from serving.payloads.writer import main; main(sys.argv[1:6])"
_encode = msgspec.msgpack.Encoder().encode


class Sample(msgspec.Struct, frozen=True):
    """A request that is to be logged with its answer: a copy of the inputs that are not left out."""

    model: str
    version: int
    signature: str
    inputs: dict[str, Content]


class PayloadLog:
    """Samples requests. `start` starts the writer, `stop` lets it write what it has; the other methods never wait.

    `count` is told what becomes of each sampled request, by model: "handed_over", "dropped" or "too_large". `chance`
    gives numbers from 0 to 1, `wall` the time in seconds since 1970.
    """

    def __init__(
        self,
        settings: ServingSettings,
        count: Callable[[str, str], None],
        *,
        chance: Callable[[], float] = random.random,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._shares = read_shares(settings.payload_share)
        self._left_out = frozenset(filter(None, (name.strip() for name in settings.payload_leave_out.split(","))))
        self._most_bytes = settings.payload_record_bytes
        self._arguments = [
            str(settings.payload_folder.absolute()),
            str(settings.payload_bytes),
            str(settings.payload_age_s),
            settings.payload_format,
        ]
        self._count = count
        self._chance = chance
        self._wall = wall
        self._ours: socket.socket | None = None
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the writer, and start it again whenever it ends. Raises `OSError`."""
        self._ours, writers = socket.socketpair(socket.AF_UNIX, _KIND)
        self._ours.setblocking(False)
        self._ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BYTES)
        self._thread = threading.Thread(target=self._keep_writer, args=(writers,), name="payload writer", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Hand over nothing more, and wait for at most 2 s until all is written."""
        self._stopping.set()
        if self._ours and self._thread:
            self._ours.close()
            self._thread.join(_STOP_TIMEOUT_S)

    def sample(self, request: InferenceRequest) -> Sample | None:
        """What to keep of a request until it is answered; None where it is not logged."""
        if self._chance() >= share_of(self._shares, request.model):
            return None
        inputs = self._copied(request.model, request.inputs, self._most_bytes)
        if inputs is None:
            self._count(request.model, "too_large")
            return None
        return Sample(request.model, request.version, request.signature, inputs)

    def put(self, sample: Sample, request_id: str, outputs: Mapping[str, Tensor]) -> None:
        """Hand a sample over with its answer, or drop it."""
        left = self._most_bytes - sum(len(data) for _, _, data in sample.inputs.values())
        copied = self._copied(sample.model, outputs, left)
        if copied is None:
            self._count(sample.model, "too_large")
            return
        about = self._wall(), request_id, sample.model, sample.version, sample.signature
        self._count(sample.model, "handed_over" if self._send(Record(*about, sample.inputs, copied)) else "dropped")

    def _send(self, record: Record) -> bool:
        """Whether the socket took it: it may be full, or closed."""
        if self._ours is None:
            return False
        try:
            self._ours.send(_encode(record))
        except OSError:
            return False
        return True

    def _copied(self, model: str, tensors: Mapping[str, Tensor], most_bytes: int) -> dict[str, Content] | None:
        """The tensors that are not left out; None where they are too large."""
        left_out = self._left_out
        kept = {name: each for name, each in tensors.items() if not left_out & {name, f"{model}:{name}"}}
        if sum(len(tensor.data) for tensor in kept.values()) > most_bytes:
            return None
        return {name: (tensor.datatype, tensor.shape, bytes(tensor.data)) for name, tensor in kept.items()}

    def _keep_writer(self, records: socket.socket) -> None:
        delays = RestartDelays()
        with records:  # it stays open here, so that what waits in it outlives a writer
            while True:
                delays.started(time.monotonic())
                try:
                    end = f"ended with status {self._started(records.fileno()).wait()}"
                except OSError as error:  # the machine cannot have one more process
                    end = str(error)
                if self._stopping.wait(delays.ended(time.monotonic())):
                    return
                _log.error("the writer of the payload log is started again", extra={"reason": end})

    def _started(self, descriptor: int) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-c", _COMMAND, str(descriptor), *self._arguments, *sys.path]
        # A session of its own: Ctrl-C reaches only whoever started all, who stops them in order.
        return subprocess.Popen(command, pass_fds=[descriptor], start_new_session=True)  # noqa: S603
