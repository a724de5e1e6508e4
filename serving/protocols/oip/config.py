"""A model's configuration as Triton tells it: what its `config.pbtxt` says, completed with Triton's defaults.

What is true of the model here wins over what the file says: its tensors, and how many rows a batch has.
"""

from typing import Any

import orjson
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError

from millrace import rpc
from millrace.protocol.tensors import BYTES, TensorSpec
from serving.models.registry import ServedModel

_PRIORITY_LEVELS = 2
_WIDE = (FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_UINT64)
# What Triton looks for in a version's folder, by platform.
_FILES = {
    "onnxruntime_onnx": "model.onnx",
    "tensorflow_savedmodel": "model.savedmodel",
    "tflite": "model.tflite",
}


def config_message(model: ServedModel) -> Any:
    """The configuration as an `inference.ModelConfig`."""
    config = _declared(model)
    platform = model.announcement.platform
    config.name, config.platform, config.max_batch_size = model.name, platform, model.max_batch_size
    config.backend = config.backend or platform.partition("_")[0]
    config.default_model_filename = config.default_model_filename or _FILES.get(platform, "")
    if config.version_policy.WhichOneof("policy_choice") is None:
        config.version_policy.latest.num_versions = 1
    _set_tensors(model, config)
    _set_batching(model, config)
    if not config.instance_group:
        config.instance_group.add(name=model.name, count=1)
    for pinned in ("input_pinned_memory", "output_pinned_memory"):
        if not config.optimization.HasField(pinned):
            getattr(config.optimization, pinned).enable = True
    config.model_transaction_policy.decoupled = False
    for name, text in _beyond(model).items():
        if name not in config.parameters:
            config.parameters[name].string_value = text
    return config


def render_config(model: ServedModel) -> dict[str, Any]:
    """The body of `GET /v2/models/NAME/config`: every field has its name and value, numbers of 64 bits as numbers."""
    config = config_message(model)
    written: dict[str, Any] = json_format.MessageToDict(
        config,
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=True,
        descriptor_pool=rpc.pool(),
    )
    _use_numbers(config.DESCRIPTOR, written)
    return written


def _declared(model: ServedModel) -> Any:
    """What the model's `config.pbtxt` says, nothing where it has none."""
    config = rpc.message("inference.ModelConfig")()
    try:
        config.ParseFromString(model.announcement.triton_config)
    except DecodeError:  # of a worker of another version
        config.Clear()
    return config


def _set_tensors(model: ServedModel, config: Any) -> None:
    """The tensors that the model has, each with what the file says of it beside its type and shape."""
    signature = model.signature()
    for declared, specs in ((config.input, signature.inputs), (config.output, signature.outputs)):
        by_name = {tensor.name: tensor for tensor in declared}
        found = [_tensor(model, type(declared.add()), spec, by_name.get(spec.name)) for spec in specs]
        del declared[:]
        declared.extend(found)
    for tensor, spec in zip(config.input, signature.inputs, strict=True):
        tensor.optional = spec.optional


def _tensor(model: ServedModel, kind: Any, spec: TensorSpec, declared: Any) -> Any:
    """Its `dims` leave out the first dimension, the rows, where the model batches."""
    tensor = kind()
    if declared is not None:
        tensor.CopyFrom(declared)
    tensor.name = spec.name
    tensor.data_type = "TYPE_STRING" if spec.datatype == BYTES else f"TYPE_{spec.datatype}"
    tensor.dims[:] = (-1,) if spec.unknown_rank else spec.shape[1:] if model.max_batch_size else spec.shape
    return tensor


def _set_batching(model: ServedModel, config: Any) -> None:
    if not model.max_batch_size:
        config.ClearField("dynamic_batching")
        return
    batching = config.dynamic_batching
    batching.priority_levels = batching.priority_levels or _PRIORITY_LEVELS
    batching.default_priority_level = batching.default_priority_level or batching.priority_levels
    if not batching.preferred_batch_size:
        batching.preferred_batch_size.append(model.max_batch_size)


def _beyond(model: ServedModel) -> dict[str, str]:
    """What Triton's configuration has no field for, as its parameters carry it: text, or JSON in a text."""
    announcement = model.announcement
    media = {spec.name: spec.media for spec in model.signature().inputs if spec.media}
    found = {
        "description": announcement.description,
        "labels": orjson.dumps(announcement.labels).decode() if announcement.labels else "",
        "media": orjson.dumps(media).decode() if media else "",
        "notes": orjson.dumps(announcement.notes).decode() if announcement.notes else "",
    }
    return {name: text for name, text in found.items() if text}


def _use_numbers(descriptor: Any, written: dict[str, Any]) -> None:
    """Write numbers of 64 bits as numbers, where protobuf's JSON has them as text. Keys of maps stay text."""
    for field in descriptor.fields:
        if field.name not in written:
            continue
        value = written[field.name]
        if field.type in _WIDE:
            written[field.name] = [*map(int, value)] if isinstance(value, list) else int(value)
        elif field.message_type and field.message_type.GetOptions().map_entry:
            of_map = field.message_type.fields_by_name["value"]
            if of_map.message_type:
                for each in value.values():
                    _use_numbers(of_map.message_type, each)
        elif field.message_type:
            for each in value if isinstance(value, list) else [value]:
                _use_numbers(field.message_type, each)
