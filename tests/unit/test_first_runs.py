"""The runs before a version serves: what they are given, what they may cost, and that none of them refuses a model."""

import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from millrace import rpc
from millrace.artifacts import manifest as manifests
from millrace.artifacts.configs import read_triton_config
from millrace.artifacts.manifest import Batching, Manifest
from millrace.protocol.errors import InvalidRequest, ModelFailed
from millrace.protocol.tensors import Signature, Tensor, TensorSpec
from millrace.rpc import tensorprotos, wire
from tests.support.onnxmodels import FLOAT, INT64, constant, info, node, save
from worker.backends.base import Arrays, Device, LoadError
from worker.loading import model as models
from worker.loading import tfserving_warmup
from worker.loading.budget import Budget
from worker.loading.first_runs import FirstRuns, LoadExact, first_runs
from worker.loading.model import Model
from worker.loading.samples import Subject
from worker.preprocessing.preparation import Preparation

X, Y = TensorSpec(name="x", datatype="FP32", shape=(-1, -1)), TensorSpec(name="y", datatype="FP32", shape=(-1, -1))


class Computed:
    """A backend of one Python function, which remembers how many rows its runs had."""

    platform = "scripted"
    fault = ""
    notes: Sequence[str] = ()
    labels: Sequence[str] = ()
    mixed_rows: Mapping[str, str] = {}
    axes: Mapping[str, Sequence[str]] = {}
    keeps_state = ""

    def __init__(self, compute: Callable[[Any], Any], spec: TensorSpec = X) -> None:
        self.signatures: Mapping[str, Signature] = {"serving_default": Signature(inputs=(spec,), outputs=(Y,))}
        self.compute = compute
        self.rows: list[int] = []

    def run(self, signature: str, inputs: Arrays) -> Arrays:
        self.rows.append(len(inputs["x"]))
        return {"y": self.compute(inputs["x"])}

    def close(self) -> None:
        """Nothing is held."""


def run(
    backend: Computed,
    *,
    max_batch_size: int = 32,
    is_told: bool = False,
    budget: Budget | None = None,
    device: Device = Device(),  # noqa: B008 - it is immutable
    exact: LoadExact | None = None,
) -> FirstRuns:
    preparation = Preparation()
    subjects = {
        name: Subject(signature=signature, preparation=preparation, axes={})
        for name, signature in backend.signatures.items()
    }
    return first_runs(
        backend,
        backend.signatures,
        subjects,
        preparation,
        device=device,
        max_batch_size=max_batch_size,
        is_told=is_told,
        budget=budget or Budget(),
        exact=exact,
    )


# What they may cost


class Machine:
    """A clock and a memory that grow with every row that is computed."""

    def __init__(self, seconds_per_row: float = 0.0, bytes_per_row: int = 0) -> None:
        self.now, self.peak = 100.0, 10**9
        self._seconds_per_row, self._bytes_per_row = seconds_per_row, bytes_per_row

    def compute(self, x: Any) -> Any:
        self.now += self._seconds_per_row * len(x)
        self.peak = max(self.peak, 10**9 + self._bytes_per_row * len(x))
        return x * 2

    def budget(self) -> Budget:
        return Budget(seconds=5.0, memory_bytes=2**30, monotonic=lambda: self.now, peak=lambda: self.peak)


@pytest.mark.parametrize(
    ("costs", "text"),
    [({"seconds_per_row": 0.1}, "would take more than 5 s"), ({"bytes_per_row": 2**26}, "more than 1024 MB")],
    ids=["time", "memory"],
)
@pytest.mark.parametrize("is_told", [False, True])
def test_batches_grow_only_within_a_budget(costs: dict[str, Any], text: str, is_told: bool) -> None:
    machine = Machine(**costs)
    backend = Computed(machine.compute)
    found = run(backend, is_told=is_told, budget=machine.budget())
    assert (found.not_batched, found.not_warmed) == ("", "")
    assert 3 <= found.rows < 32
    assert max(backend.rows) == found.rows
    assert text in found.lacked


def test_what_a_first_run_loads_on_a_gpu_does_not_count() -> None:
    """Libraries, not tensors: 2 GB once, and then 1 MB a row."""
    machine = Machine(bytes_per_row=2**20)
    first = [2**31]

    def compute(x: Any) -> Any:
        machine.peak += first.pop() if first else 0
        return machine.compute(x)

    found = {}
    for is_first_free in (False, True):
        machine.peak, first[:] = 10**9, [2**31]
        budget = Budget(is_first_free=is_first_free, monotonic=lambda: machine.now, peak=lambda: machine.peak)
        found[is_first_free] = run(Computed(compute), budget=budget)
    assert "1024 MB" in found[False].not_batched + found[False].lacked
    assert (found[True].not_batched, found[True].rows) == ("", 32)


