"""The worker's settings; each field is also an environment variable with the prefix MILLRACE_WORKER_."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, field_validator

from millrace.artifacts import storeurl
from millrace.devices import device_name
from millrace.settings import CommonSettings
from millrace.stopping import DRAIN_TIMEOUT_S


class WorkerSettings(CommonSettings):
    """Settings of one worker."""

    prefix: ClassVar[str] = "MILLRACE_WORKER_"

    models: Path | str = Field(
        Path("models"),
        description="The model repository: the folder that holds <model>/<version>/; or one model's file or folder; or "
        "a URL of a store that holds the same (s3://, gs://, az://, https://, hf://).",
    )
    models_cache: Path | None = Field(
        None,
        description="The folder that models of a URL are mirrored into; by default ~/.cache/millrace/models. Workers "
        "of one machine share it.",
    )
    models_cache_mb: int = Field(
        20_000,
        ge=0,
        description="Disk that mirrored models may take, in MB; 0 for no limit. The oldest versions that do not serve "
        "make way for newer ones.",
    )
    models_poll_s: float = Field(15.0, gt=0, description="How often to look into the store of models at a URL.")
    models_config: Path | None = Field(
        None,
        description="TensorFlow Serving's models.config; by default the file of that name in the repository, if any.",
    )
    poll_s: float = Field(1.0, gt=0, description="How often to look for versions that came or went.")
    device: Annotated[str, AfterValidator(device_name)] = Field(
        "cpu",
        description="Where the models run: `cpu`; `cuda` for the GPUs that a model's `instance_group.gpus` names, else "
        "the first; or `cuda:N` for the GPU number N alone.",
    )
    gpu_memory_mb: int = Field(
        0,
        ge=0,
        description="GPU memory that each session of ONNX Runtime may take, in MB; 0 for no limit. A model with "
        "convolutions has up to nine sessions. TensorFlow has one limit for all the models of a process.",
    )
    gpu_tf32: bool = Field(
        True,
        description="Whether a GPU may multiply FP32 numbers as TF32, with ten bits behind the point: it is two to "
        "three times as fast, and answers differ by up to a hundredth from a CPU's.",
    )
    backend: Literal["auto", "python", "onnx", "savedmodel", "tflite", "tfserving", "mlflow"] = Field(
        "auto", description="The format to load where a version has several; auto takes the first that is installed."
    )
    instances: int = Field(
        2,
        ge=1,
        description="Threads per model that take and run batches; the others join the first where it does not keep up.",
    )
    model_processes: int | None = Field(
        None,
        ge=1,
        description="Processes that run models: one for each model version, until there are so many; by default 8, 2 "
        "where there are more than 32 versions, and 1 with cuda.",
    )
    model_memory_mb: int = Field(
        0,
        ge=0,
        description="Memory that a process of models may take beyond what it starts with, in MB; 0 for no limit. "
        "What asks for more fails, and a process that has more is ended.",
    )
    allow_code: bool = Field(
        False,
        description="Whether models may be Python code (`model.py`, or MLflow's `MLmodel`), which can do all that the "
        "worker's user can.",
    )
    bulk_process: bool | None = Field(
        None,
        description="Whether what background jobs send runs in a process of its own, which takes only the processor "
        "time that callers leave; it has the model a second time while there are jobs. By default with `cpu` alone. "
        "Without it, a caller may wait for a batch of a job.",
    )
    load_timeout_s: float = Field(
        300.0, gt=0, description="How long a model's own code may take to load before its process is ended."
    )
    threads: int = Field(1, ge=1, description="Threads that one run of a model may use inside the runtime.")
    max_batch_size: int = Field(32, ge=1, description="Rows in a batch for a model whose manifest does not say.")
    warmup_timeout_s: float = Field(
        60.0,
        gt=0,
        description="How long the runs before a version serves may take; a version that takes longer is loaded again "
        "and served without them, in batches of one request.",
    )
    metrics_host: str = Field("127.0.0.1", description="The address of the worker's metrics; 0.0.0.0 for all.")
    metrics_port: int = Field(
        0, ge=0, le=65535, description="The port of the worker's own metrics for Prometheus; 0 for none."
    )
    lease_ms: int = Field(
        1500, ge=100, description="A batch whose worker is silent for this long is taken over by another worker."
    )
    drain_timeout_s: float = Field(
        DRAIN_TIMEOUT_S, ge=0, description="How long to finish batches in hand when told to stop."
    )

    @field_validator("models")
    @classmethod
    def _is_a_folder_or_a_store(cls, models: Path | str) -> Path | str:
        if not storeurl.is_url(text := str(models)):
            return Path(models)
        storeurl.protocol(text)  # raises ValueError, which says what is wrong
        return text
