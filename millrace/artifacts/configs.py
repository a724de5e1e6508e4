"""The configuration files of TensorFlow Serving and Triton, read for what we support.

`models.config` (TensorFlow Serving's model_config_list) names the models to serve. `config.pbtxt` (Triton's
ModelConfig) lies in a model's folder. What they ask for that is not done here is never passed over in silence: what
would make the answers wrong is an error, the rest is in `ignored`, for the log and for who asks about the model.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from google.protobuf import text_format

from millrace import rpc
from millrace.protocol.desired_state import ModelSettings, VersionPolicy

MODELS_CONFIG = "models.config"
CONFIG_PBTXT = "config.pbtxt"
# Triton's platforms and backends, as the names of our formats.
_FORMATS = {
    "onnxruntime_onnx": "onnx",
    "onnxruntime": "onnx",
    "tensorflow_savedmodel": "savedmodel",
    "tensorflow": "savedmodel",
    "tflite": "tflite",
}
_MOST_BYTES = 16_384  # that go with every heartbeat
_HAS_BATCH_SIZE = re.compile(r"(?m)^[^#\n]*\bmax_batch_size\s*:")
_KINDS = {0: "auto", 1: "cuda", 2: "cpu"}
# Without these the model would answer something else, or nothing.
_NEEDED = {
    "sequence_batching": "stateful models",
    "ensemble_scheduling": "ensembles",
    "model_operations": "custom operations",
    "batch_input": "batch inputs",
    "batch_output": "batch outputs",
}
_READ = {
    *("name", "platform", "backend", "version_policy", "max_batch_size", "input", "output", "instance_group"),
    *("default_model_filename", "model_warmup"),
}
_TENSOR_FIELDS = {"name", "data_type", "dims", "label_filename", "optional", "format", "reshape"}


class ConfigError(Exception):
    """A configuration file that cannot be read, or asks for what would make a model's answers wrong here."""


class ModelsConfig(msgspec.Struct, frozen=True):
    """A `models.config`: the models to serve, and the fields in it that have no effect here."""

    models: tuple[ModelSettings, ...]
    ignored: tuple[str, ...] = ()


class TensorConfig(msgspec.Struct, frozen=True):
    """A tensor as `config.pbtxt` declares it: `dims` without the dimension that counts rows, where rows are batched.

    `reshape` is the shape that the model's file has it in, where that is another than `dims`, which callers see.
    """

    name: str
    datatype: str
    dims: tuple[int, ...]
    reshape: tuple[int, ...] | None = None


class WarmupInput(msgspec.Struct, frozen=True, kw_only=True):
    """An input of a `model_warmup`: zeros, random numbers, or what a file in the model's folder `warmup` holds."""

    name: str
    datatype: str
    dims: tuple[int, ...]
    is_random: bool = False
    file: str = ""


class WarmupRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A `model_warmup`: the request to warm up with, in so many rows where the model batches."""

    batch_size: int
    inputs: tuple[WarmupInput, ...]


class TritonConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A `config.pbtxt`. What it does not say is None or empty; `ignored` names the fields that have no effect here.

    `instances` are by the kind of device: "cpu", "cuda", or "auto" for both. `gpus` has the number of a GPU for each
    instance, where any group names GPUs. `model_file` is the file or folder that is the model, in the version's folder;
    it `is_alone` where it was named by itself, so that nothing beside it counts.
    `message` is all of it, as a serialized `inference.ModelConfig`; empty where that is long.
    """

    format: str | None = None
    model_file: str = ""
    is_alone: bool = False
    policy: VersionPolicy | None = None
    max_batch_size: int | None = None
    max_queue_delay_ms: float | None = None
    inputs: tuple[TensorConfig, ...] = ()
    outputs: tuple[TensorConfig, ...] = ()
    labels_file: str | None = None
    instances: dict[str, int] = {}
    gpus: tuple[int, ...] = ()
    warmup: tuple[WarmupRequest, ...] = ()
    ignored: tuple[str, ...] = ()
    message: bytes = b""


