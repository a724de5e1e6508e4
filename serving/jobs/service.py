"""The jobs of one API process: the store, or words for its absence, and who watches."""

from collections.abc import Callable

from millrace.jobs.settings import JobStoreSettings
from millrace.jobs.store import JobStore, open_store
from millrace.protocol.errors import NotSupported
from serving.jobs.form import MAX_DOCUMENT_BYTES, JobForm
from serving.jobs.metrics import JobMetrics
from serving.jobs.watching import Watching


class Jobs:
    """What the API has of jobs. `settings` is None, or names no Redis, where there are none."""

    def __init__(self, settings: JobStoreSettings | None = None) -> None:
        self._store = open_store(settings) if settings and settings.store_url else None
        self.max_body_bytes = settings.max_upload_bytes + MAX_DOCUMENT_BYTES if settings and self._store else 0
        self.metrics = JobMetrics(self._store) if self._store else None
        self.watching = Watching(self._store) if self._store else None

    @property
    def is_on(self) -> bool:
        """Whether there are jobs."""
        return self._store is not None

    @property
    def store(self) -> JobStore:
        """The store. Raises `NotSupported` where there are no jobs."""
        if self._store is None:
            raise NotSupported("this server has no jobs: MILLRACE_JOBS_REDIS_URL names no Redis that keeps them")
        return self._store

    def form(self, content_type: str, closed: Callable[[], None] = lambda: None) -> JobForm:
        """What takes in a job's body; see `JobForm`. Raises `CodingNotSupported`, `InvalidRequest`, `NotSupported`."""
        return JobForm(self.store, content_type, closed)
