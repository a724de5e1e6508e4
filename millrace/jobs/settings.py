"""The settings of jobs that the API and the jobs program both read; variables begin with MILLRACE_JOBS_."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from pydantic import Field, SecretStr, field_validator

from millrace.broker.discovery import servers
from millrace.settings import CommonSettings


def default_folder(environ: Mapping[str, str]) -> Path:
    """Where this user's jobs are kept, unless somebody says otherwise."""
    return Path(environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "millrace" / "jobs"


class JobStoreSettings(CommonSettings):
    """Where jobs are, and how much of them there may be."""

    prefix: ClassVar[str] = "MILLRACE_JOBS_"
    variable_names: ClassVar[Mapping[str, str]] = {"store_url": "MILLRACE_JOBS_REDIS_URL"}
    knows_all: ClassVar[bool] = False  # the jobs program has more of them

    store_url: SecretStr | None = Field(
        None,
        description="The Redis that keeps jobs: one with an append-only file, so that jobs survive a restart. "
        "Without it there are no jobs. A Redis Cluster cannot be used.",
    )
    folder: Path = Field(
        default_factory=lambda: default_folder(os.environ),
        description="Where uploads, parts and results are; the API and all jobs programs share it. "
        "By default `~/.local/state/millrace/jobs`.",
    )
    result_ttl_s: float = Field(
        7 * 86400.0, gt=0, description="How long a job that ended is kept, with its upload and its result."
    )
    max_upload_bytes: int = Field(2 * 1024**3, ge=1, description="The largest file that is uploaded with a job.")
    max_bytes: int = Field(
        20 * 1024**3, ge=1, description="What all uploads, parts and results may take together; more gets 507."
    )
    max_waiting: int = Field(1000, ge=1, description="Jobs that may wait to be started; one more gets 429.")
    callback_hosts: str = Field(
        "", description="Hosts, separated by commas, that a job's `callback_url` may name; `*` for all that are public."
    )

    @field_validator("store_url")
    @classmethod
    def _is_one_redis(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None:
            check_store_url(url.get_secret_value())
        return url

    @property
    def allowed_callback_hosts(self) -> frozenset[str]:
        """`callback_hosts`, in lower case."""
        return frozenset(host.strip().lower() for host in self.callback_hosts.split(",") if host.strip())


def check_store_url(url: str) -> None:
    """Raises `ValueError`, in words, where the URL names no Redis that can keep jobs."""
    if url.startswith(("redis+cluster://", "rediss+cluster://")):
        raise ValueError(
            "jobs cannot be kept in a Redis Cluster: RQ's keys are in several slots. Name one Redis, or its Sentinels"
        )
    servers(url)
