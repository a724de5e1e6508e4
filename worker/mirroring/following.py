"""Follows a store while the worker runs, in a thread of its own: a store that hangs keeps nothing else waiting."""

import hashlib
import logging
import threading
from collections.abc import Callable, Collection
from pathlib import Path

from worker.mirroring.cache import Cache
from worker.mirroring.layout import Key
from worker.mirroring.mirror import Mirror
from worker.mirroring.store import Store
from worker.settings import WorkerSettings

_log = logging.getLogger(__name__)


class StoreFollower:
    """Mirrors the store that the settings name into `folder`. Raises `CacheError`."""

    def __init__(self, settings: WorkerSettings) -> None:
        url = str(settings.models)
        root = settings.models_cache or Path("~/.cache/millrace/models").expanduser()
        self.folder = root / hashlib.sha256(url.encode()).hexdigest()[:16]  # each store has its own
        self._settings = settings
        self._store = Store(url)
        self._cache = Cache(self.folder)
        self._stopping = threading.Event()

    def start(self, in_use: Callable[[], Collection[Key]]) -> None:
        """Look at once, and then every `models_poll_s`, until `stop`. `in_use` is as for `Mirror`."""
        mirror = Mirror(self._store, self._cache, most_bytes=self._settings.models_cache_mb * 1_000_000, in_use=in_use)
        # A daemon: a fetch must not keep the process. What it leaves half done is removed at the next start.
        threading.Thread(target=self._follow, args=(mirror,), name="mirroring", daemon=True).start()

    def stop(self) -> None:
        """Look no more."""
        self._stopping.set()

    def _follow(self, mirror: Mirror) -> None:
        failure = ""
        while not self._stopping.is_set():
            try:
                mirror.look()
                failure = ""
            except Exception as error:
                if str(error) != failure:
                    _log.exception("mirroring the store failed; what is served stays")
                failure = str(error)
            self._stopping.wait(self._settings.models_poll_s)
