"""Breaking the running stack, in short: `make chaos` runs the same scenarios at length and with strict limits."""

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import httpx
import pytest
import redis

from tests.chaos import calls, scenarios
from tests.chaos.accounting import Result
from tests.chaos.faults import revived
from tests.chaos.overload import overload
from tests.chaos.stack import QUEUE, held
from tests.support import exact
from tests.support.gated import GatedModel
from tests.support.running import Parts, until

Scenario = Callable[[Path, int], Result]
PATIENT_MS = 120_000  # the deadline of requests that are to be answered, on however slow a machine


def test_a_worker_that_is_killed_costs_no_request_and_its_blocks_are_soon_anothers(tmp_path: Path) -> None:
    result = scenarios.kill_worker(tmp_path, 1000)
    assert result.faults() == []
    assert result.facts["kills in the middle of a batch"].value >= 2
    assert result.facts["until its blocks are another's, median"].value < 4


@pytest.mark.slow
@pytest.mark.parametrize("scenario", [scenarios.freeze_worker, scenarios.stop_worker])
def test_a_process_that_leaves_or_stands_still_costs_no_request(scenario: Scenario, tmp_path: Path) -> None:
    assert scenario(tmp_path, 1000).faults() == []


@pytest.mark.slow
def test_an_api_process_that_leaves_answers_what_it_has(tmp_path: Path) -> None:
    result = scenarios.stop_api(tmp_path, 1000)
    assert result.faults() == []
    assert result.facts["sent again, closed without an answer"].is_kept


@pytest.mark.parametrize("scenario", [scenarios.restart_redis, scenarios.freeze_redis, scenarios.cut_connections])
def test_whatever_redis_does_each_request_is_answered_or_refused_in_time(scenario: Scenario, tmp_path: Path) -> None:
    result = scenario(tmp_path, 1000)
    assert result.faults() == []
    assert result.facts["past its deadline, the worst"].value < 1500


@pytest.mark.slow
def test_a_request_that_breaks_the_model_breaks_no_other(tmp_path: Path) -> None:
    result = scenarios.poison(tmp_path, 1000)
    assert result.faults() == []
    assert result.facts["workers that died of them"].value == result.facts["dead letters"].value == 0


@pytest.mark.skipif(not exact.IS_KILLABLE, reason="only x86 processors stop the process at that division")
def test_what_a_worker_held_beside_a_request_that_kills_is_answered(tmp_path: Path) -> None:
    exact.make(tmp_path / "models")
    with (
        Parts(tmp_path, tmp_path / "models", MILLRACE_WORKER_INSTANCES="1") as parts,
        revived(parts),
        ThreadPoolExecutor(6) as pool,
    ):
        xs = [exact.slow(2), exact.KILLS, 5, 6, 7, 8]
        asked = []
        for rows, x in enumerate(xs, start=1):  # each in a block of its own, all but the first taken together
            asked.append(pool.submit(calls.ask, parts.urls[0], x, PATIENT_MS))
            _until_held(parts, rows)
        statuses = [answer.result().status_code for answer in asked]
    assert statuses == [200, 500, 200, 200, 200, 200]


def test_no_answer_goes_to_another_caller(tmp_path: Path) -> None:
    assert scenarios.callers(tmp_path, 5000).faults() == []


@pytest.fixture
def model() -> Iterator[GatedModel]:
    """A model whose runs wait for the test."""
    with GatedModel().serving() as gated:
        yield gated


@pytest.fixture
def one_worker(model: GatedModel, tmp_path: Path) -> Iterator[Parts]:
    """A stack whose only worker runs one batch of that model at a time, and has to wait for the gate from now on."""
    model.publish(tmp_path / "models")
    with Parts(tmp_path, tmp_path / "models", MILLRACE_WORKER_INSTANCES="1") as parts:
        for _ in range(3):  # so that the API knows it as a quick one: at first it lets little in
            assert calls.ask(parts.urls[0], 1, PATIENT_MS).status_code == 200
        model.close()
        yield parts
        model.open()


