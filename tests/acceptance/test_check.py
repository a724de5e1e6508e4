"""The requests that `millrace check` prints, pasted as they are into a shell or into Python, on a running stack."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import _make_onnx
from tests.support.onnxmodels import FLOAT, INT64, STRING, info, node, save
from tests.support.running import Stack, our_environment, start_up
from worker.check import command

MODELS = ("it's a+b é", "image", "texts", "two", "softmax", "zeros", "past")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    _make_onnx(root, "it's a+b é")
    image = (info("x", FLOAT, ("N", 3, 32, 32)), info("y", FLOAT, ("N", 3, 32, 32)))
    save(root / "image" / "1", [node("Neg", ["x"], ["y"])], [image[0]], [image[1]])
    text = (info("s", STRING, ("N",)), info("y", STRING, ("N",)))
    save(root / "texts" / "1", [node("Identity", ["s"], ["y"])], [text[0]], [text[1]])
    a, n, y = info("a", FLOAT, ("N", 2)), info("n", INT64, ("N", 1)), info("y", FLOAT, ("N", 2))
    to_float = [node("Cast", ["n"], ["f"], to=FLOAT), node("Add", ["a", "f"], ["y"])]
    save(root / "two" / "1", to_float, [a, n], [y])
    save(root / "softmax" / "1", [node("Softmax", ["a"], ["y"], axis=0)], [a], [y])
    save(root / "zeros" / "000", [node("Neg", ["a"], ["y"])], [a], [y])
    past, new = info("past", FLOAT, ("B", 0, 4)), info("new", FLOAT, ("B", 1, 4))
    both = [node("Concat", ["past", "new"], ["y"], axis=1)]
    save(root / "past" / "1", both, [past, new], [info("y", FLOAT, ("B", 1, 4))])
    return root


@pytest.fixture(scope="module")
def stack(repository: Path) -> Iterator[Stack]:
    running = start_up("--models", str(repository))
    yield running
    running.stop()
    running.log.unlink()


@pytest.fixture(scope="module")
def reports(stack: Stack, repository: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", command.__name__, str(repository), "--json", "--url", stack.url, "--grpc", stack.grpc],
        capture_output=True,
        text=True,
        check=False,
        env=our_environment(),
    )
    assert done.returncode == 0, done.stderr
    return {report["model"]: report for report in json.loads(done.stdout)}


def pasted(example: dict[str, str]) -> Any:
    """What the request is answered."""
    is_shell = example["kind"] == "shell"
    all_of_it = "import sys, numpy; numpy.set_printoptions(threshold=sys.maxsize)\n"
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["sh", "-c", example["text"]] if is_shell else [sys.executable, "-c", all_of_it + example["text"]],
        capture_output=True,
        text=True,
        check=False,
        env={**our_environment(), "PATH": path, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert done.returncode == 0, done.stderr
    names = {"array": np.array, "float32": np.float32, "object": object}
    return json.loads(done.stdout) if is_shell else eval(done.stdout, names)


def outputs(protocol: str, answer: Any) -> list[Any]:
    """The values of the output in the form of rows, whichever protocol they came by."""
    if protocol == "Open Inference Protocol, REST":
        (only,) = answer["outputs"]
        return np.array(only["data"], object).reshape(only["shape"]).tolist()
    if protocol == "TensorFlow Serving, REST":
        return answer.get("predictions", answer.get("outputs"))
    (array,) = answer.values()
    return [v.decode() if isinstance(v, bytes) else v for v in array.tolist()]


@pytest.mark.parametrize("model", MODELS)
def test_each_example_is_answered_and_all_answers_are_alike(reports: dict[str, Any], model: str) -> None:
    report = reports[model]
    assert report["untried"] == ""
    answers = {
        example["protocol"]: outputs(example["protocol"], pasted(example))
        for example in report["examples"]
        if model == "two" or example["protocol"] != "TensorFlow Serving, gRPC"  # which imports TensorFlow: once will do
    }
    assert len(answers) == (3 if model == "past" else 4) + (model == "two")
    first = next(iter(answers.values()))
    assert all(answer == first for answer in answers.values()), answers
