"""Ends a connection whose other side sends nothing, whatever is waited for."""

import contextlib
import socket
import threading
import time


class Patience:
    """While it is entered, hangs up on a server of which nothing has come for that long, in the middle of a line too.

    What was read of a head then may look whole: leaving raises `TimeoutError`.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._left = threading.Event()
        self._opened: socket.socket | None = None
        self._has_hung_up = False

    def __enter__(self) -> None:
        self._left.clear()
        self._opened, self._has_hung_up = None, False
        self.renew()
        self._thread = threading.Thread(target=self._watch, name="patience", daemon=True)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._thread.join()
        if self._has_hung_up:
            raise TimeoutError(f"it sends nothing for {self._seconds:g} s") from None

    def watch(self, opened: socket.socket) -> None:
        """What to hang up."""
        self.renew()
        self._opened = opened

    def renew(self) -> None:
        """Something has come."""
        self._ends = time.monotonic() + self._seconds

    def _watch(self) -> None:
        while not self._left.wait(max(0.01, self._ends - time.monotonic())):
            if self._opened and time.monotonic() >= self._ends:
                self._has_hung_up = True
                with contextlib.suppress(OSError):
                    self._opened.shutdown(socket.SHUT_RDWR)
                return
