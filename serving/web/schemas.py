"""The JSON bodies that callers send and get, as types: the OpenAPI document is made of them.

They describe; the hot verbs read and write JSON without them. That they are true is tested against the running stack.
"""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

Datatype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BYTES"
]
VersionState = Literal["UNKNOWN", "START", "LOADING", "AVAILABLE", "UNLOADING", "END"]
SignatureName = Annotated[str, Meta(description="The signature to run; the default one where it is left out.")]
Notes = Annotated[list[str], Meta(description="What of the version is left out or special, and why.")]
Warmed = Annotated[bool, Meta(description="Whether the version ran before its first request.")]
Size = Annotated[int, Meta(ge=0, description="How many elements the tensor has along this dimension.")]
Number = Annotated[str, Meta(pattern="^[0-9]+$")]


class Error(Struct):
    """What went wrong, in the words of the server whose protocol was spoken."""

    error: str


# TensorFlow Serving


class Rows(Struct):
    """One item per row: the input itself where the signature has one required input, else an object by input name."""

    instances: Annotated[list[Any], Meta(min_length=1, description="Bytes are {'b64': '…'}.")]
    signature_name: SignatureName | UnsetType = UNSET


class Columns(Struct):
    """The whole input where the signature has one required input, else an object by input name."""

    inputs: Annotated[Any, Meta(description="Bytes are {'b64': '…'}.")]
    signature_name: SignatureName | UnsetType = UNSET


class Predictions(Struct):
    """One item per row: the output itself where there is one, else an object by output name."""

    predictions: list[Any]


class Outputs(Struct):
    """The whole output where there is one, else an object by output name."""

    outputs: Any


Features = Annotated[
    dict[str, Any],
    Meta(description="Values by feature: one or a list of numbers, booleans or strings; bytes are {'b64': '…'}."),
]


class Examples(Struct):
    """One example per row: a feature for each input, in row-major order; those of the context go for all."""

    examples: Annotated[list[Features], Meta(min_length=1)]
    context: Features | UnsetType = UNSET
    signature_name: SignatureName | UnsetType = UNSET


class Classifications(Struct):
    """One list per row: each class with its score, as a pair."""

    results: list[list[Annotated[list[str | float], Meta(min_length=2, max_length=2)]]]


class Regressions(Struct):
    """One value per row."""

    results: list[float]


class Status(Struct):
    """Whether a version met an error."""

    error_code: str
    error_message: str


class VersionStatus(Struct):
    """The state of one version of a model."""

    version: Number
    state: VersionState
    status: Status
    notes: Notes | UnsetType = UNSET
    warmed: Warmed | UnsetType = UNSET


class ModelStatus(Struct):
    """The state of each version of a model."""

    name: str
    ready: Annotated[bool, Meta(description="Whether a live worker has it, as clients of KServe's v1 protocol ask.")]
    model_version_status: list[VersionStatus]


class ModelSpec(Struct):
    """Which version of which model."""

    name: str
    signature_name: str
    version: Number


class Dimension(Struct):
    """One dimension of a shape; "-1" where any size fits."""

    size: str
    name: str


class TensorShape(Struct):
    """A shape as TensorFlow writes it."""

    dim: list[Dimension]
    unknown_rank: bool


class TensorInfo(Struct):
    """An input or an output of a signature, with TensorFlow's datatype."""

    dtype: Annotated[str, Meta(pattern="^DT_[A-Z0-9]+$")]
    tensor_shape: TensorShape
    name: str


class SignatureDef(Struct):
    """A signature: what goes in and what comes out."""

    inputs: dict[str, TensorInfo]
    outputs: dict[str, TensorInfo]
    method_name: str
    defaults: dict[str, Any]


class SignatureDefMap(Struct):
    """The signatures by name."""

    signature_def: dict[str, SignatureDef]


class SignatureMetadata(Struct):
    """The one kind of metadata there is."""

    signature_def: SignatureDefMap


class Metadata(Struct):
    """The signatures of a model."""

    model_spec: ModelSpec
    metadata: SignatureMetadata


class ListedVersion(Struct):
    """The state of one version, in the list of models."""

    version: Number
    state: VersionState
    error_message: str
    notes: Notes
    warmed: Warmed


class ListedModel(Struct):
    """A model, in the list of models; its newest version comes first."""

    name: str
    description: str
    labels: list[str]
    versions: list[ListedVersion]


class ModelList(Struct):
    """Every model with its versions."""

    models: list[ListedModel]


# Open Inference Protocol


