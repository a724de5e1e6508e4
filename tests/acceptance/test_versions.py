"""Versions on the running stack, under load that keeps account: published, refused, shared out, rolled back, gone."""

import itertools
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.load import Call, Load
from tests.support.running import Parts, until

PATH = "/v2/models/m/infer"


@pytest.fixture
def publish(make_onnx: Callable[..., Path], tmp_path: Path) -> Callable[..., None]:
    """Publishes a version of the model m: written beside, then renamed."""

    def published(version: int, *, is_broken: bool = False) -> None:
        folder = make_onnx(tmp_path / "staging", "m", version)
        if is_broken:
            (folder / "model.onnx").write_bytes(b"no model")
        (tmp_path / "models" / "m").mkdir(parents=True, exist_ok=True)
        folder.rename(tmp_path / "models" / "m" / str(version))

    return published


@pytest.fixture
def parts(publish: Callable[..., None], tmp_path: Path) -> Iterator[Parts]:
    """Two workers and two API processes that serve version 1."""
    publish(1)
    with Parts(tmp_path, tmp_path / "models", apis=2, workers=2) as running:
        yield running


class Asking:
    """Calls that note which version answered each, in order; the scores must be that version's own."""

    def __init__(self, path: str = PATH) -> None:
        self.answered: list[int] = []
        self.path = path

    def calls(self) -> Iterator[Call]:
        for number in itertools.count(1):
            inputs = [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [number % 1000, 0, 0]}]
            body = json.dumps({"inputs": inputs}).encode()
            yield Call(path=self.path, body=body, is_right=self._is_right(number % 1000), timeout_ms=20_000)

    def _is_right(self, x: int) -> Callable[[Any], bool]:
        def check(document: Any) -> bool:
            version = int(document["model_version"])
            self.answered.append(version)
            return bool(document["outputs"][0]["data"] == [x * version, 10 * x * version])

        return check


def under_load(parts: Parts, asking: Asking, *, connections: int = 8) -> Load:
    return Load(parts.addresses, asking.calls(), connections=connections)


def states(url: str) -> dict[str, str]:
    document = httpx.get(f"{url}/v1/models/m").json()
    return {status["version"]: status["state"] for status in document["model_version_status"]}


