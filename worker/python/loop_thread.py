"""An event loop in a thread of its own, for code that is `async` beside code that is not."""

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")
_ENDS_WITHIN_S = 5.0


class LoopThread:
    """The loop, which starts with the first work. Any thread may use it; `name` is the thread's."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._changing = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def is_running(self) -> bool:
        """Whether there was work, and it is not closed."""
        return self._loop is not None

    def submit(self, work: Coroutine[Any, Any, _T]) -> "concurrent.futures.Future[_T]":
        """Begin it, in the context of the caller; its outcome in the end."""
        with self._changing:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=_run, args=(self._loop,), name=self._name, daemon=True)
                self._thread.start()
            return asyncio.run_coroutine_threadsafe(work, self._loop)

    def close(self) -> None:
        """End it with all that is still at work there. Waits 5 s at most: then it ends with the process."""
        with self._changing:
            loop, thread, self._loop = self._loop, self._thread, None
        if loop and thread:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(_ENDS_WITHIN_S)


def _run(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    with contextlib.suppress(RuntimeError):  # somebody stops it again
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.close()
