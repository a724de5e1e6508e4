"""A job's progress on one line of a terminal; elsewhere, a line for each state."""

from types import TracebackType
from typing import TextIO

from millrace_client.jobstatus import JobStatus

_WIDTH = 30


def line_of(status: JobStatus) -> str:
    """Such as `started  [#####-----]  50 %  500/1000 rows  1200 rows/s  0 s left  2 errors`."""
    parts = [status.state]
    if (fraction := status.fraction) is not None and status.rows:
        filled = round(_WIDTH * fraction)
        parts += [f"[{'#' * filled}{'-' * (_WIDTH - filled)}]", f"{fraction:4.0%}"]
    if status.rows:
        parts.append(f"{status.rows_done}/{status.rows} rows")
    if status.rows_per_second:
        parts.append(f"{status.rows_per_second:.0f} rows/s")
    if status.eta_s is not None:
        parts.append(f"{status.eta_s:.0f} s left")
    if status.errors:
        parts.append(f"{status.errors} errors")
    return "  ".join(parts)


class ProgressBar:
    """Shows statuses on `out`. A context manager: it leaves the last line standing."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._is_terminal = out.isatty()
        self._last = ""
        self._state = ""

    def show(self, status: JobStatus) -> None:
        """Show a status."""
        line = line_of(status)
        if self._is_terminal:
            print(f"\r{line.ljust(len(self._last))}", end="", file=self._out, flush=True)
            self._last = line
        elif status.state != self._state:
            print(line, file=self._out, flush=True)
        self._state = status.state

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._last:
            print(file=self._out)
