"""What is read of TensorFlow Serving's and Triton's configuration files, and what is named as not done."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from millrace import rpc
from millrace.artifacts.configs import (
    ConfigError,
    ModelsConfig,
    TensorConfig,
    TritonConfig,
    WarmupInput,
    WarmupRequest,
    read_models_config,
    read_triton_config,
)
from millrace.artifacts.repository import RepositoryError
from millrace.protocol.desired_state import DesiredState, ModelSettings, Shadow, VersionPolicy
from worker.reconciling.catalogue import Catalogue, DesiredModel

TFS = """
model_config_list {
  config {
    name: "digits" base_path: "/models/digits" model_platform: "tensorflow"
    model_version_policy { specific { versions: 3 versions: 4 } }
    version_labels { key: "stable" value: 3 }
    version_labels { key: "canary" value: 4 }
  }
  config { name: "near" base_path: "there" model_version_policy { all {} } }
  config { name: "newest" }
}
"""
TRITON = """
name: "m"
backend: "onnxruntime"
max_batch_size: 64
input [ { name: "x" data_type: TYPE_FP32 dims: [ 3 ] } ]
output [ { name: "scores" data_type: TYPE_FP32 dims: [ 2 ] label_filename: "labels.txt" } ]
instance_group [ { count: 3 kind: KIND_CPU }, { count: 1 kind: KIND_GPU gpus: [ 0 ] } ]
version_policy { latest { num_versions: 2 } }
dynamic_batching {
  preferred_batch_size: [ 8, 32 ]
  max_queue_delay_microseconds: 2500
  default_queue_policy { default_timeout_microseconds: 500000 }
}
response_cache { enable: true }
model_warmup [ { name: "w" batch_size: 1 inputs { key: "x" value { data_type: TYPE_FP32 dims: 3 zero_data: true } } } ]
"""


@pytest.fixture
def triton(tmp_path: Path) -> Callable[[str], TritonConfig | None]:
    """Reads a `config.pbtxt` with that text, in the folder of the model m."""

    def read(text: str) -> TritonConfig | None:
        folder = tmp_path / "m"
        folder.mkdir(exist_ok=True)
        (folder / "config.pbtxt").write_text(text)
        return read_triton_config(folder)

    return read


def test_models_config_names_models_with_their_policies_and_labels(tmp_path: Path) -> None:
    path = tmp_path / "models.config"
    path.write_text(TFS)
    assert read_models_config(path) == ModelsConfig(
        (
            ModelSettings(
                name="digits",
                base_path="/models/digits",
                policy=VersionPolicy(specific=(3, 4)),
                labels={"stable": 3, "canary": 4},
            ),
            ModelSettings(name="near", base_path=str(tmp_path / "there"), policy=VersionPolicy(latest=0)),
            ModelSettings(name="newest", base_path=str(tmp_path / "newest")),
        )
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model_config_list {", r"models\.config:1"),
        ("what: 1", 'no field named "what"'),
        ("model_config_list { config { base_path: 'x' } }", "has no name"),
        ("model_config_list { config { name: 'a' } config { name: 'a' } }", "'a' is there twice"),
        ("custom_model_config { type_url: 'x' }", "custom_model_config is not supported"),
    ],
)
def test_a_models_config_that_cannot_be_followed_says_why(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "models.config"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_models_config(path)


def test_what_models_config_asks_for_in_vain_is_named(tmp_path: Path) -> None:
    path = tmp_path / "models.config"
    path.write_text('model_config_list { config { name: "a" model_platform: "custom" logging_config {} } }')
    assert read_models_config(path).ignored == (
        "logging_config of a",
        "model_platform 'custom' of a: the format is read from its files",
    )


def test_a_triton_configuration_is_read_for_what_is_done_and_the_rest_is_named(
    triton: Callable[[str], TritonConfig | None],
) -> None:
    config = triton(TRITON)
    assert config
    assert rpc.message("inference.ModelConfig").FromString(config.message).model_warmup[0].batch_size == 1
    assert msgspec.structs.replace(config, message=b"") == TritonConfig(
        format="onnx",
        policy=VersionPolicy(latest=2),
        max_batch_size=64,
        max_queue_delay_ms=2.5,
        inputs=(TensorConfig("x", "FP32", (3,)),),
        outputs=(TensorConfig("scores", "FP32", (2,)),),
        labels_file="labels.txt",
        instances={"cpu": 3, "cuda": 1},
        gpus=(0,),
        warmup=(WarmupRequest(batch_size=1, inputs=(WarmupInput(name="x", datatype="FP32", dims=(3,)),)),),
        ignored=(
            "dynamic_batching.preferred_batch_size",
            "dynamic_batching.default_queue_policy",
            "response_cache",
        ),
    )


@pytest.mark.parametrize(
    ("groups", "gpus", "ignored"),
    [
        ("{ kind: KIND_GPU count: 2 gpus: [0, 1] }", (0, 0, 1, 1), ()),
        ("{ kind: KIND_GPU gpus: 3 }", (3,), ()),
        ("{ gpus: [1] count: 2 }, { kind: KIND_GPU }", (1, 1, 0), ()),
        ("{ kind: KIND_GPU count: 2 }", (), ()),
        ("{ kind: KIND_CPU gpus: [0] }", (), ("instance_group.gpus",)),
        ("{ kind: KIND_GPU gpus: [0] passive: true }", (0,), ("instance_group.passive",)),
    ],
)
def test_each_instance_has_the_gpu_that_its_group_names(
    triton: Callable[[str], TritonConfig | None], groups: str, gpus: tuple[int, ...], ignored: tuple[str, ...]
) -> None:
    config = triton(f"instance_group [ {groups} ]")
    assert config
    assert (config.gpus, config.ignored) == (gpus, ignored)


def test_a_batch_size_of_0_is_told_from_none(triton: Callable[[str], TritonConfig | None]) -> None:
    written, left_out = triton("max_batch_size: 0"), triton("# max_batch_size: 8\n")
    assert written
    assert written.max_batch_size == 0
    assert left_out
    assert left_out.max_batch_size is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: 'other'", "its name is 'other', but the model's folder is 'm'"),
        ("backend: 'python'", "Triton's Python models are not supported; write the model as a plain class"),
        ("backend: 'tensorrt'", "the backend 'tensorrt' is not supported"),
        ("platform: 'pytorch_libtorch'", "the backend 'pytorch_libtorch' is not supported"),
        ("sequence_batching {}", "sequence_batching is not supported: stateful models"),
        ("ensemble_scheduling {}", "ensemble_scheduling is not supported"),
        ("model_transaction_policy { decoupled: true }", "decoupled is not supported"),
        ("input [ { name: 'x' data_type: TYPE_FP32 dims: [2] reshape { shape: [] } } ]", "reshape of 'x'"),
        ("input [ { name: 'x' data_type: TYPE_FP32 dims: [2, -1] reshape { shape: [-1, 2] } } ]", "reshape of 'x'"),
        ("default_model_filename: '../other'", "must be a name in the version's folder"),
        ("max_batch_size: many", r"config\.pbtxt:1"),
    ],
)
def test_a_triton_configuration_that_would_make_answers_wrong_is_refused(
    triton: Callable[[str], TritonConfig | None], text: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        triton(text)


# Which versions are wanted


def catalogue(root: Path, models_config: str = "", config_pbtxt: str = "") -> Catalogue:
    """Of a repository with versions 1 to 4 of the model m."""
    for version in (1, 2, 3, 4):
        (root / "m" / str(version)).mkdir(parents=True)
    if models_config:
        (root / "models.config").write_text(models_config)
    if config_pbtxt:
        (root / "m" / "config.pbtxt").write_text(config_pbtxt)
    return Catalogue(root)


def wanted(read: Catalogue, **control: object) -> DesiredModel:
    desired_states = {"m": DesiredState(model="m", generation=1, **control)} if control else {}  # type: ignore[arg-type]
    return read.read(desired_states)["m"]


IN_MODELS_CONFIG = 'model_config_list { config { name: "m" model_version_policy { latest { num_versions: 2 } } } }'
IN_CONFIG_PBTXT = "version_policy { latest { num_versions: 3 } }"


@pytest.mark.parametrize(
    ("models_config", "config_pbtxt", "control", "versions"),
    [
        ("", "", {}, [4]),
        ("", IN_CONFIG_PBTXT, {}, [4, 3, 2]),
        (IN_MODELS_CONFIG, IN_CONFIG_PBTXT, {}, [4, 3]),
        (IN_MODELS_CONFIG, IN_CONFIG_PBTXT, {"policy": VersionPolicy(specific=(1,))}, [1]),
        ("", "", {"policy": VersionPolicy(latest=0)}, [4, 3, 2, 1]),
        ("", "", {"policy": VersionPolicy(specific=(2, 9))}, [2]),
        ("", "", {"labels": {"stable": 1}, "weights": {2: 1.0}, "shadow": Shadow(3, 1)}, [4, 3, 2, 1]),
        ("", "", {"labels": {"gone": 9}}, [4]),
    ],
)
def test_the_first_that_says_anything_decides_which_versions_are_wanted(
    tmp_path: Path, models_config: str, config_pbtxt: str, control: dict[str, object], versions: list[int]
) -> None:
    assert wanted(catalogue(tmp_path, models_config, config_pbtxt), **control).versions() == versions


def test_a_version_that_failed_makes_way_for_the_one_before(tmp_path: Path) -> None:
    model = wanted(catalogue(tmp_path))
    assert model.versions({4}) == [3]
    assert model.versions({4, 3}) == [2]
    assert model.versions({1, 2, 3, 4}) == []


def test_versions_with_labels_in_models_config_are_wanted_too(tmp_path: Path) -> None:
    text = 'model_config_list { config { name: "m" version_labels { key: "stable" value: 2 } } }'
    model = wanted(catalogue(tmp_path, text))
    assert model.versions() == [4, 2]
    assert model.labels == {"stable": 2}


def test_models_config_says_which_models_there_are_and_is_read_again(tmp_path: Path) -> None:
    read = catalogue(tmp_path, 'model_config_list { config { name: "alias" base_path: "m" } }')
    assert {name: model.versions() for name, model in read.read({}).items()} == {"alias": [4]}
    (tmp_path / "models.config").write_text(IN_MODELS_CONFIG)
    assert list(read.read({})) == ["m"]
    (tmp_path / "models.config").write_text("model_config_list {")
    with pytest.raises(ConfigError):
        read.read({})


def test_a_changed_config_pbtxt_is_read_again_and_a_broken_one_is_the_models_error(tmp_path: Path) -> None:
    read = catalogue(tmp_path, config_pbtxt=IN_CONFIG_PBTXT)
    assert wanted(read).versions() == [4, 3, 2]
    (tmp_path / "m" / "config.pbtxt").write_text("version_policy { all {} }")
    assert wanted(read).versions() == [4, 3, 2, 1]
    (tmp_path / "m" / "config.pbtxt").write_text("version_policy {")
    assert "config.pbtxt" in wanted(read).error


@pytest.mark.parametrize("base_path", ["/etc", "..", "m/../../.."])
def test_a_base_path_that_callers_name_stays_in_the_repository(tmp_path: Path, base_path: str) -> None:
    read = catalogue(tmp_path / "models")
    assert "outside of the model repository" in wanted(read, base_path=base_path).error
    assert wanted(read, base_path=str(tmp_path / "models" / "m")).error == ""


def test_a_repository_that_is_no_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="is not a folder"):
        Catalogue(tmp_path / "nowhere").read({})
