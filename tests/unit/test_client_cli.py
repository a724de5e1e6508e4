"""The command line, run in process against a scripted server; what each argument stands for."""

import base64
import io
import json
import socket
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from millrace_client import cli
from millrace_client.testing import Answer, ScriptedServer

from tests.support.running import ROOT

PNG = b"\x89PNG\r\n\x1a\n and so on"
SCRIPT = {
    "GET /v2/models/digits": [
        Answer(
            document={
                "name": "digits",
                "inputs": [{"name": "image", "datatype": "FP32", "shape": [-1, 2, 2, 1]}],
                "outputs": [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]}],
                "parameters": {"labels": ["5", "6", "7"], "media": {"image": "image"}},
            }
        )
    ],
    "POST /v1/models/digits:predict": [Answer(document={"outputs": [[0.0001, 0.0001, 0.9998]]})],
    "POST /v2/models/digits/infer": [
        Answer(
            document={
                "model_name": "digits",
                "model_version": "1",
                "outputs": [
                    {"name": "probabilities", "datatype": "FP32", "shape": [2, 3], "data": [0, 0.25, 0.75, 1, 0, 0]}
                ],
            },
            headers={"X-Request-Id": "r-1", "Server-Timing": "queue;dur=0.5"},
        )
    ],
    "GET /v2/models/echo": [
        Answer(
            document={
                "name": "echo",
                "inputs": [{"name": "text", "datatype": "BYTES", "shape": [-1]}],
                "outputs": [{"name": "text", "datatype": "BYTES", "shape": [-1]}],
            }
        )
    ],
    "POST /v2/models/echo/infer": [
        Answer(
            document={
                "model_version": "1",
                "outputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["für"]}],
            },
            headers={"X-Request-Id": "r-2"},
        )
    ],
    "GET /v2/models/word2vec": [
        Answer(
            document={
                "name": "word2vec",
                "inputs": [
                    {"name": "tokens", "datatype": "BYTES", "shape": [-1, -1]},
                    {"name": "weights", "datatype": "FP32", "shape": [-1, -1]},
                ],
                "parameters": {"optional_inputs": ["weights"]},
            }
        )
    ],
    "POST /v2/models/word2vec/infer": [
        Answer(
            document={
                "outputs": [
                    {"name": "neighbors", "datatype": "BYTES", "shape": [1, 3], "data": ["queen", "monarch", "crown"]},
                    {"name": "similarities", "datatype": "FP32", "shape": [1, 3], "data": [0.71, 0.62, 0.5]},
                ]
            }
        )
    ],
    "GET /v2/models/digits/versions/1": [
        Answer(
            document={
                "name": "digits",
                "inputs": [{"name": "image", "datatype": "FP32", "shape": [-1, 2, 2, 1]}],
                "outputs": [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]}],
                "parameters": {"media": {"image": "image"}, "notes": ["Requests are not batched: rows mix."]},
            }
        )
    ],
    "GET /v1/models": [
        Answer(
            document={
                "models": [
                    {
                        "name": "digits",
                        "versions": [
                            {"version": "2", "state": "END", "error_message": "out of memory"},
                            {"version": "1", "state": "AVAILABLE", "error_message": ""},
                        ],
                        "description": "three digits",
                    }
                ]
            }
        )
    ],
}


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer(SCRIPT) as server:
        yield server


def run(capsys: pytest.CaptureFixture[str], command: Any, *argv: str) -> tuple[int, str, str]:
    status = command(list(argv))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_an_image_file_gives_its_label_and_probability(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "seven.png").write_bytes(PNG)
    status, out, err = run(capsys, cli.predict, "digits", str(tmp_path / "seven.png"), "--url", server.url)
    assert (status, out, err) == (0, "7  0.9998\n", "")
    assert server.received[-1].json()["inputs"]["image"] == [{"b64": base64.b64encode(PNG).decode()}]