# What TF32 hides


def _with_tf32(x: Any) -> Any:
    """A row's number differs by a hundredth where there are others."""
    return x * np.float32(1.01 if len(x) > 1 else 1)


def test_rows_that_only_rounding_mixes_are_judged_by_a_model_that_rounds_less() -> None:
    served, exact = Computed(_with_tf32), Computed(lambda x: x * 2)
    found = run(served, device=Device("cuda"), exact=lambda: (exact, Device("cuda", tf32=False)))
    assert (found.not_batched, found.rows) == ("", 32)
    assert max(exact.rows) == max(served.rows) == 32  # what serves is warmed up in all sizes, too


@pytest.mark.parametrize("rounds_less", [_with_tf32, lambda x: x * np.float32(1 + 1e-3 * (len(x) > 1))])
def test_rows_that_mix_in_a_model_that_rounds_less_are_not_batched(rounds_less: Callable[[Any], Any]) -> None:
    exact = lambda: (Computed(rounds_less), Device("cuda", tf32=False))  # noqa: E731
    assert (
        "changes with the rows beside it" in run(Computed(_with_tf32), device=Device("cuda"), exact=exact).not_batched
    )


def test_without_memory_for_a_second_model_the_first_trial_counts() -> None:
    def exact() -> Any:
        raise LoadError("out of memory")

    assert (
        "changes with the rows beside it" in run(Computed(_with_tf32), device=Device("cuda"), exact=exact).not_batched
    )


def test_a_first_run_that_takes_long_for_once_does_not_count() -> None:
    machine, backend = Machine(), Computed(lambda x: x * 2)

    def compute(x: Any) -> Any:
        machine.now += 2.0 if len(backend.rows) == 1 else 0.0
        return x * 2

    backend.compute = compute
    found = run(backend, budget=machine.budget())
    assert (found.rows, found.not_batched) == (32, "")


def test_a_model_whose_one_run_takes_all_the_time_is_served_unbatched() -> None:
    machine = Machine(seconds_per_row=20.0)
    found = run(Computed(machine.compute), budget=machine.budget())
    assert "a trial would take more than 5 s" in found.not_batched
    assert not found.not_warmed


def test_a_model_that_is_out_of_memory_for_many_rows_has_smaller_batches() -> None:
    def compute(x: Any) -> Any:
        if len(x) > 8:
            raise ModelFailed("out of memory")
        return x * 2

    found = run(Computed(compute))
    assert (found.rows, found.lacked, found.not_batched) == (6, "fail: out of memory", "")


# Guesses


def test_a_model_that_no_guess_satisfies_is_served_with_what_it_says() -> None:
    def refuses(x: Any) -> Any:
        raise InvalidRequest("only on Sundays")

    found = run(Computed(refuses))
    assert "only on Sundays" in found.not_warmed
    assert "only on Sundays" in found.not_batched


@pytest.mark.parametrize("error", [SystemExit("bye"), MemoryError(), ValueError("no\nmore")])
def test_whatever_a_first_run_raises_the_model_is_served(error: BaseException) -> None:
    def raises(x: Any) -> Any:
        raise error

    assert run(Computed(raises)).not_warmed


@pytest.mark.parametrize(
    ("spec", "is_fit"),
    [
        (TensorSpec(name="x", datatype="FP32", shape=(-1, 3, -1, -1)), lambda x: min(x.shape[2:]) >= 100),
        (TensorSpec(name="x", datatype="FP32", shape=(-1, -1)), lambda x: x.shape[1] >= 8000),
        (TensorSpec(name="x", datatype="INT64", shape=(-1, -1)), lambda x: x.max() < 2),
        (TensorSpec(name="x", datatype="BYTES", shape=(-1,)), lambda x: all(v.startswith(b"\x89PNG") for v in x)),
        (TensorSpec(name="x", datatype="BYTES", shape=(-1, -1)), lambda x: all(v.isdigit() for v in x.ravel())),
    ],
    ids=["images", "sound", "flags", "image files", "numerals"],
)
def test_guesses_find_what_a_model_takes(spec: TensorSpec, is_fit: Callable[[Any], bool]) -> None:
    def compute(x: Any) -> Any:
        if not is_fit(x):
            raise InvalidRequest("it does not fit")
        flat = x.reshape(len(x), -1)
        if x.dtype == object:
            return np.array([[sum(map(sum, row))] for row in flat], np.float32)
        return flat.sum(1, keepdims=True).astype(np.float32)

    found = run(Computed(compute, spec))
    assert (found.not_warmed, found.not_batched, found.rows) == ("", "", 32)


