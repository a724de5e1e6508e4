"""Models that call models through the queue: real brokers, and callers in threads and tasks."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from millrace.broker.base import Broker
from millrace.broker.keys import Queue
from millrace.broker.redis import RedisBroker
from millrace.calling.served import ServedModels
from millrace.model import Outputs
from millrace.protocol.desired_state import DesiredState
from millrace.protocol.errors import DeadlineExceeded, InvalidRequest, ModelFailed, Unavailable
from millrace.protocol.messages import ModelAnnouncement, WorkerAnnouncement
from millrace.protocol.tensors import Signature, TensorSpec
from tests.support.running import RedisServer
from tests.support.working import Scripted, doubles, model_of, raises_in_infer, serving
from worker.calls.inputs import tensors_of
from worker.calls.models import QueueModels
from worker.loading.model import Model
from worker.running.current import CurrentRequests, current

OWN = Queue("caller", 1)


@contextmanager
def called(broker: Broker, compute: Callable[[Any], Any], max_batch_size: int = 8) -> Iterator[tuple[Model, Scripted]]:
    """A model `m` that a worker serves and announces."""
    backend = Scripted(compute)
    model = model_of(backend, max_batch_size)
    with served(broker, model):
        yield model, backend


@contextmanager
def served(broker: Broker, model: Model) -> Iterator[None]:
    link = broker.worker()
    link.announce(WorkerAnnouncement(worker="w", expires_ms=2**50, models=(model.announcement,)))
    with serving(broker, model):
        yield
    link.close()


@contextmanager
def calling(broker: Broker) -> Iterator[QueueModels]:
    models = QueueModels(broker, "w", OWN)
    yield models
    models.close()


@contextmanager
def on_behalf(broker: Broker, timeout_s: float = 20.0, via: tuple[str, ...] = (), trace: str = "t") -> Iterator[None]:
    """What is called in the block is called for a request with that deadline."""
    link = broker.worker()
    link.announce(WorkerAnnouncement(worker="clock", expires_ms=0, models=()))
    deadline_ms = int(link.clock.now_ms() + timeout_s * 1000)
    token = current.set(CurrentRequests(deadline_ms=deadline_ms, trace=trace, via=via))
    yield
    current.reset(token)
    link.close()


def test_code_calls_a_model_and_waits_or_not(broker: Broker) -> None:
    with called(broker, doubles), calling(broker) as models, on_behalf(broker):
        assert models["m"].predict(x=[[1, 2], [3, 4]])["y"].tolist() == [[2, 4], [6, 8]]
        futures = [models.model("m", version=1).submit(x=np.full((1, 1), i)) for i in range(20)]
        assert [future.result(20)["y"].item() for future in futures] == [2 * i for i in range(20)]

        async def several() -> list[Outputs]:
            return await asyncio.gather(*(models["m"].predict_async(x=[[i]]) for i in (5, 6)))

        assert [answer["y"].tolist() for answer in asyncio.run(several())] == [[[10]], [[12]]]


def test_the_called_model_is_in_the_trace_of_the_request_that_it_is_called_for(broker: Broker) -> None:
    traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    backend = Scripted(doubles, passes_traces_on=True)
    with served(broker, model_of(backend, 8)), calling(broker) as models:
        with on_behalf(broker, trace=f"id {traceparent}"):
            models["m"].predict(x=[[1]])
        with on_behalf(broker, trace="id"):
            models["m"].predict(x=[[1]])
    told = [each for each in backend.told if each and each.trace.startswith("id")]
    assert [each.traceparent for each in told] == [traceparent, ""]
    assert [each.via for each in told] == [("caller/1",)] * 2


def test_more_rows_than_a_batch_are_cut_and_a_large_row_goes_in_fragments(broker: Broker) -> None:
    with called(broker, doubles, max_batch_size=4) as (_, backend), calling(broker) as models:
        rows = np.arange(22, dtype=np.float32).reshape(11, 2)
        assert models["m"].predict(x=rows)["y"].tolist() == (2 * rows).tolist()
        assert max(backend.runs) <= 4
        large = np.ones((3, 700_000), np.float32)
        assert np.array_equal(models["m"].predict(x=large)["y"], 2 * large)
        many = np.ones((40, 20_000), np.float32)
        assert np.array_equal(models["m"].predict(x=many)["y"], 2 * many)


def test_a_model_without_batches_has_its_tensors_as_they_are(broker: Broker) -> None:
    with called(broker, doubles, max_batch_size=0), calling(broker) as models:
        assert models["m"].predict(x=[[1.5, 2]])["y"].tolist() == [[3, 4]]


def test_errors_pass_through(broker: Broker) -> None:
    with called(broker, raises_in_infer), calling(broker) as models:
        with pytest.raises(ModelFailed, match="model 'm' failed: ValueError: cannot stand 666"):
            models["m"].predict(x=[[1], [666]])
        with pytest.raises(InvalidRequest, match="unexpected inference input 'z' for model 'm'"):
            models["m"].predict(z=[[1]])
        with pytest.raises(InvalidRequest, match=r"input 'x' for model 'm' has the shape \[1\] in place of \[-1, -1\]"):
            models["m"].predict(x=[1])
        with pytest.raises(Unavailable, match="no worker serves model 'nowhere', which another model calls"):
            models["nowhere"].predict(x=[[1]])
        with pytest.raises(Unavailable, match="no worker serves model 'm' version 2"):
            models.model("m", version=2).predict(x=[[1]])
        assert models["m"].predict(x=[[1]])["y"].tolist() == [[2]]


def test_a_call_ends_with_the_deadline_of_the_request_that_it_is_made_for(broker: Broker) -> None:
    go_on = threading.Event()

    def waits(x: Any) -> Any:
        go_on.wait(30)
        return x

    with called(broker, waits), calling(broker) as models:
        with on_behalf(broker, timeout_s=0.3), pytest.raises(DeadlineExceeded, match="model 'm' did not answer"):
            models["m"].predict(x=[[1]])
        with on_behalf(broker, timeout_s=-1), pytest.raises(DeadlineExceeded):
            models["m"].predict(x=[[1]])
        go_on.set()
        assert models["m"].predict(x=[[1]])["y"].tolist() == [[1]]


def test_a_model_that_waits_already_is_not_called_again(broker: Broker) -> None:
    with called(broker, doubles), calling(broker) as models:
        with (
            on_behalf(broker, via=("m/1", "b/2")),
            pytest.raises(ModelFailed, match="m/1 calls b/2 calls caller/1 calls"),
        ):
            models["m"].predict(x=[[1]])
        own = QueueModels(broker, "w", Queue("m", 1))
        with pytest.raises(ModelFailed, match=r"models call in a circle, .*: m/1 calls m/1"):
            own["m"].predict(x=[[1]])
        own.close()


def test_a_queue_that_comes_back_empty_is_told_and_calls_go_on(own_redis: RedisServer) -> None:
    broker = RedisBroker(own_redis.url)
    started, go_on = threading.Event(), threading.Event()

    def waits(x: Any) -> Any:
        started.set()
        go_on.wait(30)
        return x

    with called(broker, waits) as (model, _), calling(broker) as models:
        lost = models["m"].submit(x=[[1]])
        assert started.wait(10)
        own_redis.kill()
        own_redis.start()
        with pytest.raises(Unavailable):
            lost.result(30)
        go_on.set()
        link = broker.worker()
        link.announce(WorkerAnnouncement(worker="w", expires_ms=2**50, models=(model.announcement,)))
        assert models["m"].predict(x=[[2]])["y"].tolist() == [[2]]
        link.close()


# Which version

CHANCES = (0.0, 0.24, 0.26, 0.99)


def _announced(*states: tuple[int, str]) -> WorkerAnnouncement:
    models = tuple(
        ModelAnnouncement(name="m", version=version, state=state, version_labels=("old",) if version == 1 else ())
        for version, state in states
    )
    return WorkerAnnouncement(worker="w", expires_ms=0, models=models)


def test_the_version_is_the_one_that_a_request_without_one_would_get() -> None:
    both = [_announced((1, "AVAILABLE"), (2, "AVAILABLE"), (3, "LOADING"))]
    assert ServedModels(both).choose("m").version == 2
    assert ServedModels(both).choose("m", label="old").version == 1
    labelled = [DesiredState(model="m", labels={"old": 2})]
    assert ServedModels(both, labelled).choose("m", label="old").version == 2
    weighted = [DesiredState(model="m", weights={1: 1.0, 2: 3.0, 9: 5.0})]
    drawn = [ServedModels(both, weighted, chance=partial(float, each)).choose("m").version for each in CHANCES]
    assert drawn == [1, 1, 2, 2]
    one_still_loads = [_announced((1, "AVAILABLE"), (2, "LOADING")), _announced((1, "AVAILABLE"), (2, "AVAILABLE"))]
    assert ServedModels(one_still_loads).choose("m").version == 1
    with pytest.raises(Unavailable, match="with the label 'new'"):
        ServedModels(both).choose("m", label="new")


# What fits


SPECS = (
    TensorSpec(name="image", datatype="FP32", shape=(-1, 2), media="image"),
    TensorSpec(name="text", datatype="BYTES", shape=(-1,), optional=True, max_bytes=4),
)
MODEL = ModelAnnouncement(
    name="m",
    version=1,
    state="AVAILABLE",
    signatures={"serving_default": Signature(inputs=SPECS, outputs=())},
    max_batch_size=4,
)


def test_inputs_are_arrays_or_files_or_text() -> None:
    tensors, rows = tensors_of(MODEL, "serving_default", {"image": [[1, 2], [3, 4]], "text": ["é", b"x"]})
    assert rows == 2
    assert tensors["image"].to_numpy().tolist() == [[1, 2], [3, 4]]
    assert tensors["text"].to_numpy().tolist() == ["é".encode(), b"x"]
    tensors, rows = tensors_of(MODEL, "serving_default", {"image": [b"PNG"]})
    assert (rows, tensors["image"].datatype) == (1, "BYTES")


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "needs the input 'image'"),
        ({"image": [[1, 2]], "text": ["a", "b"]}, r"different numbers of rows: \[1, 2\]"),
        ({"image": np.zeros((0, 2))}, "without a row"),
        ({"image": [[1, 2]], "text": ["long!"]}, "at most 4 bytes an element"),
        ({"image": [["a", "b"]]}, "input 'image' for model 'm' is <U1 in place of FP32"),
    ],
)
def test_what_would_not_fit_never_goes_to_the_queue(inputs: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        tensors_of(MODEL, "serving_default", inputs)
    with pytest.raises(InvalidRequest, match="no signature 'other'"):
        tensors_of(MODEL, "other", inputs)


def test_rows_that_must_stay_together_are_not_cut() -> None:
    whole = replace(MODEL, has_whole_requests=True)
    with pytest.raises(InvalidRequest, match="at most 4 rows at once, got 5"):
        tensors_of(whole, "serving_default", {"image": np.zeros((5, 2))})
