"""The client package over each of its transports: the same calls, the same answers, the same errors."""

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import httpx2
import numpy as np
import pytest
from millrace_client import (
    AsyncClient,
    Client,
    DeadlineExceeded,
    InvalidRequest,
    MillraceError,
    NotFound,
    Overloaded,
    Prediction,
    cli,
)
from millrace_client.models import DTYPES

from tests.contract.claims import proves
from tests.support.running import ROOT, Stack

Transport = Literal["json", "binary", "grpc"]
TRANSPORTS: tuple[Transport, ...] = ("json", "binary", "grpc")
_SEVEN = ROOT / "examples" / "seven.png"

# What is asked of each model; every transport has to answer the same.
INPUTS: dict[str, Any] = {
    "digits": np.linspace(0, 255, 3 * 784, dtype=np.float32).reshape(3, 28, 28, 1),
    "sentiment": ["a wonderful film", "a dull, lifeless film", "für Élise, 日本語"],
    "word2vec": {"tokens": [["king", "man", "woman"]], "weights": [[1, -1, 1]]},
    "half_plus_two": [1.0, 2.0, 5.0],
    "simple": {"INPUT0": np.arange(16)[None], "INPUT1": np.ones((1, 16), np.int32)},
    **{
        f"identity_{datatype}": np.array([[0, 1, 2], [3, 4, 100]]).astype(dtype)
        for datatype, dtype in DTYPES.items()
        if datatype != "BYTES"
    },
    "identity_BYTES": [["", "a"], ["ü, 日本", "line\nbreak"]],
}


class Asked:
    """Both clients over one transport."""

    def __init__(self, stack: Stack, transport: Transport) -> None:
        self.transport = transport
        self.url = f"grpc://{stack.grpc}" if transport == "grpc" else stack.url

    def __call__(self, method: str, *args: Any, **options: Any) -> Any:
        """What `Client` answers, which `AsyncClient` has to answer too."""
        with Client(self.url, transport=self.transport) as client:
            answer = getattr(client, method)(*args, **options)
        _same(asyncio.run(self.later(lambda asked: getattr(asked, method)(*args, **options))), answer)
        return answer

    async def later(self, ask: Callable[[AsyncClient], Awaitable[Any]]) -> Any:
        async with AsyncClient(self.url, transport=self.transport) as client:
            return await ask(client)


def _same(one: Any, other: Any) -> None:
    if not isinstance(one, Prediction):
        assert one == other
        return
    assert one.outputs.keys() == other.outputs.keys()
    for name, array in one.outputs.items():
        assert (array.dtype, array.shape) == (other.outputs[name].dtype, other.outputs[name].shape)
        if array.dtype.kind == "f":
            np.testing.assert_allclose(array, other.outputs[name], rtol=1e-5, atol=1e-6)
        else:
            np.testing.assert_array_equal(array, other.outputs[name])


@pytest.fixture(params=TRANSPORTS)
def ask(request: pytest.FixtureRequest, stack: Stack) -> Asked:
    return Asked(stack, request.param)


@proves("millrace_client", "predict: JSON, binary and gRPC answer the same")
@pytest.mark.parametrize("model", INPUTS)
def test_every_transport_answers_the_same(stack: Stack, model: str) -> None:
    json, binary, grpc = [Asked(stack, transport)("predict", model, INPUTS[model]) for transport in TRANSPORTS]
    assert binary.timings.keys() >= {"queue", "compute"}
    assert grpc.timings == {}  # no answer over gRPC carries them
    for other in (binary, grpc):
        _same(other, json)
        assert other.version == "1"
        assert other.labels == json.labels
    if model.startswith("identity_"):
        given = np.array(INPUTS[model], object if model == "identity_BYTES" else None)
        np.testing.assert_array_equal(json.outputs["OUTPUT0"], given)


@proves("millrace_client", "predict: a file")
def test_a_file_is_taken(ask: Asked) -> None:
    assert ask("predict", "digits", _SEVEN).best()[0][0] == "7"


@proves("millrace_client", "predict: NaN and Infinity")
def test_nan_and_infinity_come_back(ask: Asked) -> None:
    values = np.array([[np.nan, np.inf, -np.inf]], np.float32)
    np.testing.assert_array_equal(ask("predict", "identity_FP32", values).outputs["OUTPUT0"], values)


@proves("millrace_client", "predict: a version, a signature")
def test_a_version_and_a_signature_can_be_named(ask: Asked) -> None:
    assert ask("predict", "half_plus_two", [2.0], version=1).outputs["y"].tolist() == [3.0]
    named = ask("predict", "half_plus_two", {"x": np.array([2], np.float32)}, signature="serving_default")
    assert named.outputs["y"].tolist() == [3.0]