def test_axes_of_one_name_have_one_size_and_sums_of_names_are_added_up() -> None:
    inputs = (
        TensorSpec(name="past", datatype="FP32", shape=(-1, 2, -1, 4)),
        TensorSpec(name="ids", datatype="INT64", shape=(-1, -1)),
        TensorSpec(name="mask", datatype="INT64", shape=(-1, -1)),
    )
    axes = {"past": ["b", "", "past_len", ""], "ids": ["b", "len"], "mask": ["b", "past_len + len"]}
    subject = Subject(signature=Signature(inputs=inputs, outputs=()), preparation=Preparation(), axes=axes)
    shapes = [[array.shape for array in subject.rows(guess, 1)[0].values()] for guess in subject.guesses()]
    assert [(1, 2, 4, 4), (1, 4), (1, 8)] in shapes
    assert [(1, 2, 0, 4), (1, 4), (1, 4)] in shapes
    assert all(past[2] + ids[1] == mask[1] for past, ids, mask in shapes)


# What a version's files give


def load(folder: Path, **options: Any) -> Model:
    return models.load(folder, "m", 1, device=Device(), backend="auto", **({"max_batch_size": 32} | options))


def picky(folder: Path) -> Path:
    """A model that takes rows of 7 numbers, and says so nowhere."""
    nodes = [node("Reshape", ["x", "sevens"], ["r"]), node("Neg", ["r"], ["y"])]
    return save(
        folder,
        nodes,
        [info("x", FLOAT, ["N", "T"])],
        [info("y", FLOAT, ["N", 7])],
        constant("sevens", np.array([0, 7])),
    )


SEVEN = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]


def test_without_a_word_of_it_a_picky_model_is_not_warmed_up_and_served(tmp_path: Path) -> None:
    model = load(picky(tmp_path / "m" / "1"))
    assert (model.announcement.warmed, model.announcement.max_batch_size) == (False, 0)
    assert any("not warmed up" in note for note in model.announcement.notes)
    assert model.run("serving_default", {"x": np.array([[SEVEN]], np.float32)}, 1)["y"].shape == (1, 1, 7)


def test_the_manifests_example_warms_up(tmp_path: Path) -> None:
    folder = picky(tmp_path / "m" / "1")
    x, y = TensorSpec(name="x", datatype="FP32", shape=(-1, -1)), TensorSpec(name="y", datatype="FP32", shape=(-1, 7))
    signatures = {"serving_default": Signature(inputs=(x,), outputs=(y,))}
    manifests.write(folder, Manifest(name="m", version=1, signatures=signatures, example={"instances": [SEVEN]}))
    model = load(folder)
    assert (model.announcement.warmed, model.announcement.max_batch_size, model.announcement.notes) == (True, 32, ())


@pytest.mark.parametrize("where", ["manifest", "config.pbtxt"])
def test_sizes_that_are_known_beyond_the_file_are_used(tmp_path: Path, where: str) -> None:
    folder = picky(tmp_path / "m" / "1")
    if where == "manifest":
        x = TensorSpec(name="x", datatype="FP32", shape=(-1, 7))
        signatures = {
            "serving_default": Signature(inputs=(x,), outputs=(TensorSpec(name="y", datatype="FP32", shape=(-1, 7)),))
        }
        manifests.write(folder, Manifest(name="m", version=1, signatures=signatures))
    else:
        (tmp_path / "m" / "config.pbtxt").write_text('input { name: "x" data_type: TYPE_FP32 dims: 7 }')
    model = load(folder, config=read_triton_config(tmp_path / "m"))
    assert (model.announcement.warmed, model.announcement.max_batch_size) == (True, 32)


def _tfserving_file(folder: Path, *rows: Sequence[float], name: str = "x") -> None:
    """TensorFlow Serving's warm-up file, with one request for each of the rows."""
    records = b""
    for row in rows:
        request = rpc.message("tensorflow.serving.PredictRequest")()
        tensor = Tensor.from_numpy(np.array([row], np.float32))
        request.inputs[name].MergeFromString(b"".join(tensorprotos.to_wire(tensor, as_content=True)))
        log = b"".join(wire.field(6, *wire.field(1, request.SerializeToString())))
        records += struct.pack("<Q4x", len(log)) + log + bytes(4)
    path = folder / tfserving_warmup.FILE
    path.parent.mkdir(parents=True)
    path.write_bytes(records)


