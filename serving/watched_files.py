"""Files that are read again when they change: certificates, keys.

Whoever replaces a file may write it in place, rename another one to its name, or move a link, as Kubernetes does with
secrets. All three show in what `stat` says of the path.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

_log = logging.getLogger(__name__)
LOOK_S = 1.0
_State = tuple[object, ...]


class WatchedFiles:
    """Calls `changed` in a thread when any of the files is another one than before, looking every `look_s` seconds.

    What fails in it is logged and tried again. `start` and `stop` on the event loop. What is known before `start` is
    how the files were when this was made.
    """

    def __init__(self, paths: Sequence[Path], changed: Callable[[], None], look_s: float = LOOK_S) -> None:
        self._paths = paths
        self._changed = changed
        self._look_s = look_s
        self._known = self._states()
        self._looking: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look."""
        self._looking = asyncio.get_running_loop().create_task(self._look_on())

    async def stop(self) -> None:
        """Look no more."""
        if self._looking:
            self._looking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._looking
            self._looking = None

    def look(self) -> None:
        """Look now."""
        found = self._states()
        if found != self._known:
            self._changed()
            self._known = found

    async def _look_on(self) -> None:
        while True:
            await asyncio.sleep(self._look_s)
            try:
                await asyncio.to_thread(self.look)
            except Exception:  # of `changed`, or because no thread can be had now
                _log.exception("files could not be looked at; they are looked at again")

    def _states(self) -> list[_State]:
        return [_state(path) for path in self._paths]


def _state(path: Path) -> _State:
    try:
        found = path.stat()
    except OSError as error:
        return (error.errno,)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
