"""The API's settings; each field is also an environment variable with the prefix MILLRACE_SERVING_."""

import importlib.util
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, SecretStr, ValidationInfo, field_validator

from millrace.installing import hint
from millrace.settings import CommonSettings
from millrace.stopping import DRAIN_TIMEOUT_S
from serving.payloads.shares import read_shares


class ServingSettings(CommonSettings):
    """Settings of the API, which is one process or several."""

    prefix: ClassVar[str] = "MILLRACE_SERVING_"

    host: str = Field("127.0.0.1", description="The address to listen on; 0.0.0.0 for all.")
    port: int = Field(8000, ge=0, le=65535, description="The HTTP port.")
    grpc_port: int = Field(8001, ge=0, le=65535, description="The gRPC port; 0 switches gRPC off.")
    grpc_server: Literal["own", "grpcio"] = Field(
        "own",
        description="What serves gRPC: own, this server's HTTP/2; or grpcio, gRPC's Python library (grpc.aio), which "
        "needs the extra `grpcio` and goes in the next release.",
    )
    tls_cert: Path | None = Field(
        None,
        description="The server's certificate, with those of the authorities between it and a known one: PEM. With it "
        "both ports speak TLS (docs/howto/secure-with-tls-and-keys.md). It is read again when it changes.",
    )
    tls_key: Path | None = Field(
        None, description="The certificate's private key, not encrypted: PEM.", validate_default=True
    )
    tls_client_ca: Path | None = Field(
        None,
        description="The authorities that sign certificates of clients: PEM. With it clients are asked for theirs.",
        validate_default=True,
    )
    tls_client_auth: Literal["required", "optional"] = Field(
        "required",
        description="Whether a client must have a certificate, where they are asked for. With optional the gRPC port "
        "asks for none.",
    )
    keys_file: Path | None = Field(
        None,
        description="The file of API keys that `millrace keys` writes. With it every caller needs a key; it is read "
        "again when it changes (docs/howto/secure-with-tls-and-keys.md).",
    )
    supervisor_key: SecretStr | None = Field(
        None,
        description="One more key, with the roles infer and read: `millrace up` makes one for itself where there is a "
        "file of keys.",
    )
    processes: int = Field(
        0,
        ge=0,
        le=256,
        description="API processes that listen on these ports together; 0 stands for as many as fit: one for each two "
        "of the cores that the CPU affinity and the cgroup's quota leave, and for each 2 GiB of memory "
        "(docs/howto/tune.md).",
    )
    grpc_tensor_content: bool = Field(
        False,
        description="Answer TensorFlow Serving's Predict over gRPC with tensor_content, which is quicker to read, "
        "in place of the typed values that clients in every language read.",
    )
    max_body_bytes: int = Field(
        64 * 2**20,
        ge=1024,
        description="The largest request body over HTTP; a larger one gets 413.",
    )
    max_grpc_message_bytes: int = Field(
        64 * 2**20,
        ge=1024,
        description="The largest gRPC message that is taken; a larger one gets RESOURCE_EXHAUSTED.",
    )
    max_buffered_bytes: int = Field(
        0,
        ge=0,
        description="Bytes of requests and responses that the API may hold at once, whatever they wait for; beyond it "
        "callers get 503. Each of its processes has an equal share. 0 stands for a quarter of the memory of the "
        "machine or its cgroup, at most 512 MiB for each process (docs/explanation/memory.md).",
    )
    offload_processes: int = Field(
        2,
        ge=0,
        le=64,
        description="Processes that read large bodies and write large responses, for each API process. With 0 the API "
        "process does it itself, and keeps all callers waiting meanwhile.",
    )
    offload_memory_bytes: int = Field(
        1536 * 2**20,
        ge=64 * 2**20,
        description="Address space that each of them may take for one body or response; one that needs more gets 413.",
    )
    max_queue_rows: int = Field(
        4096, ge=1, description="Rows that one model's queue holds; beyond it requests get 429."
    )
    max_queue_bytes: int = Field(
        256 * 2**20, ge=1024, description="Bytes that one model's queue holds; beyond it requests get 429."
    )
    request_timeout_ms: int = Field(
        30_000, ge=1, description="The deadline of a request that names none, and the longest that one may name."
    )
    worker_grace_s: float = Field(
        2.0,
        ge=0,
        description="How long open requests wait for another worker when the last one that had their model has left or "
        "died; then they get 503.",
    )
    max_connections: int = Field(
        10_000,
        ge=1,
        description="HTTP connections that one API process may have open at once, more get 503; and gRPC calls, more "
        "get RESOURCE_EXHAUSTED.",
    )
    max_grpc_connections: int = Field(
        1000,
        ge=1,
        description="gRPC connections that one API process may have open at once, at most a quarter of its open files; "
        "more are closed.",
    )
    keep_alive_timeout_s: float = Field(
        75.0, gt=0, description="How long a connection may be idle between two requests before it is closed."
    )
    max_connection_age_s: float = Field(
        0.0,
        ge=0,
        description="How long a connection of HTTP/2 or gRPC is used, give or take a tenth: then the caller is told to "
        "open another one, and this one is closed once its calls have ended. So a balancer can spread callers anew. "
        "0: for ever.",
    )
    drain_timeout_s: float = Field(
        DRAIN_TIMEOUT_S, ge=0, description="How long to wait for open requests when told to stop."
    )
    model_control: Literal["loopback", "explicit", "none"] = Field(
        "loopback",
        description="Who may load and unload models and change policies, labels and traffic: loopback, callers on this "
        "machine; explicit, every caller; none, nobody. Web pages of others never may. Who may not gets 403 "
        "(docs/howto/versions.md).",
    )
    control_hosts: str = Field(
        "",
        description="Names, separated by commas, that callers on this machine use for it beside localhost: a request "
        "that changes models under any other Host gets 403.",
    )
    load_timeout_s: float = Field(
        300.0, gt=0, description="How long a caller who asks for a model to be loaded or unloaded is kept waiting."
    )
    playground: bool = Field(
        True,
        description="Show browsers a page at / to try the models and watch the stack (docs/howto/playground.md).",
    )
    playground_assets: Path | None = Field(
        None,
        description="A folder with onnxruntime-web's files: with it the page also runs the bundled models in the "
        "browser, and callers may download model.onnx and vocabulary.txt of each version (docs/howto/playground.md).",
    )
    models: Path | None = Field(
        None,
        description="The model repository, where this machine has it: the models' cards and plots are read from it. "
        "Without it there are none (millrace up sets it).",
    )
    cors_origin: str = Field(
        "", description="The origin whose web pages may call the API, * for any; without it browsers let none."
    )
    access_log: bool = Field(
        False, description="Log every request; without it only refused and failed ones are logged."
    )
    payload_share: str = Field(
        "",
        description="The share of each model's requests that is logged with its answer, `digits=10%,*=1%`; without it "
        "none is (docs/howto/watch-for-drift.md).",
    )
    payload_folder: Path = Field(Path("payloads"), description="Where logged requests and answers are written to.")
    payload_format: Literal["jsonl", "parquet"] = Field(
        "jsonl",
        description="How logged requests are kept: as JSON Lines, or as Parquet once a file is full or an hour old, "
        "which needs pyarrow.",
    )
    payload_leave_out: str = Field(
        "", description="Inputs and outputs that are not logged, separated by commas: `image` or `digits:image`."
    )
    payload_bytes: int = Field(
        1024**3, ge=1024**2, description="What logged requests may take on the disk; the oldest make way."
    )
    payload_age_s: float = Field(30 * 86400.0, gt=0, description="How long logged requests are kept.")
    payload_record_bytes: int = Field(
        65_536,
        ge=1024,
        le=131_072,
        description="The largest request that is logged: bytes of its tensors and its answer's that are not left out.",
    )

    @field_validator("payload_share")
    @classmethod
    def _has_shares(cls, text: str) -> str:
        read_shares(text)  # raises ValueError, which says what is wrong
        return text

    @field_validator("payload_format")
    @classmethod
    def _can_be_written(cls, name: str) -> str:
        if name == "parquet" and importlib.util.find_spec("pyarrow") is None:
            raise ValueError(f"parquet needs pyarrow, which is not installed; {hint(('payload-log',))}")
        return name

    @field_validator("tls_key")
    @classmethod
    def _goes_with_a_certificate(cls, key: Path | None, info: ValidationInfo) -> Path | None:
        if (key is None) != (info.data.get("tls_cert") is None):
            raise ValueError("MILLRACE_SERVING_TLS_CERT and MILLRACE_SERVING_TLS_KEY are set together, or neither")
        return key

    @field_validator("tls_client_ca")
    @classmethod
    def _goes_with_tls(cls, authority: Path | None, info: ValidationInfo) -> Path | None:
        if authority and not info.data.get("tls_cert"):
            raise ValueError("clients show certificates in TLS alone: set MILLRACE_SERVING_TLS_CERT too")
        return authority

    @property
    def process_count(self) -> int:
        """How many API processes there are; 1 where nobody has said so yet."""
        return max(1, self.processes)

    @property
    def control_host_names(self) -> frozenset[str]:
        """The names in `control_hosts`, in lower case."""
        return frozenset(name.strip().lower() for name in self.control_hosts.split(",") if name.strip())
