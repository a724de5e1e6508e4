"""Models as they lie in strangers' repositories, served by a worker, and files that are written while it looks."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from millrace.artifacts.configs import CONFIG_PBTXT, ConfigError, TritonConfig, read_triton_config
from millrace.broker.memory import MemoryBroker
from millrace.protocol.tensors import Tensor
from serving.queueing.requests import InferenceRequest
from tests.support.onnxmodels import FLOAT, info, node, save
from tests.support.running import until
from tests.support.versions import Api, running
from worker.backends.base import Device, LoadError
from worker.loading import model as models
from worker.loading.model import Model
from worker.reconciling.catalogue import Catalogue, DesiredModel
from worker.reconciling.files import QUIET_S, Stillness, version_files
from worker.reconciling.hosts import ServedVersion
from worker.reconciling.local_host import LocalHost
from worker.reconciling.versions import Versions

MakeModel = Callable[..., Path]


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


@pytest.fixture
def api(broker: MemoryBroker) -> Iterator[Api]:
    started = Api(broker)
    yield started
    started.stop()


def load(folder: Path, config: TritonConfig | None = None) -> Model:
    return models.load(folder, folder.parent.name, 1, device=Device(), backend="auto", max_batch_size=32, config=config)


def negated(folder: Path, *shape: Any) -> Path:
    return save(folder, [node("Neg", ["x"], ["y"])], [info("x", FLOAT, shape)], [info("y", FLOAT, shape)])


# Layouts


def test_versions_with_leading_zeros_and_names_with_blanks_are_served(
    broker: MemoryBroker, api: Api, make_onnx: MakeModel, tmp_path: Path
) -> None:
    root = tmp_path / "models"
    make_onnx(root, "half plus+two é", 7).rename(root / "half plus+two é" / "00000123")
    make_onnx(root, "zero", 2).rename(root / "zero" / "0")
    with running(broker, root):
        api.until(name="half plus+two é", v123="AVAILABLE")
        api.until(name="zero", v0="AVAILABLE")
        assert api.ask("half plus+two é") == 7
        assert api.ask("zero", version=0) == 2


def test_what_cannot_be_served_is_in_the_index_with_what_to_do(
    broker: MemoryBroker, api: Api, make_onnx: MakeModel, tmp_path: Path
) -> None:
    root = tmp_path / "models"
    make_onnx(root, "m", 1)
    (make_onnx(root, "flat", 1) / "model.onnx").rename(root / "flat" / "model.onnx")
    (root / "flat" / "1").rmdir()
    (root / "torch" / "1").mkdir(parents=True)
    (root / "torch" / "1" / "best.pt").touch()
    with running(broker, root):
        api.until(v1="AVAILABLE")
        until(lambda: api.states("torch") == {1: "END"})
        reasons = {entry.name: entry.reason for entry in api.repository.index()}
    assert reasons["flat"] == "flat/model.onnx lies outside of a version's folder; move it to flat/1/model.onnx"
    assert "torch/1 holds no model: best.pt is PyTorch's format; export it with torch.onnx.export" in reasons["torch"]


@pytest.mark.parametrize(
    ("file", "config"),
    [
        ("yolov8.onnx", ""),
        ("model.onnx/model.onnx", ""),
        ("net.onnx", 'default_model_filename: "net.onnx"'),
        ("deep/model.onnx", 'backend: "onnxruntime" default_model_filename: "deep"'),
    ],
)
def test_models_lie_where_triton_looks_for_them(tmp_path: Path, make_onnx: MakeModel, file: str, config: str) -> None:
    folder = make_onnx(tmp_path, "m")
    (folder / "model.onnx").rename(folder / "moved")
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / "moved").rename(folder / file)
    (tmp_path / "m" / CONFIG_PBTXT).write_text(config)
    model = load(folder, read_triton_config(tmp_path / "m"))
    assert model.run("serving_default", {"x": np.ones((1, 3), np.float32)}, 1)["scores"].tolist() == [[6.0, 60.0]]
    model.close()


def test_a_named_file_that_is_not_there_is_said(tmp_path: Path, make_onnx: MakeModel) -> None:
    with pytest.raises(LoadError, match=r"m/1 has no model 'net\.onnx', which default_model_filename names"):
        load(make_onnx(tmp_path, "m"), TritonConfig(model_file="net.onnx"))


# config.pbtxt's reshape

DENSENET = """
name: "densenet_onnx"
platform: "onnxruntime_onnx"
max_batch_size : 0
input [ { name: "x" data_type: TYPE_FP32 format: FORMAT_NCHW dims: [ 3, 4, 4 ] reshape { shape: [ 1, 3, 4, 4 ] } } ]
output [ {
  name: "y" data_type: TYPE_FP32 dims: [ 48 ] reshape { shape: [ 1, 3, 4, 4 ] } label_filename: "densenet_labels.txt"
} ]
"""


def configured(folder: Path, text: str) -> TritonConfig:
    (folder / CONFIG_PBTXT).write_text(text)
    config = read_triton_config(folder)
    assert config
    return config


def test_tritons_quick_start_densenet_is_served_as_its_configuration_says(
    broker: MemoryBroker, api: Api, tmp_path: Path
) -> None:
    folder = negated(tmp_path / "densenet_onnx" / "1", 1, 3, 4, 4).parent
    configured(folder, DENSENET)
    (folder / "densenet_labels.txt").write_text("\n".join(f"label {i}" for i in range(48)))
    with running(broker, tmp_path):
        api.until(name="densenet_onnx", v1="AVAILABLE")
        model = api.models.find("densenet_onnx")
        signature = model.signature()
        assert [spec.shape for spec in (*signature.inputs, *signature.outputs)] == [(3, 4, 4), (48,)]
        assert model.announcement.labels[47] == "label 47"
        image = np.arange(48, dtype=np.float32).reshape(3, 4, 4)
        request = InferenceRequest(
            model=model.name,
            version=1,
            signature="serving_default",
            inputs={"x": Tensor.from_numpy(image)},
            rows=1,
            max_batch_size=0,
            timeout_s=10,
            trace="t",
        )
        answer = api.do(api.producer.submit(request))
        assert answer.outputs["y"].to_numpy().tolist() == (-image).reshape(48).tolist()


@pytest.mark.parametrize(
    ("shape", "text", "sent", "came"),
    [
        ((1, 2), "max_batch_size: 0 input [ { %s dims: [2] reshape { shape: [1, 2] } } ]", (1, 2), (1, 1, 2)),
        (("N",), "max_batch_size: 8 input [ { %s dims: [1] reshape { shape: [] } } ]", (3, 1), (3,)),
        (("N", 2, "T"), "max_batch_size: 8 input [ { %s dims: [-1, 2] reshape { shape: [2, -1] } } ]", None, None),
        (
            ("N", 1, "T", 2),
            "max_batch_size: 8 input [ { %s dims: [-1, 2] reshape { shape: [1, -1, 2] } } ]",
            (3, 5, 2),
            (3, 1, 5, 2),
        ),
        (("N", 2, 2), "input [ { %s dims: [4] reshape { shape: [2, 2] } } ]", (3, 4), (3, 2, 2)),
    ],
)
def test_a_reshape_is_between_callers_and_the_file(
    tmp_path: Path, shape: tuple[Any, ...], text: str, sent: tuple[int, ...] | None, came: tuple[int, ...] | None
) -> None:
    folder = negated(tmp_path / "m" / "1", *shape)
    text = text % 'name: "x" data_type: TYPE_FP32'
    if sent is None or came is None:
        with pytest.raises(ConfigError, match="each must have as many elements"):
            configured(folder.parent, text)
        return
    model = load(folder, configured(folder.parent, text))
    values = np.arange(np.prod(sent), dtype=np.float32).reshape(sent)
    answer = model.run("serving_default", {"x": values}, sent[0])["y"]
    assert answer.shape == came
    assert answer.ravel().tolist() == (-values).ravel().tolist()
    model.close()


def test_a_reshape_that_the_file_does_not_have_is_refused(tmp_path: Path) -> None:
    folder = negated(tmp_path / "m" / "1", 1, 3)
    config = configured(
        folder.parent, 'input [ { name: "x" data_type: TYPE_FP32 dims: [4] reshape { shape: [2, 2] } } ]'
    )
    with pytest.raises(LoadError, match=r"reshapes input 'x' to \[2, 2\], but the model has \[1, 3\]"):
        load(folder, config)


@pytest.mark.parametrize("dims", ["-1, 3", "3"])
def test_without_max_batch_size_dims_may_have_the_batch_axis_or_not(
    tmp_path: Path, make_onnx: MakeModel, dims: str
) -> None:
    folder = make_onnx(tmp_path, "m")
    config = configured(folder.parent, f'input [ {{ name: "x" data_type: TYPE_FP32 dims: [{dims}] }} ]')
    model = load(folder, config)
    assert model.announcement.max_batch_size == 32
    model.close()


# Files that are being written


class Clock:
    """A time that the test sets, in seconds."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def _desired(root: Path) -> DesiredModel:
    return Catalogue(root).read({})["m"]


