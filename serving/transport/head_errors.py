"""Why a request is refused before any handler sees it."""

from millrace.protocol.errors import InvalidRequest, MillraceError, NotSupported


class RequestHeadError(InvalidRequest):
    """The bytes are no request of HTTP/1.1, in their head or in the framing of their body: 400."""


class HeadTooLarge(InvalidRequest):
    """The head has too many bytes or too many fields: 431."""

    status = 431


class RequestTimeout(MillraceError):
    """The caller did not send its request in time: 408."""

    code = "DEADLINE_EXCEEDED"
    status = 408
    can_retry = True


class FramingNotSupported(NotSupported):
    """A method or a transfer coding that the server does not know: 501."""


class LengthRequired(InvalidRequest):
    """A large body comes without its length being known: 411."""

    status = 411