class ServerMetadata(Struct):
    """The server, and the protocol's extensions that it has."""

    name: str
    version: str
    extensions: list[str]


class Index(ServerMetadata):
    """The server and the names of its models; `status` is what clients of KServe's v1 protocol look at."""

    status: Literal["alive"]
    models: list[str]
    docs: Annotated[str, Meta(description="The path of the documentation.")]


class Live(Struct):
    """Whether the server runs."""

    live: bool


class Ready(Struct):
    """Whether the queue answers and at least one model is available."""

    ready: bool


class ModelReady(Struct):
    """Whether a live worker has the model."""

    name: str
    ready: bool


class TensorMetadata(Struct):
    """An input or an output; -1 in its shape where any size fits."""

    name: str
    datatype: str
    shape: list[int]


class Quantization(Struct):
    """What the integers of a tensor stand for: scale x (value - zero_point)."""

    scale: float
    zero_point: int


class ModelParameters(Struct):
    """What the protocol has no words for, each where there is something to say."""

    description: str | UnsetType = UNSET
    labels: Annotated[list[str], Meta(description="What the scores are for, in their order.")] | UnsetType = UNSET
    optional_inputs: list[str] | UnsetType = UNSET
    media: Annotated[dict[str, str], Meta(description="Inputs that also take files, and of what kind.")] | UnsetType = (
        UNSET
    )
    quantization: dict[str, Quantization] | UnsetType = UNSET
    notes: Notes | UnsetType = UNSET


class ModelMetadata(Struct):
    """A model's inputs and outputs, by its default signature."""

    name: str
    versions: list[Number]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    parameters: ModelParameters


class TensorConfig(Struct):
    """An input or an output in Triton's words; `dims` leave out the rows of a model that batches."""

    name: str
    data_type: Annotated[str, Meta(pattern="^TYPE_")]
    dims: list[int]
    is_shape_tensor: bool
    is_non_linear_format_io: bool
    reshape: dict[str, Any] | UnsetType = UNSET


class InputConfig(TensorConfig, kw_only=True):
    """An input."""

    format: Annotated[str, Meta(pattern="^FORMAT_")]
    allow_ragged_batch: bool
    optional: bool


class OutputConfig(TensorConfig, kw_only=True):
    """An output."""

    label_filename: str


class TransactionPolicy(Struct):
    """How many answers a request has: one."""

    decoupled: Literal[False]


class DynamicBatching(Struct):
    """How many priorities there are, and which one goes for requests that name none."""

    priority_levels: int
    default_priority_level: int
    preferred_batch_size: list[int]
    max_queue_delay_microseconds: int
    preserve_ordering: bool
    priority_queue_policy: dict[str, Any]
    default_queue_policy: dict[str, Any] | UnsetType = UNSET


class ModelConfig(Struct, kw_only=True):
    """Triton's model configuration: what the model's `config.pbtxt` says, completed with Triton's defaults."""

    name: str
    platform: str
    backend: str
    runtime: str
    version_policy: dict[str, Any]
    max_batch_size: Annotated[int, Meta(ge=0, description="0 where the model does not batch.")]
    input: list[InputConfig]
    output: list[OutputConfig]
    batch_input: list[dict[str, Any]]
    batch_output: list[dict[str, Any]]
    optimization: dict[str, Any]
    instance_group: list[dict[str, Any]]
    default_model_filename: str
    cc_model_filenames: dict[str, str]
    metric_tags: dict[str, str]
    parameters: Annotated[
        dict[str, Any], Meta(description="Those of `config.pbtxt`, and what the configuration has no field for.")
    ]
    model_warmup: list[dict[str, Any]]
    model_transaction_policy: TransactionPolicy
    dynamic_batching: DynamicBatching | UnsetType = UNSET
    response_cache: dict[str, Any] | UnsetType = UNSET


Count = Annotated[int, Meta(ge=0)]


class Duration(Struct):
    """How often something happened, and how long it took together."""

    count: Count
    ns: Count


class InferStatistics(Struct):
    """Requests by outcome, and the stages of those that a worker answered."""

    success: Duration
    fail: Duration
    queue: Duration
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration
    cache_hit: Duration
    cache_miss: Duration


class BatchStatistics(Struct):
    """The runs of batches of one size."""

    batch_size: Count
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration


class VersionStatistics(Struct):
    """What was counted of one version, by this API process."""

    name: str
    version: Number
    last_inference: Annotated[int, Meta(ge=0, description="Milliseconds of Unix time; 0 for never.")]
    inference_count: Annotated[int, Meta(ge=0, description="Rows.")]
    execution_count: Annotated[int, Meta(ge=0, description="Runs of the model.")]
    inference_stats: InferStatistics
    response_stats: dict[str, Any]
    batch_stats: list[BatchStatistics]
    memory_usage: list[Any]


