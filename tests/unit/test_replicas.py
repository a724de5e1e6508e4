"""One model on several GPUs, and one in several sizes of batches: with the CPU's real runtime in the GPUs' place."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worker import backends
from worker.backends import replicas
from worker.backends.base import Arrays, Backend, Device, LoadError
from worker.backends.replicas import Replicas
from worker.loading import fixed_sizes
from worker.loading import model as models

DEFAULT = "serving_default"


class Watched:
    """A backend that says which device it was loaded for, and may be made to wait in its runs."""

    def __init__(self, backend: Backend, device: Device) -> None:
        self._backend = backend
        self.device = device
        self.rows: list[int] = []
        self.is_closed = False
        self.may_run = threading.Event()
        self.may_run.set()
        self.runs = threading.Semaphore(0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def run(self, signature: str, inputs: Arrays) -> Arrays:
        self.rows.append(len(inputs["x"]))
        self.runs.release()
        assert self.may_run.wait(10)
        return self._backend.run(signature, inputs)

    def close(self) -> None:
        self.is_closed = True
        self._backend.close()


@pytest.fixture
def loaded() -> list[Watched]:
    return []


@pytest.fixture
def make(make_onnx: Callable[..., Path], tmp_path: Path, loaded: list[Watched]) -> Callable[[Device], Any]:
    folder = make_onnx(tmp_path)

    def make(device: Device = Device()) -> Any:  # noqa: B008 - it is immutable
        if device.gpu == 9:
            raise LoadError("no such GPU")
        watched = Watched(backends.load(folder, Device()), device)
        loaded.append(watched)
        return watched

    return make


def rows(*first: float) -> Arrays:
    return {"x": np.array([[number, 0, 0] for number in first], np.float32)}


def test_there_is_one_backend_for_each_gpu_and_all_are_warmed_up(make: Any, loaded: list[Watched]) -> None:
    backend = replicas.load(make, Device("cuda", threads=3), (2, 0, 2))
    assert [each.device for each in loaded] == [Device("cuda", 3, 2), Device("cuda", 3, 0)]
    assert np.array_equal(backend.run(DEFAULT, rows(1))["scores"], [[1, 10]])
    assert [each.rows for each in loaded] == [[1], [1]]


def test_runs_are_shared_out_by_how_many_instances_a_gpu_has(make: Any, loaded: list[Watched]) -> None:
    backend = replicas.load(make, Device("cuda"), (0, 0, 1))
    assert isinstance(backend, Replicas)
    backend.spread()
    for each in loaded:
        each.may_run.clear()
    answers: list[Any] = []
    threads = []
    for number in range(3):
        thread = threading.Thread(target=lambda n=number: answers.append(backend.run(DEFAULT, rows(n))["scores"][0, 0]))
        thread.start()
        threads.append(thread)
        expected = loaded[(0, 1, 0)[number]]
        assert expected.runs.acquire(timeout=10), "the run went to another GPU"
    for each in loaded:
        each.may_run.set()
    for thread in threads:
        thread.join(10)
    assert sorted(answers) == [0, 1, 2]
    backend.run(DEFAULT, rows(5))
    assert [len(each.rows) for each in loaded] == [3, 1]


def test_a_gpu_that_fails_takes_the_version_with_it_and_leaves_nothing_open(make: Any, loaded: list[Watched]) -> None:
    with pytest.raises(LoadError, match="no such GPU"):
        replicas.load(make, Device("cuda"), (0, 9))
    assert [each.is_closed for each in loaded] == [True]


@pytest.mark.parametrize("given", [{"keeps_state": "it counts"}, {"platform": "python"}])
def test_a_model_with_state_or_code_of_its_own_is_loaded_once(
    make: Any, loaded: list[Watched], given: dict[str, str]
) -> None:
    def unlike_others(device: Device) -> Any:
        backend = make(device)
        vars(backend).update(given)
        return backend

    assert not isinstance(replicas.load(unlike_others, Device("cuda"), (3, 4)), Replicas)
    assert [each.device.gpu for each in loaded] == [3]


@pytest.mark.parametrize("gpus", [(), (1, 1)])
def test_one_gpu_needs_no_replicas(make: Any, loaded: list[Watched], gpus: tuple[int, ...]) -> None:
    assert not isinstance(replicas.load(make, Device("cuda"), gpus), Replicas)
    assert [each.device.gpu for each in loaded] == [1 if gpus else None]


@pytest.mark.parametrize(
    ("most", "sizes"),
    [(1, [1]), (6, [6, 3, 2, 1]), (64, [64, 32, 16, 8, 4, 2, 1]), (1024, [1024, 512, 256, 128, 64, 32, 16, 8])],
)
def test_the_sizes_are_the_largest_and_its_halves(most: int, sizes: list[int]) -> None:
    assert fixed_sizes.sizes_up_to(most) == sizes


def test_each_session_sees_one_size_and_answers_are_the_rows_own(
    make: Any, loaded: list[Watched], make_onnx: Callable[..., Path], tmp_path: Path
) -> None:
    plain = models.load(make_onnx(tmp_path, "plain"), "plain", 1, device=Device(), backend="onnx", max_batch_size=6)
    sizes = fixed_sizes.load(make, 6, DEFAULT, rows(0))
    fixed = models.Model(plain.announcement, plain.batching, make(), plain.preparation, sizes=sizes)
    for count in (1, 2, 3, 4, 5, 6, 7):
        parts = [rows(*range(count - 1)), rows(9)] if count > 1 else [rows(9)]
        answers = fixed.run(DEFAULT, fixed.joined(parts), count)
        assert np.array_equal(answers["scores"], plain.run(DEFAULT, plain.joined(parts), count)["scores"])
    *of_size, others = [each.rows for each in loaded]
    assert of_size == [[6, 6, 6, 6], [3, 3], [2, 2], [1, 1]]
    assert others == [7]  # more than a batch has: as it is
    fixed.close()
    assert all(each.is_closed for each in loaded)


def test_a_size_without_memory_is_left_out(make: Any, loaded: list[Watched]) -> None:
    def limited() -> Any:
        backend = make()
        backend.run = lambda signature, inputs: (
            Watched.run(backend, signature, inputs) if len(inputs["x"]) < 4 else 1 / 0
        )
        return backend

    sizes = fixed_sizes.load(limited, 6, DEFAULT, rows(0))
    assert [sizes.of(size) is not None for size in (1, 2, 3, 6)] == [True, True, True, False]
    assert loaded[0].is_closed
    assert len(sizes.filled([rows(1, 2, 3, 4)])) == 1
