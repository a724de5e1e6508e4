"""What is wrong with the settings of traces."""


class TracingError(Exception):
    """One of OpenTelemetry's variables has a value that is none, or one that is not supported; the text names it."""
