"""What keeps a load test from running."""


class CannotRun(Exception):
    """There can be no run: the server does not answer, or not to this."""
