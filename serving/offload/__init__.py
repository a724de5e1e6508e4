"""Processes that read large bodies and write large responses, so that the event loop has time for everybody."""
