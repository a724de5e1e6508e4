"""The examples of Python code as models, from their programs to answers over HTTP."""

import base64
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import joblib
import numpy as np
import pytest
from millrace_client import Client

from tests.support.running import ROOT, Stack, start_up

NAMES = ("setosa", "versicolor", "virginica")
HAS_TORCH = importlib.util.find_spec("torch") is not None
HAS_MLFLOW = importlib.util.find_spec("mlflow") is not None and importlib.util.find_spec("pandas") is not None
NEEDS_TORCH = pytest.mark.skipif(not HAS_TORCH, reason="PyTorch is not installed: pip install torch")
NEEDS_MLFLOW = pytest.mark.skipif(not HAS_MLFLOW, reason="MLflow is not installed: pip install mlflow-skinny pandas")
ZERO = (
    *(0, 0, 5, 13, 9, 1, 0, 0, 0, 0, 13, 15, 10, 15, 5, 0, 0, 3, 15, 2, 0, 11, 8, 0, 0, 4, 12, 0, 0, 8, 8, 0),
    *(0, 5, 8, 0, 0, 9, 8, 0, 0, 4, 11, 0, 1, 12, 7, 0, 0, 2, 14, 5, 10, 12, 0, 0, 0, 0, 6, 13, 10, 0, 0, 0),
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the programs publish, beside two models of ours."""
    pytest.importorskip("sklearn")
    root = tmp_path_factory.mktemp("models")
    programs = ["sklearn_iris", "pipeline", *(["torch_digits"] if HAS_TORCH else [])]
    commands = [[f"examples/{name}.py", str(root)] for name in programs]
    if HAS_MLFLOW:
        commands.append(["-m", "tests.support.mlflow_model", str(root / "sums" / "1")])
    running = [subprocess.Popen([sys.executable, *command], cwd=ROOT) for command in commands]
    assert [process.wait(120) for process in running] == [0] * len(running)
    for name in ("digits", "word2vec"):
        (root / name).symlink_to(ROOT / "models" / name)
    return root


@pytest.fixture(scope="module")
def stack(models: Path) -> Iterator[Stack]:
    started = start_up("--models", str(models), "--allow-code")
    yield started
    started.stop()


def post(stack: Stack, path: str, body: object) -> httpx.Response:
    return httpx.post(f"{stack.url}{path}", json=body, timeout=60)


def test_the_operator_is_told_that_code_may_run(stack: Stack) -> None:
    assert "models may run Python code of their own" in stack.output
    assert httpx.get(f"{stack.url}/v2/models/iris").json()["platform"] == "python"


def test_scikit_learn_tells_irises_apart(stack: Stack) -> None:
    rows = [[5.1, 3.5, 1.4, 0.2], [6.3, 3.3, 6.0, 2.5], [5.8, 2.7, 4.1, 1.0]]
    answers = post(stack, "/v1/models/iris:predict", {"instances": rows}).json()["predictions"]
    assert [answer["label"] for answer in answers] == ["setosa", "virginica", "versicolor"]
    assert all(sum(answer["probabilities"]) == pytest.approx(1, abs=1e-5) for answer in answers)
    ranked = post(stack, "/v1/models/iris:classify", {"examples": [{"x": rows[0]}]}).json()["results"][0]
    assert max(ranked, key=lambda pair: pair[1])[0] == "setosa"
    refused = post(stack, "/v1/models/iris:predict", {"instances": [[5.1, -3.5, 1.4, 0.2]]})
    assert (refused.status_code, refused.json()) == (400, {"error": "a length is negative"})


def test_mixed_requests_at_once_have_the_answers_of_the_library_in_every_protocol(stack: Stack, models: Path) -> None:
    classifier = joblib.load(models / "iris" / "1" / "iris.joblib")
    rng = np.random.default_rng(0)
    asked = [rng.uniform(0, 8, (1 + number % 3, 4)).astype(np.float32) for number in range(32)]

    with (
        Client(stack.url) as json,
        Client(stack.url, transport="binary") as binary,
        Client(f"grpc://{stack.grpc}") as grpc,
        ThreadPoolExecutor(32) as pool,
    ):
        clients = (json, binary, grpc)
        answers = list(pool.map(lambda number: clients[number % 3].predict("iris", {"x": asked[number]}), range(32)))
    for x, answer in zip(asked, answers, strict=True):
        expected = classifier.predict_proba(x)
        assert np.allclose(answer.outputs["probabilities"], expected, atol=1e-6)
        labels = [label.decode() if isinstance(label, bytes) else label for label in answer.outputs["label"]]
        assert labels == [NAMES[best] for best in expected.argmax(axis=1)]


def test_two_models_make_a_pipeline(stack: Stack) -> None:
    seven = {"b64": base64.b64encode((ROOT / "examples/seven.png").read_bytes()).decode()}

    def ask(_: int) -> httpx.Response:
        return post(stack, "/v1/models/digit-words:predict", {"instances": [seven, seven]})

    with ThreadPoolExecutor(8) as pool:
        for response in pool.map(ask, range(16)):
            for answer in response.json()["predictions"]:
                assert (answer["digit"], answer["name"]) == (7, "seven")
                assert "eight" in answer["similar"]
    refused = post(stack, "/v1/models/digit-words:predict", {"instances": [{"b64": "AAAA"}]})
    assert refused.status_code == 400
    assert "image" in refused.json()["error"]


@NEEDS_TORCH
def test_pytorch_reads_digits(stack: Stack) -> None:
    body = {"inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 8, 8], "data": ZERO}]}
    (output,) = post(stack, "/v2/models/digits8/infer", body).json()["outputs"]
    assert output["shape"] == [1, 10]
    assert output["data"].index(max(output["data"])) == 0


@NEEDS_MLFLOW
def test_mlflow_is_served_with_its_signature(stack: Stack) -> None:
    described = httpx.get(f"{stack.url}/v2/models/sums").json()
    assert described["platform"] == "mlflow"
    assert [(each["name"], each["datatype"], each["shape"]) for each in described["inputs"]] == [
        ("a", "FP64", [-1]),
        ("b", "INT64", [-1]),
    ]
    answer = post(stack, "/v1/models/sums:predict", {"inputs": {"a": [1.5, 10], "b": [2, 3]}}).json()
    assert answer == {"outputs": {"sum": [3.5, 13.0], "size": ["low", "high"]}}