def test_several_inputs_give_lines_that_begin_with_the_input(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "a.npy").write_bytes(npy(np.zeros((2, 2, 2))))
    (tmp_path / "b.png").write_bytes(PNG)
    a, b = str(tmp_path / "a.npy"), str(tmp_path / "b.png")
    status, out, _ = run(capsys, cli.predict, "digits", a, b, "--top", "2", "--url", server.url)
    assert status == 0
    assert out.splitlines() == [
        f"{a}  7  0.7500",
        f"{a}  6  0.2500",
        f"{a}  5  1.0000",
        f"{a}  6  0.0000",
        f"{b}  7  0.9998",
        f"{b}  5  0.0001",
    ]


def test_json_gives_all_outputs_one_document_per_input(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "a.npy").write_bytes(npy(np.zeros((2, 2, 2))))
    _, out, _ = run(capsys, cli.predict, "digits", str(tmp_path / "a.npy"), "--json", "--url", server.url)
    assert json.loads(out) == {
        "model": "digits",
        "version": "1",
        "outputs": {"probabilities": [[0.0, 0.25, 0.75], [1.0, 0.0, 0.0]]},
        "request_id": "r-1",
        "timings": {"queue": 0.5},
    }


@pytest.mark.parametrize("text", ["a dull, lifeless film", "I liked the cat.gif", "no/such/file", "", "README"])
def test_what_names_no_file_is_text_and_a_model_without_labels_answers_in_json(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    status, out, _ = run(capsys, cli.predict, "echo", text, "--url", server.url)
    assert status == 0
    assert json.loads(out)["outputs"] == {"text": ["für"]}
    assert server.received[-1].json()["inputs"][0]["data"] == [text]


@pytest.mark.parametrize(
    ("document", "data"),
    [
        (["a", "b"], ["a", "b"]),
        ({"inputs": ["a"]}, ["a"]),
        ({"inputs": {"text": ["a", "b"]}}, ["a", "b"]),
        ({"instances": ["a", "b"]}, ["a", "b"]),
        ({"instances": [{"text": "a"}, {"text": "b"}]}, ["a", "b"]),
        ({"instances": [{"b64": "YQ=="}]}, ["a"]),
        ({"text": ["a"]}, ["a"]),
    ],
)
@pytest.mark.parametrize("source", ["file", "stdin"])
def test_a_json_argument_is_a_tensorflow_serving_body_or_a_bare_value(
    server: ScriptedServer,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    document: Any,
    data: list[str],
    source: str,
) -> None:
    content = json.dumps(document).encode()
    (tmp_path / "body.json").write_bytes(content)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    argument = "-" if source == "stdin" else str(tmp_path / "body.json")
    assert run(capsys, cli.predict, "echo", argument, "--url", server.url)[0] == 0
    assert server.received[-1].json()["inputs"][0]["data"] == data


def test_a_json_file_may_hold_one_text(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "text.json").write_text('"a"')
    assert run(capsys, cli.predict, "echo", str(tmp_path / "text.json"), "--url", server.url)[0] == 0
    assert server.received[-1].json()["inputs"][0]["data"] == ["a"]


@pytest.mark.parametrize(
    ("model", "content", "inputs"),
    [
        ("echo", b"a dull film\n", [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a dull film"]}]),
        ("digits", PNG, {"image": [{"b64": base64.b64encode(PNG).decode()}]}),
        ("digits", None, [{"name": "image", "shape": [1, 2, 2, 1], "datatype": "FP32", "data": [1.0] * 4}]),
    ],
)
def test_standard_input_is_told_apart_by_its_content(
    server: ScriptedServer,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    content: bytes | None,
    inputs: Any,
) -> None:
    content = npy(np.ones((2, 2))) if content is None else content
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert run(capsys, cli.predict, model, "-", "--url", server.url)[0] == 0
    assert server.received[-1].json()["inputs"] == inputs


def test_similar_prints_one_word_a_line(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ("king", "--minus", "man", "--plus", "woman", "--top", "2", "--url", server.url)
    assert run(capsys, cli.similar, *argv) == (0, "queen  0.7100\nmonarch  0.6200\n", "")
    tokens, weights = server.received[-1].json()["inputs"]
    assert (tokens["data"], weights["data"]) == (["king", "woman", "man"], [1.0, 1.0, -1.0])


def test_models_prints_an_aligned_table_with_the_reason_for_what_is_not_available(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = run(capsys, cli.models, "--url", server.url)
    assert status == 0
    assert out.splitlines() == [
        "NAME    VERSION  STATE      INPUTS                               OUTPUTS                    DESCRIPTION",
        "digits  2        END        -                                    -                          out of memory",
        "digits  1        AVAILABLE  image FP32 [-1,2,2,1] or image file  probabilities FP32 [-1,3]  three digits",
        "",
        "digits/1: Requests are not batched: rows mix.",
    ]


def test_a_server_that_is_not_there_is_one_line_that_says_how_to_start_it(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        result = run(capsys, cli.models, "--url", url, "--timeout", "0.2")
    assert result == (1, "", f"millrace: cannot reach {url}: is the server up? start it with: make up\n")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["none", "text"], "millrace: no route GET /v2/models/none\n"),
        (["digits", "seven.png"], "millrace: cannot read seven.png: No such file or directory\n"),
        (["digits", "bad.json"], "millrace: bad.json is not a .json file: Expecting value: line 1 column 1 (char 0)\n"),
        (["digits", "bad.npy"], "millrace: bad.npy is not a .npy file: "),
        (["digits", "b64.json"], "millrace: b64.json is not a .json file: bad base64: "),
        (
            ["digits", "rows.json"],
            "millrace: rows.json is not a .json file: the instances do not all have the same inputs\n",
        ),
        (["digits", "hello"], "millrace: model 'digits' takes image FP32 [-1,2,2,1] or image file, not text; "),
    ],
)
def test_an_error_is_one_line_and_status_1(
    server: ScriptedServer,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    argv: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, content in {
        "bad.json": "?",
        "bad.npy": "?",
        "b64.json": '[{"b64": "!"}]',
        "rows.json": '{"instances": [{"image": 1}, {"text": 2}]}',
    }.items():
        (tmp_path / name).write_text(content)
    status, out, err = run(capsys, cli.predict, *argv, "--url", server.url)
    assert (status, out) == (1, "")
    assert err.startswith(message)
    assert err.count("\n") == 1


def test_a_fault_of_the_server_names_the_request(capsys: pytest.CaptureFixture[str]) -> None:
    fault = Answer(500, {"error": "internal error"}, {"X-Request-Id": "r-5"})
    with ScriptedServer({"GET /v2/models/m": [fault]}) as server:
        result = run(capsys, cli.predict, "m", "x", "--url", server.url)
    assert result == (1, "", "millrace: internal error (request r-5)\n")


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["digits"],
        ["digits", "x", "--top", "0"],
        ["digits", "x", "--url", "localhost:8000"],
        ["digits", "x", "--timeout", "a"],
    ],
)
def test_wrong_usage_is_status_2(capsys: pytest.CaptureFixture[str], argv: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.predict(argv)
    assert caught.value.code == 2
    assert "usage: millrace predict" in capsys.readouterr().err


def test_a_variable_names_the_server_and_the_option_wins_over_it(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLRACE_URL", server.url)
    assert run(capsys, cli.predict, "echo", "für")[0] == 0
    monkeypatch.setenv("MILLRACE_URL", "http://127.0.0.1:1")
    assert run(capsys, cli.predict, "echo", "für", "--url", server.url)[0] == 0
    monkeypatch.setenv("MILLRACE_URL", "localhost:8000")
    with pytest.raises(SystemExit):
        cli.predict(["echo", "für"])
    assert "'localhost:8000' in MILLRACE_URL is not the URL of a server" in capsys.readouterr().err


def test_the_client_alone_has_the_same_commands(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, cli.main, "similar", "king", "--url", server.url)[1].startswith("queen  0.7100\n")
    with pytest.raises(SystemExit) as caught:
        cli.main(["predict", "--help"])
    assert caught.value.code == 0
    assert "usage: millrace-client predict" in capsys.readouterr().out


def test_the_commands_are_registered_for_the_millrace_command() -> None:
    registered = tomllib.loads((ROOT / "client" / "pyproject.toml").read_text())["project"]["entry-points"]
    commands = registered["millrace.commands"].items()
    found = {name: EntryPoint(name, value, "").load() for name, value in commands if value.startswith(cli.__name__)}
    names = ("jobs", "models", "predict", "rollout", "similar")
    assert found == {name: getattr(cli, name) for name in names}


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()