class Statistics(Struct):
    """The statistics of the versions that are available."""

    model_stats: list[VersionStatistics]


class InputParameters(Struct):
    """How an input's elements travel."""

    binary_data_size: (
        Annotated[int, Meta(ge=0, description="They follow the JSON, in place of `data`, in so many bytes.")]
        | UnsetType
    ) = UNSET


class Input(Struct):
    """A tensor that goes in."""

    name: str
    datatype: Datatype
    shape: list[Size]
    data: Annotated[list[Any], Meta(description="The elements in row-major order, flat or nested.")] | UnsetType = UNSET
    parameters: InputParameters | UnsetType = UNSET


class RequestedOutputParameters(Struct):
    """How an output is wanted."""

    binary_data: bool | UnsetType = UNSET
    classification: (
        Annotated[
            int, Meta(ge=0, description="So many of the largest values, as 'VALUE:INDEX' or 'VALUE:INDEX:LABEL'.")
        ]
        | UnsetType
    ) = UNSET


class RequestedOutput(Struct):
    """An output that is wanted."""

    name: str
    parameters: RequestedOutputParameters | UnsetType = UNSET


class InferParameters(Struct):
    """What goes for the whole request."""

    timeout: Annotated[int, Meta(ge=0, description="Microseconds; 0 for the server's own.")] | UnsetType = UNSET
    priority: Annotated[int, Meta(ge=0, description="1 is served first.")] | UnsetType = UNSET
    binary_data_output: Annotated[bool, Meta(description="All outputs follow the JSON.")] | UnsetType = UNSET


class InferRequest(Struct):
    """The inputs, and the outputs that are wanted: all where none are named."""

    inputs: list[Input]
    id: Annotated[str, Meta(description="Comes back in the answer.")] | UnsetType = UNSET
    parameters: InferParameters | UnsetType = UNSET
    outputs: list[RequestedOutput] | UnsetType = UNSET


class Output(Struct):
    """A tensor that came out; `parameters.binary_data_size` in place of `data` where its elements follow the JSON."""

    name: str
    datatype: Datatype
    shape: list[Size]
    data: Annotated[list[Any], Meta(description="The elements in row-major order.")] | UnsetType = UNSET
    parameters: InputParameters | UnsetType = UNSET


class InferResponse(Struct):
    """The outputs, in the order in which they were asked for."""

    model_name: str
    model_version: Number
    outputs: list[Output]
    id: str | UnsetType = UNSET


# The model repository, in Triton's form


class IndexRequest(Struct):
    """Which versions to list."""

    ready: Annotated[bool, Meta(description="Only those that can answer.")] = False


class IndexEntry(Struct):
    """One version of a model, and why it is not ready."""

    name: str
    version: Number
    state: Literal["UNKNOWN", "READY", "UNAVAILABLE", "LOADING", "UNLOADING"]
    reason: str
    notes: Notes | UnsetType = UNSET
    warmed: Warmed | UnsetType = UNSET


class LoadRequest(Struct):
    """Triton takes a configuration and files here; they are refused with 501."""

    parameters: dict[str, Any] = {}


class UnloadParameters(Struct):
    """No model depends on another, so this changes nothing."""

    unload_dependents: bool = False


class UnloadRequest(Struct):
    """What else to unload."""

    parameters: UnloadParameters | UnsetType = UNSET


# What is wanted of a model at run time

VersionNumber = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class ShadowVersion(Struct, forbid_unknown_fields=True):
    """A version that is sent copies of a share of the requests; their answers are compared and dropped."""

    version: VersionNumber
    percent: Annotated[float, Meta(gt=0, le=100)]


class RolloutRecord(Struct, forbid_unknown_fields=True):
    """Where a roll-out stands, as `millrace rollout` keeps it; traffic that is set without it ends the roll-out."""

    version: Annotated[int, Meta(ge=0, description="The version that is rolled out.")]
    state: Literal["running", "promoted", "went back"]
    steps: Annotated[
        list[Annotated[float, Meta(gt=0, le=100)]],
        Meta(min_length=1, max_length=100, description="Percentages of the requests."),
    ]
    step: Annotated[int, Meta(ge=0, le=99, description="The number of the present one, from 0.")] = 0
    promote_if: Annotated[str, Meta(max_length=500)] = ""
    every_s: Annotated[float, Meta(ge=0)] = 0.0
    weights_before: Annotated[
        dict[str, Annotated[float, Meta(ge=0)]], Meta(max_length=1000, description="What it goes back to.")
    ] = {}
    shadow_before: ShadowVersion | None = None
    reason: Annotated[str, Meta(max_length=500, description="Why it went back.")] = ""


