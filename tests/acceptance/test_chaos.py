"""Breaking the running stack, in short: `make chaos` runs the same scenarios at length and with strict limits."""

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import httpx
import pytest

from tests.chaos import calls, scenarios
from tests.chaos.accounting import Result
from tests.chaos.faults import revived
from tests.chaos.overload import overload
from tests.chaos.stack import held
from tests.support import exact
from tests.support.running import Parts, until

Scenario = Callable[[Path, int], Result]


def test_a_worker_that_is_killed_costs_no_request_and_its_blocks_are_soon_anothers(tmp_path: Path) -> None:
    result = scenarios.kill_worker(tmp_path, 1000)
    assert result.faults() == []
    assert result.facts["kills in the middle of a batch"].value >= 2
    assert result.facts["until its blocks are another's, median"].value < 4


@pytest.mark.parametrize("scenario", [scenarios.freeze_worker, scenarios.stop_worker])
def test_a_process_that_leaves_or_stands_still_costs_no_request(scenario: Scenario, tmp_path: Path) -> None:
    assert scenario(tmp_path, 1000).faults() == []


def test_an_api_process_that_leaves_answers_what_it_has(tmp_path: Path) -> None:
    result = scenarios.stop_api(tmp_path, 1000)
    assert result.faults() == []
    assert result.facts["sent again, closed without an answer"].is_kept


@pytest.mark.parametrize("scenario", [scenarios.restart_redis, scenarios.freeze_redis, scenarios.cut_connections])
def test_whatever_redis_does_each_request_is_answered_or_refused_in_time(scenario: Scenario, tmp_path: Path) -> None:
    result = scenario(tmp_path, 1000)
    assert result.faults() == []
    assert result.facts["past its deadline, the worst"].value < 1500


def test_a_request_that_breaks_the_model_breaks_no_other(tmp_path: Path) -> None:
    result = scenarios.poison(tmp_path, 1000)
    assert result.faults() == []
    assert result.facts["workers that died of them"].value == 3 * result.facts["dead letters"].value


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
            asked.append(pool.submit(calls.ask, parts.urls[0], x, 30_000))
            _until_held(parts, rows)
        statuses = [answer.result().status_code for answer in asked]
    assert statuses == [200, 500, 200, 200, 200, 200]


def test_no_answer_goes_to_another_caller(tmp_path: Path) -> None:
    assert scenarios.callers(tmp_path, 5000).faults() == []


@pytest.fixture
def one_worker(tmp_path: Path) -> Iterator[Parts]:
    """A stack whose only worker runs one batch at a time."""
    exact.make(tmp_path / "models")
    with Parts(tmp_path, tmp_path / "models", MILLRACE_WORKER_INSTANCES="1") as parts:
        yield parts


def test_a_row_whose_deadline_has_passed_is_never_computed(one_worker: Parts) -> None:
    """The rows would end the worker's process if it computed them."""
    url = one_worker.urls[0]
    with ThreadPoolExecutor(1) as pool:
        busy = pool.submit(calls.ask, url, exact.slow(2))
        _until_held(one_worker, 1)
        by_header = calls.ask(url, exact.KILLS, 200)
        inputs = [{"name": "x", "datatype": "INT64", "shape": [1, 1], "data": [exact.KILLS]}]
        body = {"inputs": inputs, "parameters": {"timeout": 200_000}}
        by_parameter = httpx.post(f"{url}/v2/models/exact/infer", json=body, timeout=20)
        assert not busy.done()
        assert busy.result().status_code == 200
    for late in (by_header, by_parameter):
        assert late.status_code == 504
        assert late.json()["error"].startswith("no answer within ")
    assert calls.ask(url, 5).json() == {"predictions": [[exact.answer(5)]]}
    assert one_worker.workers[0].poll() is None
    assert held(one_worker) == 0


def test_a_caller_that_goes_away_has_its_row_dropped(one_worker: Parts) -> None:
    """The row would end the worker's process if it were computed."""
    url = one_worker.urls[0]
    call = calls.call_of([exact.KILLS])
    head = f"POST {call.path} HTTP/1.1\r\nhost: millrace\r\ncontent-length: {len(call.body)}\r\n\r\n"
    with ThreadPoolExecutor(1) as pool:
        busy = pool.submit(calls.ask, url, exact.slow(2))
        _until_held(one_worker, 1)
        with socket.create_connection(one_worker.addresses[0]) as connection:
            connection.sendall(head.encode() + call.body)
            _until_held(one_worker, 2)
        assert not busy.done()
        assert busy.result().status_code == 200
    assert calls.ask(url, 5).json() == {"predictions": [[exact.answer(5)]]}
    assert one_worker.workers[0].poll() is None
    assert held(one_worker) == 0


def test_high_priority_is_answered_first_and_normal_is_not_starved(one_worker: Parts) -> None:
    """Behind a batch that runs, 16 batches wait and then 8 of high priority: each request fills a batch."""
    rows, order = 32, list[str]()

    def ask(kind: str, seconds: float) -> int:
        x = {"name": "x", "datatype": "INT64", "shape": [rows, 1], "data": [exact.slow(seconds)] * rows}
        parameters = {"priority": 1} if kind == "high" else {}
        url = f"{one_worker.urls[0]}/v2/models/exact/infer"
        answer = httpx.post(url, json={"inputs": [x], "parameters": parameters}, timeout=60)
        order.append(kind)
        return answer.status_code

    with ThreadPoolExecutor(25) as pool:
        asked = [pool.submit(ask, "first", 2)]
        _until_held(one_worker, rows)
        asked += [pool.submit(ask, "normal", 0.05) for _ in range(16)]
        _until_held(one_worker, 17 * rows)
        asked += [pool.submit(ask, "high", 0.05) for _ in range(8)]
        _until_held(one_worker, 25 * rows)
        assert order == []
        assert [answer.result() for answer in asked] == [200] * 25
    places = {kind: [place for place, what in enumerate(order) if what == kind] for kind in ("high", "normal")}
    assert median(places["high"]) < median(places["normal"])
    assert max(places["high"]) < 20
    assert sum(place < max(places["high"]) for place in places["normal"]) >= 4


@pytest.mark.parametrize("slower", [1, 2])
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
