"""Logs as JSON, one line an event: time, level, program, event, and whatever `extra` the caller gave.

Where a program is several processes, "process" says which of them.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import TextIO

_STANDARD = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object on one line; a trace, where there is one, is its field "trace"."""

    def __init__(self, program: str, process: int = 0) -> None:
        super().__init__()
        self._source: dict[str, object] = {"program": program} | ({"process": process} if process else {})

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        event = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            **self._source,
            "event": record.getMessage(),
        }
        event |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info:
            event["trace"] = self.formatException(record.exc_info)
        return json.dumps(event, default=str)


def configure(program: str, level: str, stream: TextIO | None = None, *, process: int = 0) -> None:
    """Send this process's logs to standard error, or a stream, in that form.

    `level` is debug, info, warning or error; `process` is this one's number where the program is several.
    """
    out = logging.StreamHandler(stream or sys.stderr)
    out.setFormatter(JsonFormatter(program, process))
    logging.basicConfig(level=level.upper(), handlers=[out], force=True)