class Traffic(Struct, forbid_unknown_fields=True):
    """Which versions answer requests that name neither version nor label, and which is sent copies besides."""

    weights: Annotated[
        dict[str, Annotated[float, Meta(ge=0)]],
        Meta(description="By version, relative to each other; without any, the newest answers all."),
    ] = {}
    shadow: ShadowVersion | None = None
    rollout: RolloutRecord | None = None


class LabelledVersion(Struct, forbid_unknown_fields=True):
    """The version that a label is to stand for; it must be available."""

    version: VersionNumber


class LatestVersions(Struct, forbid_unknown_fields=True):
    """The newest versions, so many of them."""

    num_versions: Annotated[int, Meta(ge=1, le=1000)]


class AllVersions(Struct, forbid_unknown_fields=True):
    """Every version."""


class SpecificVersions(Struct, forbid_unknown_fields=True):
    """These versions."""

    versions: Annotated[list[VersionNumber], Meta(min_length=1, max_length=1000)]


class Policy(Struct, forbid_unknown_fields=True):
    """Which versions to load; exactly one of these."""

    latest: LatestVersions | UnsetType = UNSET
    all: AllVersions | UnsetType = UNSET
    specific: SpecificVersions | UnsetType = UNSET


class ModelTraffic(Struct):
    """What is wanted of a model at run time.

    Where there is no policy, the model's files say which versions are loaded. `generation` grows with every change.
    """

    is_loaded: bool
    generation: int
    labels: dict[str, int]
    weights: dict[str, float]
    shadow: ShadowVersion | None
    policy: Policy | None
    rollout: RolloutRecord | None = None


class Card(Struct):
    """What is known of a model version: how good it is, what it is not good for, and what it was made of."""

    description: str
    scores: dict[str, float]
    limits: Annotated[list[str], Meta(description="What the model is not good for, a sentence each.")]
    training: Annotated[dict[str, int | float | str], Meta(description="Hyper-parameters.")]
    data: Annotated[dict[str, str], Meta(description="Each training set with its SHA-256.")]
    licences: Annotated[dict[str, str], Meta(description="Of the training sets.")]
    files: Annotated[dict[str, int], Meta(description="Each file of the version with its size in bytes.")]
    plots: Annotated[list[str], Meta(description="The names of its plots, which are PNG images.")]
    example: Annotated[dict[str, Any], Meta(description="A body of `:predict`; empty where the manifest has none.")]


class Access(Struct):
    """What this caller may do, and what this server has."""

    may_change_models: bool
    reason: Annotated[str, Meta(description="Why the caller may not change models.")]
    jobs: Annotated[bool, Meta(description="Whether there are background jobs.")]
    device: Annotated[bool, Meta(description="Whether the page can run the bundled models in the browser.")]


# Background jobs


class JobLinks(Struct):
    """Where to go on with a job."""

    self: str
    events: str
    logs: str
    result: Annotated[str, Meta(description="Once the job is finished.")] | UnsetType = UNSET


class Job(Struct):
    """A background job at one moment. Times are in ISO 8601, null for what has not happened yet."""

    id: str
    kind: str
    state: Literal["queued", "started", "finished", "failed", "canceled"]
    rows: Annotated[int | None, Meta(description="Null until the rows are counted, or where the kind has none.")]
    rows_done: int
    rows_per_second: float | None
    eta_s: Annotated[float | None, Meta(description="Seconds until it is done, at the rate so far.")]
    errors: Annotated[int, Meta(description="Rows that the model refused.")]
    error: Annotated[str, Meta(description="Why the job failed.")]
    created: str | None
    started: str | None
    ended: str | None
    document: Annotated[dict[str, Any], Meta(description="What was asked for.")]
    outputs: Annotated[list[str], Meta(description="The names of the result's files, the main one first.")]
    written_to: Annotated[str, Meta(description="Where the result went instead, if the job named a place.")]
    links: JobLinks


class JobList(Struct):
    """Jobs, the newest first."""

    jobs: list[Job]


class JobLogLine(Struct):
    """One line of a job's log, of so many seconds since 1970."""

    time_s: float
    text: str


class JobLog(Struct):
    """The last lines of a job's log, the oldest first."""

    lines: list[JobLogLine]