def read_models_config(path: Path) -> ModelsConfig:
    """TensorFlow Serving's file; relative base paths are relative to it. Raises `ConfigError`."""
    config = _parsed(path, _text(path), "tensorflow.serving.ModelServerConfig")
    if config.HasField("custom_model_config"):
        raise ConfigError(f"{path}: custom_model_config is not supported; use model_config_list")
    models = tuple(_model_settings(path, model) for model in config.model_config_list.config)
    names = [model.name for model in models]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"{path}: {sorted(twice)[0]!r} is there twice")
    return ModelsConfig(models, tuple(_ignored_of_models(config)))


def _model_settings(path: Path, model: Any) -> ModelSettings:
    if not model.name:
        raise ConfigError(f"{path}: a config has no name")
    return ModelSettings(
        name=model.name,
        base_path=str(path.parent / (model.base_path or model.name)),
        policy=version_policy(model.model_version_policy),
        labels=dict(model.version_labels),
    )


def _ignored_of_models(config: Any) -> Iterator[str]:
    for model in config.model_config_list.config:
        if model.HasField("logging_config"):
            yield f"logging_config of {model.name}"
        if model.model_platform not in ("", "tensorflow"):
            yield f"model_platform {model.model_platform!r} of {model.name}: the format is read from its files"


def read_triton_config(folder: Path) -> TritonConfig | None:
    """The `config.pbtxt` in a model's folder, None where there is none. Raises `ConfigError`."""
    path = folder / CONFIG_PBTXT
    if not path.exists():
        return None
    text = _text(path)
    config = _parsed(path, text, "inference.ModelConfig")
    if config.name not in ("", folder.name):
        raise ConfigError(f"{path}: its name is {config.name!r}, but the model's folder is {folder.name!r}")
    for field, what in _NEEDED.items():
        if _is_set(config, field):
            raise ConfigError(f"{path}: {field} is not supported: {what} cannot be served here")
    if config.model_transaction_policy.decoupled:
        raise ConfigError(f"{path}: model_transaction_policy.decoupled is not supported: a request has one response")
    return TritonConfig(
        format=_format(path, config),
        model_file=_file_name(path, config.default_model_filename),
        policy=version_policy(config.version_policy),
        max_batch_size=config.max_batch_size if _HAS_BATCH_SIZE.search(text) else None,
        max_queue_delay_ms=(
            config.dynamic_batching.max_queue_delay_microseconds / 1000
            if config.dynamic_batching.max_queue_delay_microseconds
            else None
        ),
        inputs=tuple(_tensor(path, tensor) for tensor in config.input),
        outputs=tuple(_tensor(path, tensor) for tensor in config.output),
        labels_file=next((output.label_filename for output in config.output if output.label_filename), None),
        instances=_instances(config),
        gpus=_gpus(config),
        warmup=tuple(_warmup(request) for request in config.model_warmup),
        ignored=tuple(_ignored_of_triton(config)),
        message=message if len(message := config.SerializeToString()) <= _MOST_BYTES else b"",
    )


def version_policy(policy: Any) -> VersionPolicy | None:
    """A version policy of either server, as its message; None where none is set."""
    choice = policy.WhichOneof("policy_choice")
    if choice == "specific":
        return VersionPolicy(specific=tuple(policy.specific.versions) or (-1,))  # none: nothing is to be loaded
    if choice == "latest":
        return VersionPolicy(latest=policy.latest.num_versions or 1)
    return VersionPolicy(latest=0) if choice == "all" else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error


def _parsed(path: Path, text: str, message: str) -> Any:
    try:
        return text_format.Parse(text, rpc.message(message)(), descriptor_pool=rpc.pool())
    except text_format.ParseError as error:
        raise ConfigError(f"{path}:{error}") from error


def _is_set(message: Any, field: str) -> bool:
    return any(descriptor.name == field for descriptor, _ in message.ListFields())


