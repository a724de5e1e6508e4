"""Our protobuf messages beside the originals, whose packages register theirs in the process's one pool."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2

from millrace import rpc
from millrace.rpc.compile import compile_into

_IMPORTS = (
    "from millrace import rpc; rpc.message('tensorflow.serving.PredictRequest'); rpc.message('inference.ModelConfig')",
    "import tensorflow_serving.apis.prediction_service_pb2_grpc",
    "import tritonclient.grpc",
)


def _fields(descriptor: Any) -> dict[str, tuple[object, ...]]:
    return {
        field.name: (
            field.number,
            field.type,
            field.is_repeated,
            field.containing_oneof and field.containing_oneof.name,
            field.message_type and field.message_type.full_name,
            field.enum_type and {value.name: value.number for value in field.enum_type.values},
        )
        for field in descriptor.fields
    }


def _ours() -> Iterator[Any]:
    def below(descriptor: Any) -> Iterator[Any]:
        yield descriptor
        for nested in descriptor.nested_types:
            yield from below(nested)

    for file in descriptor_pb2.FileDescriptorSet.FromString(rpc.DESCRIPTORS.read_bytes()).file:
        for name in file.message_type:
            yield from below(rpc.pool().FindMessageTypeByName(f"{file.package}.{name.name}"))


def test_the_descriptor_set_is_what_the_sources_compile_to(tmp_path: Path) -> None:
    compile_into(tmp_path / "descriptors.binpb")
    made, kept = (
        descriptor_pb2.FileDescriptorSet.FromString(path.read_bytes())
        for path in (tmp_path / "descriptors.binpb", rpc.DESCRIPTORS)
    )
    assert made == kept, "run: python -m millrace.rpc.compile"


def test_every_field_and_method_is_the_original() -> None:
    import tritonclient.grpc  # noqa: F401 - registers its messages
    from google.protobuf import descriptor_pool
    from tensorflow_serving.apis import model_service_pb2, prediction_service_pb2  # noqa: F401 - the same

    originals = descriptor_pool.Default()
    for descriptor in _ours():
        if descriptor.full_name.startswith(("grpc.health.", "grpc.reflection.")):
            continue  # no package here brings the original
        original = _fields(originals.FindMessageTypeByName(descriptor.full_name))
        for name, field in _fields(descriptor).items():
            assert _is_within(field, original[name]), f"{descriptor.full_name}.{name}"
    for name in (
        "tensorflow.serving.PredictionService",
        "tensorflow.serving.ModelService",
        "inference.GRPCInferenceService",
    ):
        original = {method.name: _method(method) for method in originals.FindServiceByName(name).methods}
        for method in rpc.service(name).methods:
            assert _method(method) == original[method.name]


def _is_within(ours: tuple[object, ...], original: tuple[object, ...]) -> bool:
    """Whether the field is the original; an enum may lack values."""
    *mine, values = ours
    *theirs, all_values = original
    return mine == theirs and (values is None or values.items() <= all_values.items())  # type: ignore[attr-defined]


def _method(method: Any) -> tuple[object, ...]:
    return method.input_type.full_name, method.output_type.full_name, method.client_streaming, method.server_streaming


@pytest.mark.slow
@pytest.mark.parametrize("first", range(len(_IMPORTS)), ids=["ours-first", "ours-last", "ours-between"])
def test_a_process_may_import_the_originals_too(first: int) -> None:
    imports = [*_IMPORTS[first:], *_IMPORTS[:first]]
    run = subprocess.run([sys.executable, "-c", "; ".join(imports)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
