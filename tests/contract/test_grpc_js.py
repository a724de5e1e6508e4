"""@grpc/grpc-js, Google's client for Node in JavaScript alone, which has an HTTP/2 of its own (Node's nghttp2).

It is not installed by itself: `npm ci --ignore-scripts` in `tests/contract/grpc-js/`.
"""

import base64
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from millrace import rpc
from tests.support.running import Stack

FOLDER = Path(__file__).parent / "grpc-js"
_ROUNDS = 200
_LARGE_VALUES = 1_300_000  # 5 MB


@pytest.fixture(scope="module")
def came(stack: Stack) -> Any:
    """What came of all rounds of calls."""
    if not shutil.which("node"):
        pytest.skip("there is no Node")
    if not (FOLDER / "node_modules").is_dir():
        pytest.skip("@grpc/grpc-js is not installed (npm ci --ignore-scripts in tests/contract/grpc-js)")
    asked = {
        "target": stack.grpc,
        "messages": [_asked(_values(number)) for number in range(_ROUNDS)],
        "large": _asked(np.arange(_LARGE_VALUES, dtype=np.float32)),
        "unknown": _asked(_values(1), model="größe"),
    }
    run = subprocess.run(
        ["node", "client.js"], cwd=FOLDER, input=json.dumps(asked), capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def _values(number: int) -> Any:
    return np.array([number, number + 0.5], np.float32)


def _asked(values: Any, model: str = "identity_FP32") -> str:
    message = rpc.message("inference.ModelInferRequest")(model_name=model, id=str(values[0]))
    message.inputs.add(name="INPUT0", datatype="FP32", shape=[1, len(values)])
    message.raw_input_contents.append(values.tobytes())
    return "base64:" + base64.b64encode(message.SerializeToString()).decode()


def _answered(result: Any) -> Any:
    assert result["code"] == 0, result
    answer = rpc.message("inference.ModelInferResponse").FromString(base64.b64decode(result["answer"]))
    return np.frombuffer(answer.raw_output_contents[0], np.float32)


def test_each_call_has_its_own_answer_and_the_id_that_it_gave(came: Any) -> None:
    assert _answered(came["one"]).tolist() == [0, 0.5]
    assert came["one"]["trailers"]["x-request-id"] == "from-js"
    assert [_answered(each).tolist() for each in came["many"]] == [_values(i).tolist() for i in range(_ROUNDS)]


def test_messages_may_be_packed_and_large(came: Any) -> None:
    assert _answered(came["packed"]).tolist() == [0, 0.5]
    for name in ("large", "packedLarge"):
        assert np.array_equal(_answered(came[name]), np.arange(_LARGE_VALUES, dtype=np.float32))


def test_errors_have_their_code_and_their_words(came: Any) -> None:
    assert came["unknown"]["code"] == 5
    assert "größe" in came["unknown"]["details"]
    assert came["late"]["code"] == 4
    assert came["left"]["code"] == 1


def test_a_stream_answers_each_message(came: Any) -> None:
    answers = [
        rpc.message("inference.ModelStreamInferResponse").FromString(base64.b64decode(each))
        for each in came["streamed"]
    ]
    found = {
        answer.infer_response.id: np.frombuffer(answer.infer_response.raw_output_contents[0], np.float32).tolist()
        for answer in answers
    }
    assert found == {str(_values(i)[0]): _values(i).tolist() for i in range(_ROUNDS)}


def test_pings_keep_a_connection(came: Any) -> None:
    first, _, last = came["pinging"]
    assert _answered(first).tolist() == _answered(last).tolist() == [0, 0.5]