def _format(path: Path, config: Any) -> str | None:
    named = config.backend or config.platform
    if not named:
        return None
    if named == "python":
        raise ConfigError(
            f"{path}: Triton's Python models are not supported; write the model as a plain class in model.py, without "
            "backend (docs/howto/serve-python-code.md)"
        )
    if named not in _FORMATS:
        raise ConfigError(f"{path}: the backend {named!r} is not supported; there are {', '.join(_FORMATS)}")
    return _FORMATS[named]


def _file_name(path: Path, name: str) -> str:
    if name and (name in (".", "..") or "/" in name or "\0" in name):
        raise ConfigError(f"{path}: default_model_filename must be a name in the version's folder, got {name!r}")
    return name


def _tensor(path: Path, tensor: Any) -> TensorConfig:
    for field, _ in tensor.ListFields():
        if field.name not in _TENSOR_FIELDS:
            raise ConfigError(f"{path}: {field.name} of {tensor.name!r} is not supported")
    dims, reshape = tuple(tensor.dims), None
    if tensor.HasField("reshape"):
        reshape = tuple(tensor.reshape.shape)
        if not _hold_the_same(dims, reshape):
            raise ConfigError(
                f"{path}: reshape of {tensor.name!r} from {list(dims)} to {list(reshape)}: each must have as many "
                "elements, between the dimensions of -1 too"
            )
    return TensorConfig(tensor.name, _datatype(tensor), dims, reshape)


def _hold_the_same(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether tensors of both shapes have as many elements, also between their free dimensions, as Triton wants it."""
    return _sizes_between(one) == _sizes_between(other)


def _sizes_between(shape: tuple[int, ...]) -> list[int]:
    sizes = [1]
    for size in shape:
        if size < 0:
            sizes.append(1)
        else:
            sizes[-1] *= size
    return sizes


def _warmup(request: Any) -> WarmupRequest:
    return WarmupRequest(
        batch_size=request.batch_size,
        inputs=tuple(
            WarmupInput(
                name=name,
                datatype=_datatype(tensor),
                dims=tuple(tensor.dims),
                is_random=tensor.random_data,
                file=tensor.input_data_file,
            )
            for name, tensor in sorted(request.inputs.items())
        ),
    )


def _datatype(tensor: Any) -> str:
    named = tensor.DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number[tensor.data_type].name
    oip: str = named.removeprefix("TYPE_")
    return "BYTES" if oip == "STRING" else oip


def _instances(config: Any) -> dict[str, int]:
    counts: dict[str, int] = {}
    for group in config.instance_group:
        if kind := _KINDS.get(group.kind):
            counts[kind] = counts.get(kind, 0) + max(1, group.count)
    return counts


def _gpus(config: Any) -> tuple[int, ...]:
    """The GPU of each instance: `count` on each that a group names, on the first where it names none."""
    groups = [group for group in config.instance_group if _KINDS.get(group.kind) in ("cuda", "auto")]
    if not any(group.gpus for group in groups):
        return ()
    return tuple(gpu for group in groups for gpu in group.gpus or (0,) for _ in range(max(1, group.count)))


def _ignored_of_triton(config: Any) -> Iterator[str]:
    """What has no effect here, in words."""
    for field, _ in config.ListFields():
        if field.name == "dynamic_batching":
            batching = config.dynamic_batching
            yield from (
                f"dynamic_batching.{part.name}"
                for part, _ in batching.ListFields()
                if part.name != "max_queue_delay_microseconds"
            )
        elif field.name not in _READ and field.name != "model_transaction_policy":
            yield field.name
    for group in config.instance_group:
        if group.kind not in _KINDS:
            yield "an instance_group of KIND_MODEL"
        done = ("name", "kind", "count", "gpus") if _KINDS.get(group.kind) != "cpu" else ("name", "kind", "count")
        parts = (part.name for part, _ in group.ListFields())
        yield from (f"instance_group.{part}" for part in parts if part not in done)
    if sum(bool(output.label_filename) for output in config.output) > 1:
        yield "label_filename of every output but the first"
