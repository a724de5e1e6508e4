"""The load test itself: its payloads, its comparison, and the exit status that it reports about a scripted server."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from millrace_client.testing import Answer, ScriptedServer

LOADTEST = Path(__file__).parents[2] / "client" / "loadtest"
INFER = "POST /v2/models/sentiment/infer"


@pytest.fixture(scope="module")
def payloads() -> ModuleType:
    spec = importlib.util.spec_from_file_location("millrace_loadtest_payloads", LOADTEST / "payloads.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_payloads_are_the_same_every_time(payloads: ModuleType, tmp_path: Path) -> None:
    example = tmp_path / "seven.json"
    example.write_text('{"instances": []}')
    for make in (lambda: payloads.digits(example), payloads.sentiment, payloads.word2vec):
        first, second = ([payload.body for payload in make()] for _ in range(2))
        assert first == second
        assert len(set(first)) == len(first)
        assert all(isinstance(json.loads(body), dict) for body in first)


def test_a_made_image_has_ink_and_paper(payloads: ModuleType) -> None:
    image = payloads.strokes(1)
    assert image.shape == (28, 28)
    assert (image.min(), image.max()) == (0, 255)
    assert 0.03 < np.mean(image > 127) < 0.4


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ({"a": [0.5, "x"]}, {"a": [0.5004, "x"]}, True),
        ({"a": [0.5]}, {"a": [0.502]}, False),
        ({"a": 1}, {"b": 1}, False),
        ([1.0, 2.0], [1.0], False),
        (1, 1.0004, True),
        ("queen", "king", False),
        (float("nan"), float("nan"), True),
        (float("nan"), 0.0, False),
        (True, 1.0004, False),
        (None, 0.0, False),
    ],
)
def test_answers_are_the_same_when_they_are_equal_within_the_tolerance(
    payloads: ModuleType, left: Any, right: Any, same: bool
) -> None:
    assert payloads.is_same(left, right) is same


def test_no_module_of_the_folder_hides_another() -> None:
    taken = {"locust", "millrace_client", "numpy", "requests"} | sys.stdlib_module_names
    assert not taken & {path.stem for path in LOADTEST.glob("*.py")}


def verdict(text: str) -> Answer:
    """What a model worth serving answers: index 0 for a bad review, 1 for a good one."""
    is_bad = any(word in text for word in ("dull", "terrible"))
    output = {
        "name": "probabilities",
        "datatype": "FP32",
        "shape": [1, 2],
        "data": [0.9, 0.1] if is_bad else [0.1, 0.9],
    }
    return Answer(document={"model_name": "sentiment", "outputs": [output]})


def run_locust(url: str) -> subprocess.CompletedProcess[str]:
    if importlib.util.find_spec("locust") is None:  # importing it would patch this process's sockets
        pytest.skip("locust is not installed")
    command = [sys.executable, "-m", "locust", "-f", str(LOADTEST / "locustfile.py"), "--headless", "--host", url]
    options = ["--users", "1", "--spawn-rate", "1", "--run-time", "1s", "--only-summary", "SentimentUser"]
    return subprocess.run(command + options, capture_output=True, text=True, timeout=60)


def reference_answers(payloads: ModuleType) -> list[Answer]:
    return [verdict(json.loads(payload.body)["inputs"][0]["data"][0]) for payload in payloads.sentiment()]


def test_a_run_with_wrong_answers_under_load_fails(payloads: ModuleType) -> None:
    wrong = Answer(document={"model_name": "sentiment", "outputs": []})
    with ScriptedServer({INFER: [*reference_answers(payloads), wrong]}) as server:
        result = run_locust(server.url)
    assert result.returncode == 1
    assert "not the answer that the request gets alone" in result.stdout + result.stderr


def test_a_run_with_right_answers_passes(payloads: ModuleType) -> None:
    with ScriptedServer({INFER: reference_answers(payloads) * 10_000}) as server:
        result = run_locust(server.url)
    assert result.returncode == 0, result.stdout + result.stderr
    assert len(server.received) > len(payloads.sentiment())


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Answer(503, {"error": "no worker"}), "no answer even without load"),
        (verdict("terrible"), "wrong even without load"),
    ],
)
def test_a_run_ends_at_once_when_the_server_fails_without_load(answer: Answer, message: str) -> None:
    with ScriptedServer({INFER: [answer]}) as server:
        result = run_locust(server.url)
    assert result.returncode == 1
    assert message in result.stderr
    assert len(server.received) <= 2
