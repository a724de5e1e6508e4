"""Why a job fails, where that is neither the caller's fault nor ours."""

from millrace.protocol.errors import MillraceError


class JobFailed(MillraceError):
    """The job cannot go on as things are; the text says why. A retry may help."""


class NoModel(JobFailed):
    """No worker has the model now: the unit is put back, so that others have their turn, until it waited too long."""