def test_tensorflow_servings_warm_up_requests_warm_up(tmp_path: Path) -> None:
    folder = picky(tmp_path / "m" / "1")
    _tfserving_file(folder, SEVEN, [-number for number in SEVEN])
    model = load(folder)
    assert (model.announcement.warmed, model.announcement.max_batch_size, model.announcement.notes) == (True, 32, ())


@pytest.mark.parametrize("source", ["zero_data: true", "random_data: true", 'input_data_file: "x.bin"'])
def test_tritons_model_warmup_warms_up(tmp_path: Path, source: str) -> None:
    folder = picky(tmp_path / "m" / "1")
    (tmp_path / "m" / "warmup").mkdir()
    (tmp_path / "m" / "warmup" / "x.bin").write_bytes(np.array(SEVEN, np.float32).tobytes())
    inputs = f'inputs {{ key: "x" value {{ data_type: TYPE_FP32 dims: 7 {source} }} }}'
    (tmp_path / "m" / "config.pbtxt").write_text(f'model_warmup {{ name: "w" batch_size: 2 {inputs} }}')
    model = load(folder, config=read_triton_config(tmp_path / "m"))
    assert (model.announcement.warmed, model.announcement.max_batch_size, model.announcement.notes) == (True, 32, ())


@pytest.mark.parametrize("kind", ["cut off", "another input", "another file"])
def test_a_warm_up_request_that_does_not_fit_is_noted_and_nothing_more(tmp_path: Path, kind: str) -> None:
    folder = picky(tmp_path / "m" / "1")
    if kind == "another file":
        inputs = 'inputs { key: "x" value { data_type: TYPE_FP32 dims: 7 input_data_file: "../../secret" } }'
        (tmp_path / "m" / "config.pbtxt").write_text(f'model_warmup {{ name: "w" {inputs} }}')
    else:
        _tfserving_file(folder, SEVEN, name="z" if kind == "another input" else "x")
    if kind == "cut off":
        path = folder / tfserving_warmup.FILE
        path.write_bytes(path.read_bytes()[:-9])
    model = load(folder, config=read_triton_config(tmp_path / "m"))
    assert any("was left out" in note for note in model.announcement.notes)
    assert not any(str(tmp_path) in note for note in model.announcement.notes)


# Where nothing may be run


def test_a_model_that_must_not_be_run_is_served_without(tmp_path: Path) -> None:
    folder = save(
        tmp_path / "m" / "1", [node("Neg", ["x"], ["y"])], [info("x", FLOAT, ["N"])], [info("y", FLOAT, ["N"])]
    )
    model = load(folder, not_run="its process ended in its first runs (SIGSEGV)")
    assert (model.announcement.warmed, model.announcement.max_batch_size) == (False, 0)
    assert any("SIGSEGV" in note for note in model.announcement.notes)


@pytest.mark.parametrize("is_independent", [False, True])
def test_a_manifest_can_say_that_rows_are_independent(tmp_path: Path, is_independent: bool) -> None:
    nodes = [node("Softmax", ["x"], ["y"], axis=0)]
    folder = save(tmp_path / "m" / "1", nodes, [info("x", FLOAT, ["N"])], [info("y", FLOAT, ["N"])])
    x, y = (TensorSpec(name=name, datatype="FP32", shape=(-1,)) for name in "xy")
    batching = Batching(max_batch_size=16, rows_are_independent=is_independent)
    signatures = {"serving_default": Signature(inputs=(x,), outputs=(y,))}
    manifests.write(folder, Manifest(name="m", version=1, signatures=signatures, batching=batching))
    assert load(folder).announcement.max_batch_size == (16 if is_independent else 1)


def test_a_batch_of_one_row_mixes_rows_no_less(tmp_path: Path) -> None:
    """Where the worker's own limit is one row, a request of several still runs as the model has it."""
    nodes = [node("CumSum", ["x", "a"], ["y"])]
    folder = save(
        tmp_path / "m" / "1", nodes, [info("x", INT64, ["N"])], [info("y", INT64, ["N"])], constant("a", np.int64(0))
    )
    assert load(folder, max_batch_size=1).announcement.max_batch_size == 0
