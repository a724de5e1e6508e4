"""The client against the running stack with its three models: as a library, on the command line, and under load."""

import asyncio
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from millrace_client import AsyncClient, Client, InvalidRequest, NotFound

ROOT = Path(__file__).parents[2]
SEVEN = ROOT / "examples" / "seven.png"
_OTHER_PROTOCOLS = ("oip-json", "oip-binary", "oip-grpc", "tfs-grpc")
MODELS = {"digits", "digits-student", "sentiment", "word2vec"}


def millrace(*argv: str) -> str:
    """What the `millrace` command prints; the test fails where it fails."""
    command = [sys.executable, "-m", "millrace", *argv]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def seven() -> Any:
    """The pixels of the example, [1, 28, 28, 1]."""
    return np.array(json.loads((ROOT / "examples" / "seven.json").read_text())["instances"], np.float32)


def test_the_three_models_are_listed_as_available(stack: Any) -> None:
    header, *rows = millrace("models", "--url", stack.url).splitlines()
    assert header.split() == ["NAME", "VERSION", "STATE", "INPUTS", "OUTPUTS", "DESCRIPTION"]
    assert {row.split()[0] for row in rows if row.split()[2] == "AVAILABLE"} >= MODELS


def test_pixels_and_file_and_both_clients_give_the_same_answer(stack: Any, seven: Any) -> None:
    async def ask() -> tuple[Any, Any]:
        async with AsyncClient(stack.url) as client:
            return await asyncio.gather(client.predict("digits", seven[0, ..., 0]), client.predict("digits", SEVEN))

    with Client(stack.url) as client:
        answers = [client.predict("digits", seven), client.predict("digits", SEVEN), *asyncio.run(ask())]
    for answer in answers:
        np.testing.assert_allclose(answer.outputs["probabilities"], answers[0].outputs["probabilities"], atol=1e-5)
        assert answer.outputs["probabilities"].shape == (1, 10)
        assert answer.best()[0][0] == "7"
        assert answer.request_id
        assert answer.timings


def test_many_rows_come_back_in_their_order(stack: Any) -> None:
    texts = ["a wonderful film", "a terrible film"] * 20
    with Client(stack.url) as client:
        labels = [label for label, _ in client.predict("sentiment", texts).best()]
    assert labels == ["positive", "negative"] * 20


def test_the_metadata_tell_labels_files_and_optional_inputs(stack: Any) -> None:
    with Client(stack.url) as client:
        assert client.is_ready()
        assert all(client.is_ready(model) for model in MODELS)
        assert not client.is_ready("none")
        assert client.metadata("digits").labels == tuple("0123456789")
        assert client.metadata("digits").inputs[0].media == "image"
        assert [spec.name for spec in client.metadata("word2vec").required_inputs] == ["tokens"]


def test_errors_carry_the_servers_words_and_the_requests_id(stack: Any) -> None:
    with Client(stack.url) as client:
        with pytest.raises(NotFound, match="none") as caught:
            client.predict("none", 1.0)
        assert caught.value.status == 404
        assert caught.value.request_id
        with pytest.raises(InvalidRequest) as refused:
            client.predict("digits", b"\x89PNG, but only in name")
        assert refused.value.status == 400


@pytest.mark.parametrize(
    "protocol", ["tfs-rest", *(pytest.param(name, marks=pytest.mark.slow) for name in _OTHER_PROTOCOLS)]
)
def test_a_short_load_test_gets_right_answers_by_each_protocol(stack: Any, protocol: str, tmp_path: Path) -> None:
    if importlib.util.find_spec("locust") is None:
        pytest.skip("locust is not installed")
    host = stack.grpc if protocol.endswith("grpc") else stack.url
    command = [sys.executable, "-m", "millrace_client.load", "digits", "sentiment", "word2vec", "--host", host]
    options = ["--protocol", protocol, "--check", "--rate", "40", "--for", "1s", "--warm-up", "0s"]
    options += ["--max-send-lag", "1000", "--connections", "32", "--json", str(tmp_path / "run.json")]
    result = subprocess.run(command + options, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["ok"] == run["requests"] > 10
    if not protocol.endswith("grpc"):
        assert {"parse", "queue", "compute", "reply"} <= run["stages_ms"]["server"].keys()