def test_old_files_stand_still_at_once_and_new_ones_when_two_looks_find_them_alike(
    tmp_path: Path, make_onnx: MakeModel
) -> None:
    folder = make_onnx(tmp_path, "m")  # its files are from 1970
    wall, monotonic = Clock(), Clock()
    stillness = Stillness(1.0, wall=wall, monotonic=monotonic)

    def is_still() -> bool:
        return stillness.is_still("m", 1, version_files(_desired(tmp_path), 1))

    assert is_still()
    with (folder / "model.onnx").open("ab") as file:
        file.write(b"more")
    wall.now = (folder / "model.onnx").stat().st_mtime
    assert not is_still()
    monotonic.now += 0.9
    assert not is_still()
    with (folder / "model.onnx").open("ab") as file:
        file.write(b"and more")
    monotonic.now += 0.9
    assert not is_still()
    monotonic.now += 1.0
    assert is_still()
    wall.now += QUIET_S + 1
    monotonic.now += 0.1
    assert is_still()


def test_for_files_that_never_stand_still_nobody_waits_and_an_older_version_serves(
    tmp_path: Path, make_onnx: MakeModel
) -> None:
    make_onnx(tmp_path, "m", 1)
    folder = make_onnx(tmp_path, "m", 2)
    wall, monotonic = Clock(), Clock()
    loads = []

    def load(model: DesiredModel, version: int) -> "Future[ServedVersion]":
        loads.append(version)
        failed: Future[ServedVersion] = Future()
        failed.set_exception(LoadError("enough for this test"))
        return failed

    versions = Versions(
        load=load,
        is_idle=lambda _: True,
        on_change=lambda: None,
        now_ms=lambda: 0.0,
        stillness=Stillness(1.0, wall=wall, monotonic=monotonic),
    )
    states = []
    for _ in range(4):
        with (folder / "model.onnx").open("ab") as file:
            file.write(b"more")
        wall.now = (folder / "model.onnx").stat().st_mtime
        versions.reconcile({"m": _desired(tmp_path)}, {"m": 0}, list)
        (announced,) = [found for found in versions.announcements() if found.version == 2]
        assert "still being written" in announced.error
        states.append((announced.state, list(loads)))
        monotonic.now += QUIET_S / 2
    assert states == [("LOADING", []), ("LOADING", []), ("END", [1]), ("END", [1])]
    assert versions.waits


