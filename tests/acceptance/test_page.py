"""What the page asks of a running stack and nothing else asks: the stack as events, cards, what a caller may do."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.running import Stack, until

EVENTS = {"Accept": "text/event-stream"}


def _events(response: httpx.Response) -> Iterator[dict[str, Any]]:
    for line in response.iter_lines():
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


def _answered(stack: dict[str, Any], model: str) -> int:
    return sum(of["requests"].get("200", 0) for of in stack["models"] if of["name"] == model)


def test_events_tell_of_the_stack_once_a_second(api: str) -> None:
    with httpx.stream("GET", f"{api}/v1/stack", headers=EVENTS, timeout=10) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        events = _events(response)
        before = next(events)
        answer = httpx.post(f"{api}/v1/models/sentiment:predict", json={"instances": ["a film"]}, timeout=30)
        after = next(each for each in events if _answered(each, "sentiment") > _answered(before, "sentiment"))
    assert {model["name"] for worker in after["workers"] for model in worker["models"]} >= {"digits", "sentiment"}
    assert after["queue_up"]
    assert sum(sum(model["latency"]) for model in after["models"]) >= 1
    assert after["time_ms"] - before["time_ms"] >= 900
    assert answer.headers["X-Request-Id"] in {slow["request_id"] for slow in after["slow"]} or len(after["slow"]) == 8


def test_a_card_says_what_the_manifest_says_and_has_its_plots(stack: Stack) -> None:
    card = httpx.get(f"{stack.url}/v1/models/sentiment/versions/1/card").json()
    assert card["scores"]["imdb_test_accuracy"] > 0.9
    assert card["limits"]
    assert card["files"]["model.onnx"] > 100_000
    assert len(card["example"]["instances"]) == 2
    for plot in card["plots"]:
        answer = httpx.get(f"{stack.url}/v1/models/sentiment/versions/1/plots/{plot}")
        assert answer.headers["content-type"] == "image/png"
        assert answer.content.startswith(b"\x89PNG")
    for wrong in ("sentiment/versions/2/card", "nope/versions/1/card", "sentiment/versions/1/plots/..%2Fparity.png"):
        assert httpx.get(f"{stack.url}/v1/models/{wrong}").status_code == 404, wrong


def test_a_caller_learns_what_it_may(stack: Stack) -> None:
    assert httpx.get(f"{stack.url}/v1/access").json() == {
        "may_change_models": True,
        "reason": "",
        **dict.fromkeys(("jobs", "device"), False),
    }
    foreign = {"Origin": "https://example.org", "Sec-Fetch-Site": "cross-site"}
    assert httpx.get(f"{stack.url}/v1/access", headers=foreign).json()["reason"] == "a web page may not change models"
    refused = httpx.post(f"{stack.url}/v2/repository/models/digits/unload", headers=foreign)
    assert refused.status_code == 403


@pytest.mark.slow
def test_the_figures_are_of_all_api_processes(
    up: Callable[..., Stack], make_onnx: Callable[..., Path], tmp_path: Path
) -> None:
    make_onnx(tmp_path / "models")
    stack = up("--models", str(tmp_path / "models"), "--apis", "2")
    for _ in range(20):  # a connection each, so that both processes answer some
        httpx.post(f"{stack.url}/v1/models/tiny:predict", json={"instances": [[1, 0, 0]]}, timeout=30)

    def tells(asks: int) -> bool:
        found = [httpx.get(f"{stack.url}/v1/stack").json() for _ in range(asks)]
        return all(_answered(each, "tiny") >= 20 and each["api_processes"] == 2 for each in found)

    until(lambda: tells(4), what="every process tells of all 20 requests")
