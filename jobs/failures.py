"""Why a job fails, where that is neither the caller's fault nor ours."""

from millrace.protocol.errors import MillraceError


class JobFailed(MillraceError):
    """The job cannot go on as things are; the text says why. A retry may help."""