def test_a_row_whose_deadline_has_passed_is_never_computed(one_worker: Parts, model: GatedModel) -> None:
    url = one_worker.urls[0]
    with ThreadPoolExecutor(1) as pool:
        busy = pool.submit(calls.ask, url, 1, PATIENT_MS)
        model.until_busy()
        by_header = calls.ask(url, 2, 200)
        inputs = [{"name": "x", "datatype": "INT64", "shape": [1, 1], "data": [3]}]
        body = {"inputs": inputs, "parameters": {"timeout": 200_000}}
        by_parameter = httpx.post(f"{url}/v2/models/exact/infer", json=body, timeout=60)
        assert not busy.done()
        model.open()
        assert busy.result().status_code == 200
    for late in (by_header, by_parameter):
        assert late.status_code == 504
        assert late.json()["error"].startswith("no answer within ")
    assert calls.ask(url, 5, PATIENT_MS).json() == {"predictions": [[exact.answer(5)]]}
    assert model.runs == [[1], [5]]
    assert held(one_worker) == 0


def test_a_caller_that_goes_away_has_its_row_dropped(one_worker: Parts, model: GatedModel) -> None:
    url = one_worker.urls[0]
    call = calls.call_of([2], PATIENT_MS)
    head = f"POST {call.path} HTTP/1.1\r\nhost: millrace\r\ncontent-length: {len(call.body)}\r\n\r\n"
    with ThreadPoolExecutor(1) as pool:
        busy = pool.submit(calls.ask, url, 1, PATIENT_MS)
        model.until_busy()
        with socket.create_connection(one_worker.addresses[0]) as connection:
            connection.sendall(head.encode() + call.body)
            _until_held(one_worker, 2)
        _until_cancelled(one_worker)
        assert not busy.done()
        model.open()
        assert busy.result().status_code == 200
    assert calls.ask(url, 5, PATIENT_MS).json() == {"predictions": [[exact.answer(5)]]}
    assert model.runs == [[1], [5]]
    assert held(one_worker) == 0


@pytest.mark.slow
def test_high_priority_is_computed_first_and_normal_is_not_starved(one_worker: Parts, model: GatedModel) -> None:
    """Behind a batch that runs, 16 batches wait and then 8 of high priority: each request fills a batch."""
    rows, values = 32, {"first": 1, "normal": 2, "high": 3}

    def ask(kind: str) -> int:
        x = {"name": "x", "datatype": "INT64", "shape": [rows, 1], "data": [values[kind]] * rows}
        parameters = {"priority": 1} if kind == "high" else {}
        headers = {"X-Request-Timeout-Ms": str(PATIENT_MS)}
        url = f"{one_worker.urls[0]}/v2/models/exact/infer"
        body = {"inputs": [x], "parameters": parameters}
        return httpx.post(url, json=body, headers=headers, timeout=PATIENT_MS / 1000 + 10).status_code

    with ThreadPoolExecutor(25) as pool:
        asked = [pool.submit(ask, "first")]
        model.until_busy()
        asked += [pool.submit(ask, "normal") for _ in range(16)]
        _until_held(one_worker, 17 * rows)
        asked += [pool.submit(ask, "high") for _ in range(8)]
        _until_held(one_worker, 25 * rows)
        assert model.runs == [[1] * rows]
        model.open()
        assert [answer.result() for answer in asked] == [200] * 25
    order = [run[0] for run in model.runs]
    places = {kind: [place for place, x in enumerate(order) if x == values[kind]] for kind in ("high", "normal")}
    assert median(places["high"]) < median(places["normal"])
    assert max(places["high"]) < 20
    assert sum(place < max(places["high"]) for place in places["normal"]) >= 4


@pytest.mark.alone
@pytest.mark.parametrize("slower", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_overload_is_turned_away_at_once_and_the_rest_is_answered_in_time(tmp_path: Path, slower: int) -> None:
    """Limits for a machine that has others to serve; those of `make chaos` are the promised ones."""
    result = overload(tmp_path, 1000, slower)
    facts = result.facts
    assert result.faults() == []
    assert facts["goodput"].value > 60
    assert facts["turned away, p99"].value < 500
    assert facts["turned away without Retry-After"].is_kept
    assert facts["Retry-After, at most"].is_kept
    assert facts["came again when told, and were refused"].is_kept
    assert facts["accepted, and not answered in time"].value < 10
    assert facts["memory of API, growth"].is_kept
    assert facts["memory of Redis, growth"].is_kept
    assert facts["a request alone after, median"].value < 5 * facts["a request alone before, median"].value


def _until_held(parts: Parts, rows: int) -> None:
    until(lambda: held(parts) == rows, what=f"{rows} rows on the queue")


def _until_cancelled(parts: Parts) -> None:
    with redis.Redis.from_url(parts.redis.url) as client:
        until(lambda: client.zcard(QUEUE.cancelled) == 1, what="the request to be withdrawn")
