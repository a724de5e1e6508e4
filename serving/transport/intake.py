"""Request bodies that do not come in one piece: each bounded in size, and all that are arriving bounded together."""

from millrace.protocol.errors import MillraceError, PayloadTooLarge, Unavailable
from serving.settings import ServingSettings
from serving.transport.request_head import Chunks, RequestHead


def too_large(settings: ServingSettings) -> PayloadTooLarge:
    """The error for a body above the limit."""
    return PayloadTooLarge(f"the request body is larger than the {settings.max_body_bytes} bytes that are allowed")


class Intake:
    """What one API process is taking in."""

    def __init__(self, settings: ServingSettings) -> None:
        self.settings = settings
        self.arriving_bytes = 0


class IncomingBody:
    """One body on its way. What is refused is still taken, and dropped, so that the caller comes to hear the answer.

    `refusal` is the error that it met: `PayloadTooLarge`, or `Unavailable` where too much is arriving at once.
    """

    def __init__(self, intake: Intake, head: RequestHead, raw_head: bytes) -> None:
        self.head = head
        self.refusal: MillraceError | None = None
        self._intake = intake
        self._missing = head.length
        self._chunks = Chunks(raw_head) if head.length < 0 else None
        self._parts: list[bytes] = []
        self._size = 0
        if head.length > intake.settings.max_body_bytes:
            self._refuse(too_large(intake.settings))

    def feed(self, data: bytes) -> bytes | None:
        """Take in what came; None until the body is complete, then what came behind it. Raises `RequestHeadError`."""
        if self._chunks:
            self._chunks.feed(data)
            parts, self._chunks.parts = self._chunks.parts, []
            self._keep(b"".join(parts))  # one object, however small the caller cuts its chunks
            return b"" if self._chunks.is_complete else None
        mine = data[: self._missing] if len(data) > self._missing else data
        self._missing -= len(mine)
        self._keep(mine)
        return None if self._missing else data[len(mine) :]

    @property
    def lost_its_place(self) -> bool:
        """Whether bytes of another request were dropped, so that the connection must end with this one."""
        return self._chunks is not None and self._chunks.has_more

    def end(self) -> bytes:
        """What came of the body, which counts no longer as arriving."""
        self._intake.arriving_bytes -= self._size
        parts, self._parts, self._size = self._parts, [], 0
        return b"".join(parts)

    def _keep(self, part: bytes) -> None:
        if self.refusal:
            return
        settings = self._intake.settings
        if self._size + len(part) > settings.max_body_bytes:
            self._refuse(too_large(settings))
        elif self._intake.arriving_bytes + len(part) > settings.max_arriving_bytes:
            self._refuse(Unavailable("too many large bodies are arriving at once; try again"))
        else:
            self._parts.append(part)
            self._size += len(part)
            self._intake.arriving_bytes += len(part)

    def _refuse(self, error: MillraceError) -> None:
        self.refusal = error
        self.end()