def put(parts: Parts, path: str, body: object) -> Any:
    answer = httpx.put(f"{parts.urls[0]}/v1/models/m/{path}", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


def change(parts: Parts, verb: str, name: str = "m") -> httpx.Response:
    """A load or unload as tritonclient sends it."""
    body = {"parameters": {"unload_dependents": False}} if verb == "unload" else {}
    return httpx.post(f"{parts.urls[0]}/v2/repository/models/{name}/{verb}", json=body, timeout=60)


def test_a_version_published_under_load_takes_over_without_a_failed_request(
    parts: Parts, publish: Callable[..., None]
) -> None:
    asking = Asking()
    with under_load(parts, asking) as load:
        load.after(200)
        publish(2)
        until(lambda: all(states(url) == {"1": "END", "2": "AVAILABLE"} for url in parts.urls), 60)
        taken_over = len(asking.answered)
        load.after(500)
    assert load.tally.faults() == []
    assert load.tally.refusals() == Counter()
    assert set(asking.answered) == {1, 2}
    assert set(asking.answered[taken_over + 8 :]) == {2}  # those that were on their way are passed over


@pytest.mark.slow
def test_a_bad_version_is_reported_and_the_old_one_goes_on(parts: Parts, publish: Callable[..., None]) -> None:
    asking = Asking()
    with under_load(parts, asking) as load:
        load.after(100)
        publish(2, is_broken=True)
        until(lambda: states(parts.urls[0]) == {"1": "AVAILABLE", "2": "END"}, 60)
        load.after(300)
    assert load.tally.faults() == []
    assert set(asking.answered) == {1}
    (bad,) = httpx.get(f"{parts.urls[0]}/v1/models/m/versions/2").json()["model_version_status"]
    assert bad["status"]["error_code"] == "UNKNOWN"
    assert "model.onnx" in bad["status"]["error_message"]
    refused = change(parts, "load")
    assert refused.status_code == 400
    assert "load failed for model 'm': version 2 is at UNAVAILABLE state" in refused.json()["error"]
    publish(3)
    until(lambda: states(parts.urls[0]).get("3") == "AVAILABLE", 60)


def test_a_canary_is_tried_widened_and_rolled_back_under_load(parts: Parts, publish: Callable[..., None]) -> None:
    put(parts, "labels/stable", {"version": 1})
    put(parts, "traffic", {"weights": {"1": 100}})
    asking, labelled = Asking(), Asking("/v1/models/m/labels/stable:predict")
    with under_load(parts, asking) as load:
        publish(2)
        until(lambda: all(states(url) == {"1": "AVAILABLE", "2": "AVAILABLE"} for url in parts.urls), 60)
        load.after(200)
        assert set(asking.answered) == {1}
        # when a part of the requests goes to the new version
        weights = {"1": 75.0, "2": 25.0}
        put(parts, "traffic", {"weights": weights})
        until(lambda: all(httpx.get(f"{url}/v1/models/m/traffic").json()["weights"] == weights for url in parts.urls))
        started = len(asking.answered)
        load.after(1000)
        shares = Counter(asking.answered[started:])
        # and all go back
        put(parts, "traffic", {"weights": {"1": 1}})
        until(lambda: set(asking.answered[-300:]) == {1}, 60)
    assert load.tally.faults() == []
    assert 0.15 < shares[2] / shares.total() < 0.35
    body = {"instances": [[1, 0, 0]]}
    predicted = httpx.post(f"{parts.urls[0]}{labelled.path}", json=body)
    assert predicted.json() == {"predictions": [[1, 10]]}
    # when the label moves
    assert put(parts, "labels/stable", {"version": 2})["labels"] == {"stable": 2}
    assert httpx.post(f"{parts.urls[0]}{labelled.path}", json=body).json() == {"predictions": [[2, 20]]}
    # then it cannot be moved to where nothing is
    refused = httpx.put(f"{parts.urls[0]}/v1/models/m/labels/stable", json={"version": 9})
    assert refused.status_code == 400
    assert "version 9 of model m, which is not currently available for inference" in refused.json()["error"]


@pytest.mark.slow
def test_a_shadow_gets_copies_that_no_caller_sees(parts: Parts, publish: Callable[..., None]) -> None:
    put(parts, "traffic", {"weights": {"1": 1}})
    publish(2)
    until(lambda: all(states(url).get("2") == "AVAILABLE" for url in parts.urls), 60)
    put(parts, "traffic", {"weights": {"1": 1}, "shadow": {"version": 2, "percent": 50}})
    asking = Asking()

    def copies(outcome: str) -> float:
        lines = [line for url in parts.urls for line in httpx.get(f"{url}/metrics").text.splitlines()]
        name = f'millrace_shadow_requests_total{{model="m",outcome="{outcome}",version="2"}} '
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    with under_load(parts, asking, connections=2) as load:
        until(lambda: copies("answered") > 100, 60)
    assert load.tally.faults() == []
    assert set(asking.answered) == {1}
    assert copies("failed") == 0


def test_a_model_is_unloaded_and_loaded_as_triton_does(parts: Parts) -> None:
    assert change(parts, "unload").status_code == 200
    index = httpx.post(f"{parts.urls[0]}/v2/repository/index", json={}).json()
    assert [(entry["name"], entry["version"]) for entry in index] == [("m", "1")]
    assert index[0]["state"] in ("UNLOADING", "UNAVAILABLE")
    assert httpx.get(f"{parts.urls[0]}/v2/models/m/ready").status_code != 200
    assert httpx.post(f"{parts.urls[0]}{PATH}", json={"inputs": []}).status_code == 404
    assert httpx.post(f"{parts.urls[0]}/v2/repository/index", json={"ready": True}).json() == []
    assert change(parts, "load").status_code == 200
    assert httpx.get(f"{parts.urls[0]}/v2/models/m/ready").status_code == 200
    ready = httpx.post(f"{parts.urls[0]}/v2/repository/index", json={"ready": True}).json()
    assert ready == [{"name": "m", "version": "1", "state": "READY", "reason": ""}]
    unknown = change(parts, "load", "nobody")
    assert unknown.json() == {"error": "failed to load 'nobody', failed to poll from model repository"}
    upload = {"parameters": {"file:1/model.onnx": "AAAA", "config": "{}"}}
    refused = httpx.post(f"{parts.urls[0]}/v2/repository/models/m/load", json=upload)
    assert refused.status_code == 501
    assert "'file:1/model.onnx' is not supported" in refused.json()["error"]


@pytest.mark.slow
def test_what_is_wanted_outlives_redis_and_every_worker(parts: Parts, publish: Callable[..., None]) -> None:
    put(parts, "labels/stable", {"version": 1})
    publish(2)
    until(lambda: all(states(url) == {"1": "AVAILABLE", "2": "AVAILABLE"} for url in parts.urls), 60)
    parts.redis.kill()
    parts.redis.start()
    parts.until_ready()
    for number, worker in enumerate(parts.workers):
        worker.terminate()
        worker.wait(60)
        parts.restart_worker(number)
    parts.until_ready()
    until(lambda: all(states(url) == {"1": "AVAILABLE", "2": "AVAILABLE"} for url in parts.urls), 60)
    for url in parts.urls:
        assert httpx.get(f"{url}/v1/models/m/traffic").json()["labels"] == {"stable": 1}


@pytest.mark.slow
def test_versions_that_go_take_neither_weights_nor_labels_nor_the_shadow_s_callers_along(
    parts: Parts, publish: Callable[..., None], tmp_path: Path
) -> None:
    put(parts, "policy", {"all": {}})
    publish(2)
    publish(3)
    until(lambda: all(set(states(url).values()) == {"AVAILABLE"} and len(states(url)) == 3 for url in parts.urls), 60)
    put(parts, "labels/canary", {"version": 2})
    put(parts, "traffic", {"weights": {"1": 50, "2": 50}, "shadow": {"version": 3, "percent": 100}})
    asking = Asking()
    with under_load(parts, asking) as load:
        load.after(200)
        for version in ("3", "2"):
            shutil.rmtree(tmp_path / "models" / "m" / version)
            load.after(200)
        until(lambda: all(states(url) == {"1": "AVAILABLE", "2": "END", "3": "END"} for url in parts.urls), 60)
        gone = len(asking.answered)
        load.after(200)
    assert load.tally.faults() == []
    assert set(asking.answered[gone + 8 :]) == {1}  # those that were on their way are passed over
    body = {"instances": [[1, 0, 0]]}
    labelled = httpx.post(f"{parts.urls[0]}/v1/models/m/labels/canary:predict", json=body)
    assert labelled.status_code == 404
    assert labelled.json() == {"error": "Servable not found for request: Specific(m, 2)"}


def test_a_worker_that_is_killed_and_a_redis_that_comes_back_empty_do_not_stop_a_roll_out(
    parts: Parts, publish: Callable[..., None]
) -> None:
    put(parts, "labels/stable", {"version": 1})
    asking = Asking()
    with under_load(parts, asking) as load:
        load.after(100)
        publish(2)
        until(lambda: "2" in states(parts.urls[0]), 60)
        parts.workers[0].kill()
        parts.workers[0].wait()
        parts.restart_worker(0)
        load.after(100)
        publish(3)
        until(lambda: "3" in states(parts.urls[0]), 60)
        parts.redis.kill()
        parts.redis.start()
        wanted = {"1": "AVAILABLE", "2": "END", "3": "AVAILABLE"}
        until(lambda: all(states(url) == wanted for url in parts.urls), 60)
        until(lambda: set(asking.answered[-100:]) == {3}, 60)
    assert load.tally.faults(503) == []  # what was with the Redis that was killed
    assert [httpx.get(f"{url}/v1/models/m/traffic").json()["labels"] for url in parts.urls] == [{"stable": 1}] * 2
