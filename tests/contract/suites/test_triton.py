"""Triton's own tests, with models from its own generator.

Where a model needs a backend or a scheduler that is not here, and only its answers are asked for, one that answers the
same stands in under its name.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.contract.suites import running, sources
from tests.contract.suites.triton import TritonModels, edit_config, workplace

pytestmark = sources.needs(sources.TRITON, sources.PYTHON)
_ENSEMBLES = ("simple_zero", "sequence_zero", "fan_zero")
_NO_UPLOAD = "refused: models and configurations cannot be sent; 501 says so"
Prepare = Callable[[TritonModels, Path], object]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> TritonModels:
    sources.require_namespaces()
    return TritonModels(tmp_path_factory.mktemp("triton"))


def _http(models: TritonModels, target: Path) -> None:
    identity = "qa_identity_model_repository"
    for name in ("onnx_zero_1_float32", "onnx_zero_1_object", "onnx_zero_1_float16", "onnx_zero_3_float32"):
        models.copied(target, identity, name)
    (one,) = models.copied(target, identity, "onnx_zero_1_object", name="onnx_zero_1_object_1_element")
    edit_config(one, "-1", "1")
    models.copied(target, identity, "onnx_zero_1_float32", name="onnx_zero_1_float32_queue")
    models.copied(target, identity, "onnx_zero_1_object", name="simple_identity")
    (wide,) = models.copied(target, "qa_model_repository", "onnx_int64_int64_int64", name="simple_identity_int64")
    shutil.rmtree(wide)  # it has two inputs; there is no identity of this type


def _zero(models: TritonModels, target: Path) -> None:
    for folder in models.copied(target, "qa_identity_model_repository"):
        shape = folder.name.removeprefix("onnx_")
        for ensemble in _ENSEMBLES:
            name = f"{ensemble}_{shape}"
            models.copied(target, "qa_identity_model_repository", folder.name, name=name)


def _strings(models: TritonModels, target: Path) -> None:
    models.copied(target, "qa_identity_model_repository", "onnx_zero_1_object")
    models.copied(target, "qa_identity_model_repository", "onnx_nobatch_zero_1_object", name="string_identity")


def _reshape(models: TritonModels, target: Path) -> None:
    for folder in models.copied(target, "qa_reshape_model_repository", "onnx*"):
        for other in ("libtorch", "simple_reshape", "sequence_reshape", "fan_reshape"):
            name = folder.name.replace("onnx", other)
            models.copied(target, "qa_reshape_model_repository", folder.name, name=name)


def _validation(models: TritonModels, target: Path) -> None:
    models.copied(target, "qa_model_repository", "onnx_object_int32_int32")
    models.copied(target, "qa_identity_model_repository", "onnx_zero_1_float32")


# A suite's folder, its file, its tests (all where none is named), the models, the environment, what is known to differ.
_SUITES: list[tuple[str, str, tuple[str, ...], Prepare, dict[str, str], dict[str, str]]] = [
    (
        "L0_http",
        "http_test.py",
        (),
        _http,
        {},
        {
            "test_content_encoding_chunked_manually": "a body with both a length and chunks is 400, for it may smuggle",
            "test_descriptive_status_code": "max_queue_size is for all API processes: MILLRACE_SERVING_MAX_QUEUE_ROWS",
            "test_json_recursion_depth_limit": "its models are not among the generator's",
            "test_load_oversized_file_parameter": _NO_UPLOAD,
            "test_loading_large_invalid_model": _NO_UPLOAD,
            "test_negative_dimensions": "400, where Triton answers 500: the caller is to blame",
            "test_repository_index_deeply_nested_json": "413: the body of a control request may have 65,536 bytes",
        },
    ),
    (
        "L0_infer",
        "infer_test.py",
        (),
        lambda models, target: models.copied(target, "qa_model_repository", "onnx*"),
        {"BACKENDS": "onnx", "ENSEMBLES": "0"},
        {},
    ),
    ("L0_infer_zero", "infer_zero_test.py", (), _zero, {"BACKENDS": "onnx"}, {}),
    (
        "L0_string_io",
        "string_client_test.py",
        (),
        _strings,
        {},
        {"test_unicode_bytes": "refused: ONNX Runtime's Python takes strings as UTF-8 only, and the error says so"},
    ),
    (
        "L0_scalar_io",
        "scalar_test.py",
        (),
        lambda models, target: models.copied(target, "qa_scalar_models"),
        {},
        {},
    ),
    (
        "L0_infer_reshape",
        "infer_reshape_test.py",
        (),
        _reshape,
        {"BACKENDS": "onnx", "ENSEMBLES": "0"},
        dict.fromkeys(("test_ff2", "test_ff4"), "asks for models of TensorRT, which have other shapes than ONNX's"),
    ),
    (
        "L0_input_validation",
        "input_validation_test.py",
        (
            "InputShapeTest.test_input_string_shape_validation",
            "ModelNameValidationTest",
        ),
        _validation,
        {},
        {"test_input_string_shape_validation": "of two wrong inputs the first is named, where Triton names the second"},
    ),
]


@pytest.mark.parametrize(
    ("suite", "file", "tests", "prepare", "environment", "known"), _SUITES, ids=[suite[0] for suite in _SUITES]
)
def test_suite(
    models: TritonModels,
    tmp_path: Path,
    suite: str,
    file: str,
    tests: tuple[str, ...],
    prepare: Prepare,
    environment: dict[str, str],
    known: dict[str, str],
) -> None:
    folder = workplace(tmp_path, suite)
    repository = folder / "served"
    repository.mkdir()
    prepare(models, repository)
    running.check(running.beside_stack(repository, folder, [file, *tests], environment), known)


@pytest.mark.parametrize(
    ("test", "served", "beside"),
    [
        (
            "test_dynamic_model_load_unload",
            ("onnx_float32_float32_float32",),
            ("libtorch_float32_float32_float32",),
        ),
        ("test_dynamic_version_load_unload", ("libtorch_int32_int32_int32",), ()),
    ],
)
def test_life_cycle(
    models: TritonModels, tmp_path: Path, test: str, served: tuple[str, ...], beside: tuple[str, ...]
) -> None:
    folder = workplace(tmp_path, "L0_lifecycle")
    (folder / "models").mkdir()
    for target, names in ((folder / "models", served), (folder, beside)):
        for name in names:
            same = "onnx_" + name.partition("_")[2]
            models.copied(target, "qa_model_repository", same, name="" if name == same else name)
    outcomes = running.beside_stack(folder / "models", folder, ["lifecycle_test.py", f"LifeCycleTest.{test}"], {})
    counts = "counts are the API's, and go on when a model comes back"
    running.check(outcomes, {"test_dynamic_model_load_unload": counts})
