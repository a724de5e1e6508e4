"""What a probe is told, and what it reports, one JSON line each."""

import msgspec

from millrace.artifacts.configs import TritonConfig
from millrace.protocol.messages import ModelAnnouncement


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """The version to load, as a worker with these settings would, and the address that requests are to be sent to.

    `not_run` is why it must not be run, "" where it is to be.
    """

    folder: str
    name: str
    version: int
    config: TritonConfig | None
    device: str
    gpu_memory_mb: int
    gpu_tf32: bool
    threads: int
    backend: str
    max_batch_size: int
    url: str
    grpc: str
    allow_code: bool = False
    not_run: str = ""


class Runs(msgspec.Struct, frozen=True, kw_only=True):
    """What one run of so many rows takes (one whole request where there are no batches): ms, the least of a few.

    `memory_mb` is the most that the process had, with the model and its runtime, beyond an empty one; 0: not known.
    """

    rows: int
    ms: float
    memory_mb: float


class Example(msgspec.Struct, frozen=True, kw_only=True):
    """A request in one protocol, ready to paste. `kind` is "shell" or "python"."""

    protocol: str
    kind: str
    text: str


class Phase(msgspec.Struct, frozen=True, tag="phase"):
    """What the probe does now: what ends it from here on is that one's fault."""

    name: str


class Report(msgspec.Struct, frozen=True, kw_only=True, tag="report"):
    """What was found of one version. Where `error` says why it cannot be served, there is nothing else.

    `batching` says whether rows are batched, and why. `untried` says why the examples were not run, "" where they were;
    `unsaid` what no request could be written for.
    """

    model: str
    version: int
    folder: str
    error: str = ""
    announcement: ModelAnnouncement | None = None
    batching: str = ""
    load_s: float = 0.0
    memory_mb: float = 0.0
    runs: tuple[Runs, ...] = ()
    untried: str = ""
    examples: tuple[Example, ...] = ()
    unsaid: tuple[str, ...] = ()