def test_a_folder_that_still_gets_files_does_not_stand_still(tmp_path: Path, make_onnx: MakeModel) -> None:
    folder = make_onnx(tmp_path, "m")
    wall, monotonic = Clock(), Clock()
    wall.now = folder.stat().st_mtime + QUIET_S + 1
    stillness = Stillness(1.0, wall=wall, monotonic=monotonic)
    (folder / "variables").mkdir()  # as copying keeps the times of files and sets those of folders last
    wall.now = (folder / "variables").stat().st_mtime
    assert not stillness.is_still("m", 1, version_files(_desired(tmp_path), 1))


def test_files_that_are_written_in_place_are_served_when_they_stand_still(
    broker: MemoryBroker, api: Api, make_onnx: MakeModel, tmp_path: Path
) -> None:
    folder = make_onnx(tmp_path / "models", "m")
    new = (make_onnx(tmp_path / "new", "m", 5) / "model.onnx").read_bytes()
    with running(broker, tmp_path / "models"):
        api.until(v1="AVAILABLE")
        with (folder / "model.onnx").open("wb") as file:
            file.write(new[:50])
            file.flush()
            assert api.ask() == 1
            file.write(new[50:])
        until(lambda: api.ask() == 5)
        assert api.error(1) == ""


def test_files_that_are_broken_in_place_leave_what_serves_and_are_named(
    broker: MemoryBroker, api: Api, make_onnx: MakeModel, tmp_path: Path
) -> None:
    folder = make_onnx(tmp_path, "m")
    with running(broker, tmp_path):
        api.until(v1="AVAILABLE")
        (folder / "model.onnx").write_bytes(b"no model")
        until(lambda: "model.onnx" in api.error(1))
        assert api.states() == {1: "AVAILABLE"}
        assert api.ask() == 1


def test_a_file_that_appears_beside_a_model_loads_nothing_again(
    broker: MemoryBroker, api: Api, make_onnx: MakeModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_onnx(tmp_path, "m")
    caplog.set_level("INFO")
    with running(broker, tmp_path):
        api.until(v1="AVAILABLE")
        (folder / "notes.txt").write_text("mine")
        make_onnx(tmp_path, "other")
        api.until(name="other", v1="AVAILABLE")  # so the repository was read again
        assert [record.model for record in caplog.records if record.message == "loaded a model"] == ["m", "other"]  # type: ignore[attr-defined]


def test_a_version_that_changes_while_it_is_loaded_is_loaded_again(
    broker: MemoryBroker, api: Api, make_onnx: MakeModel, tmp_path: Path
) -> None:
    folder = make_onnx(tmp_path / "models", "m")
    new = (make_onnx(tmp_path / "new", "m", 5) / "model.onnx").read_bytes()
    loads: list[int] = []

    class Overtaken(LocalHost):
        def load(self, model: DesiredModel, version: int) -> "Future[ServedVersion]":
            loaded = super().load(model, version)
            if not loads:
                (folder / "model.onnx").write_bytes(new)
            loads.append(version)
            return loaded

    with running(broker, tmp_path / "models", host=Overtaken):
        api.until(v1="AVAILABLE")
        assert api.ask() == 5
    assert loads == [1, 1]