@proves("millrace_client", "predict and metadata: a label")
def test_a_label_asks_the_version_that_has_it(stack: Stack, ask: Asked) -> None:
    label = f"{stack.url}/v1/models/half_plus_two/labels/chosen"
    assert httpx2.put(label, json={"version": 1}).status_code == 200
    try:
        answer = ask("predict", "half_plus_two", [2.0], label="chosen")
        assert answer.outputs["y"].tolist() == [3.0]
        assert ask("metadata", "half_plus_two", label="chosen") == ask("metadata", "half_plus_two", version=1)
    finally:
        assert httpx2.delete(label).status_code == 200
    with pytest.raises(InvalidRequest, match="chosen"):
        ask("predict", "half_plus_two", [2.0], label="chosen")


@proves("millrace_client", "similar")
def test_similar_words_are_found(ask: Asked) -> None:
    assert "queen" in [word for word, _ in ask("similar", ["king", "woman"], ["man"])]


@proves("millrace_client", "metadata, models, is_ready")
@pytest.mark.parametrize("model", ["digits", "sentiment", "word2vec", "half_plus_two", "identity_FP16"])
def test_every_transport_tells_the_same_of_a_model(stack: Stack, model: str) -> None:
    json, *others = [Asked(stack, transport) for transport in TRANSPORTS]
    for other in others:
        assert other("metadata", model) == json("metadata", model)
        assert other("metadata", model, version=1) == json("metadata", model, version=1)
        assert other("is_ready", model) is json("is_ready", model) is True
        assert other("is_ready") is True
        states = [{m.name: [(v.version, v.state) for v in m.versions] for m in a("models")} for a in (json, other)]
        assert states[0] == states[1]
    assert not any(Asked(stack, transport)("is_ready", "nowhere") for transport in TRANSPORTS)


@proves("millrace_client", "errors: the same class, status and text")
@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (("predict", "nowhere", [1.0], {}), NotFound),
        (("predict", "half_plus_two", [1.0], {"version": 99}), NotFound),
        (("predict", "half_plus_two", [1.0], {"label": "nowhere"}), InvalidRequest),
        (("predict", "half_plus_two", {"x": np.ones(1, np.float32)}, {"signature": "nowhere"}), InvalidRequest),
        (
            ("predict", "half_plus_two", {"x": np.ones((1, 2), np.float32)}, {"signature": "serving_default"}),
            InvalidRequest,
        ),
    ],
    ids=["model", "version", "label", "signature", "missing input"],
)
def test_every_transport_raises_the_same(stack: Stack, call: tuple[Any, ...], expected: type[MillraceError]) -> None:
    method, model, inputs, options = call
    met = []
    for transport in TRANSPORTS:
        with pytest.raises(expected) as caught:
            Asked(stack, transport)(method, model, inputs, **options)
        met.append(caught.value)
    assert len({(type(error), error.status) for error in met}) == 1
    assert all(error.request_id or error.status is None for error in met)


@proves("millrace_client", "deadlines travel to the server")
def test_a_deadline_that_cannot_be_kept_ends_the_call(ask: Asked) -> None:
    with pytest.raises((DeadlineExceeded, Overloaded)):
        ask("predict", "half_plus_two", [1.0], timeout_s=0.0005)


@proves("millrace_client", "many rows in one request")
def test_a_thousand_rows_come_back_in_order(ask: Asked) -> None:
    values = np.arange(1000, dtype=np.float32)
    np.testing.assert_array_equal(ask("predict", "half_plus_two", values).outputs["y"], values / 2 + 2)


@proves("millrace_client", "many calls at once of one AsyncClient")
def test_an_async_client_serves_many_tasks_at_once(ask: Asked) -> None:
    async def gather(client: AsyncClient) -> list[Prediction]:
        return await asyncio.gather(*(client.predict("half_plus_two", [float(n)]) for n in range(64)))

    answers = asyncio.run(ask.later(gather))
    assert [answer.outputs["y"].tolist() for answer in answers] == [[n / 2 + 2] for n in range(64)]


@proves("millrace_client", "millrace predict --transport, grpc:// URLs")
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_command_line_takes_a_transport(
    stack: Stack, transport: Transport, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = Asked(stack, transport)
    assert cli.predict(["digits", str(_SEVEN), "--url", asked.url, "--transport", transport]) == 0
    assert capsys.readouterr().out.startswith("7  ")
    assert cli.models(["--url", asked.url, "--transport", transport]) == 0
    assert "half_plus_two" in capsys.readouterr().out


@proves("millrace_client", "beside tritonclient and tensorflow_serving in one process")
@pytest.mark.parametrize("ours_first", [True, False], ids=["ours first", "ours last"])
def test_a_process_may_import_the_other_clients_too(stack: Stack, ours_first: bool) -> None:
    ours = [f"from millrace_client import Client; assert Client('grpc://{stack.grpc}').is_ready('half_plus_two')"]
    theirs = ["import tritonclient.grpc, tensorflow_serving.apis.prediction_service_pb2_grpc"]
    code = "; ".join(ours + theirs if ours_first else theirs + ours)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
