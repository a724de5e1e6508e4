"""The settings of the jobs program; each field is also an environment variable with the prefix MILLRACE_JOBS_."""

from pathlib import Path
from typing import ClassVar

from pydantic import Field, SecretStr

from millrace.jobs.settings import JobStoreSettings


class JobsSettings(JobStoreSettings):
    """Settings of one jobs program."""

    knows_all: ClassVar[bool] = True

    root: Path | None = Field(
        None, description="Jobs may read and write files below this folder; without it, only uploads and URLs."
    )
    protocols: str = Field(
        "", description="Protocols of URLs that jobs may read and write, separated by commas: `s3,gs,https`."
    )
    url_private: bool = Field(
        False,
        description="Whether URLs that name a host may lead to private addresses: loopback, 10.0.0.0/8 and others.",
    )
    part_rows: int = Field(50_000, ge=1, description="Rows in one part of a job, unless the job says otherwise.")
    models: Path = Field(
        Path("models"), description="The model repository: what jobs of the kind `export` may export again."
    )
    kinds: Path | None = Field(
        None, description="A folder of Python files, one for each kind of job of your own; who writes there, runs code."
    )
    max_memory_bytes: int = Field(
        4 * 1024**3,
        ge=256 * 1024**2,
        description="What the process that runs a part of a job may allocate; a file that needs more fails its job. "
        "Linux only.",
    )
    gives_way: bool = Field(
        True,
        description="Whether the processes that run parts of jobs take only the processor time that nobody else on the "
        "machine wants; false for a machine that is there for jobs.",
    )
    model_wait_s: float = Field(
        600.0, gt=0, description="How long a job waits for a worker that has its model before it fails."
    )
    callback_secret: SecretStr | None = Field(
        None, description="What webhooks are signed with (HMAC-SHA256, header `X-Millrace-Signature`)."
    )
    callback_private: bool = Field(
        False, description="Whether webhooks may go to private addresses: loopback, link-local, 10.0.0.0/8 and others."
    )

    @property
    def allowed_protocols(self) -> frozenset[str]:
        """`protocols`, in lower case."""
        return frozenset(each.strip().lower() for each in self.protocols.split(",") if each.strip())
