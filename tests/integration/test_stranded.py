"""Requests whose last worker is gone: they wait a little for another one, and then their callers are told."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from millrace.broker.memory import MemoryBroker
from millrace.broker.redis import RedisBroker
from millrace.protocol.errors import NoWorker
from millrace.protocol.messages import ModelAnnouncement, WorkerAnnouncement
from millrace.protocol.tensors import Signature, TensorSpec
from serving.queueing.requests import InferenceResponse
from serving.queueing.stranded import LAST_REPLIES_S, Stranded
from tests.integration.test_producer import QUEUE, Bench, bench, run, turns, values
from tests.support.api_process import ApiProcess
from tests.support.running import RedisServer, until
from tests.support.workers import local_worker
from tests.support.working import ask, request_of
from worker.loading.model import Model
from worker.settings import WorkerSettings

SOON_S = 0.2


def leave(b: Bench) -> None:
    """The bench's only worker says goodbye."""
    b.broker.worker().withdraw("0")


def come(b: Bench, *, is_leaving: bool = False) -> None:
    """A worker of that name is there, or still has something to finish."""
    model = ModelAnnouncement(name="m", version=1, state="END" if is_leaving else "AVAILABLE", error="it stops")
    announced = WorkerAnnouncement(worker="0", expires_ms=2**60, models=(model,), is_leaving=is_leaving)
    b.broker.worker().announce(announced)


async def known(b: Bench, *, can_be_answered: bool) -> None:
    """Return when a heartbeat has told that."""
    while b.producer.can_be_answered("m", 1) != can_be_answered:
        await asyncio.sleep(0)


def test_a_version_is_given_up_when_nobody_has_had_it_for_the_whole_grace() -> None:
    now, served = 0.0, {("m", 1)}
    stranded = Stranded(lambda model, version: (model, version) in served, lambda: now, grace_s=2.0)
    assert stranded.given_up([("m", 1), ("n", 1)]) == set()
    now, served = 1.0, set()
    assert stranded.given_up([("m", 1)]) == set()
    now = 2.9
    assert stranded.given_up([("m", 1)]) == set()
    served = {("m", 1)}
    assert stranded.given_up([("m", 1)]) == set()
    now, served = 3.0, set()
    assert stranded.given_up([("m", 1)]) == set()
    now = 5.0
    assert stranded.given_up([("m", 1)]) == {("m", 1)}


@run
async def test_what_the_last_worker_left_behind_is_refused_soon_and_computed_by_nobody() -> None:
    async with bench(grace_s=SOON_S) as b:
        task = b.submit(1, timeout_s=60.0)
        await turns()
        leave(b)
        with pytest.raises(NoWorker, match="the last worker that had model 'm' version 1 is gone"):
            await asyncio.wait_for(task, 10)
        assert b.producer.snapshot() == (0, 0, 0, 0)
        while not b.link.cancels:
            await asyncio.sleep(0)
        assert [(queue, len(items)) for queue, items in b.link.cancels] == [(QUEUE, 1)]


@run
async def test_a_worker_that_comes_within_the_grace_answers_what_the_last_one_left() -> None:
    async with bench(grace_s=60.0) as b:
        task = b.submit(1, timeout_s=60.0)
        leave(b)
        await known(b, can_be_answered=False)
        come(b)
        await known(b, can_be_answered=True)
        assert b.work() == [[1]]
        assert values(await task) == [2]


@run
async def test_a_worker_that_leaves_is_waited_for_while_it_works() -> None:
    async with bench(grace_s=0.0) as b:
        task = b.submit(1, timeout_s=60.0)
        await turns()
        (taken,) = b.waiting()
        come(b, is_leaving=True)
        while b.producer.workers:
            await asyncio.sleep(0)
        await asyncio.wait([task], timeout=SOON_S)  # twenty heartbeats
        assert not task.done()
        b.answer(taken, b.request(1).inputs["x"].to_numpy() * 2)
        assert values(await task) == [2]


@run
async def test_who_drains_waits_for_no_worker_that_may_come() -> None:
    async with bench(grace_s=60.0) as b:
        task = b.submit(1, timeout_s=60.0)
        leave(b)
        await known(b, can_be_answered=False)
        began = asyncio.get_running_loop().time()
        await b.producer.drain(50.0)
        assert asyncio.get_running_loop().time() - began < LAST_REPLIES_S + 5
        with pytest.raises(NoWorker):
            await task


def test_a_worker_that_stops_says_what_it_still_works_on_until_it_is_done(
    make_onnx: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, leave = threading.Event(), threading.Event()
    run_model = Model.run

    def waits(model: Model, *arguments: Any) -> Any:
        entered.set()
        leave.wait(30)
        return run_model(model, *arguments)

    for name in ("m", "idle"):
        make_onnx(tmp_path, name)
    broker = MemoryBroker()
    worker = local_worker(WorkerSettings(models=tmp_path), broker)
    thread = threading.Thread(target=worker.run)
    thread.start()
    live = broker.worker().live
    until(lambda: [model.state for found in live() for model in found.models] == ["AVAILABLE"] * 2)
    monkeypatch.setattr(Model, "run", waits)
    answers: list[InferenceResponse | BaseException] = []
    asking = threading.Thread(target=lambda: answers.extend(ask(broker, request_of([[1, 2, 3]], timeout_s=60.0))))
    asking.start()
    assert entered.wait(10)
    worker.stop()
    until(lambda: [[model.name for model in found.models] for found in live() if found.is_leaving] == [["m"]])
    leave.set()
    thread.join(30)
    asking.join(30)
    assert live() == []
    assert isinstance(answers[0], InferenceResponse)


def test_an_api_that_stops_answers_503_to_what_no_worker_can_answer_and_is_soon_gone(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    link = RedisBroker(redis_server.url).worker()
    x = TensorSpec(name="x", datatype="FP32", shape=(-1, 1))
    model = ModelAnnouncement(
        name="m",
        version=1,
        state="AVAILABLE",
        signatures={"serving_default": Signature(inputs=(x,), outputs=(x,))},
        max_batch_size=8,
    )
    link.announce(WorkerAnnouncement(worker="w", expires_ms=2**50, models=(model,)))
    with ApiProcess(redis_server.url, tmp_path / "log") as api, ThreadPoolExecutor(1) as pool:
        asking = pool.submit(api.ask, "POST", "/v1/models/m:predict", b'{"instances": [[1]]}')
        until(lambda: link.block_count(QUEUE) == 1)
        link.withdraw("w")
        took_s = api.stop()
        status, headers, body = asking.result()
    assert (status, headers["retry-after"]) == (503, "1")
    assert b"the last worker that had model 'm' version 1 is gone" in body
    assert took_s < 15  # it would drain for 30
