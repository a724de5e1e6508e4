"""`millrace up` as a person uses it: it starts, says what is wrong, and leaves nothing behind."""

import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from ops.errors import UpError
from tests.support.running import RedisServer, Stack, free_port, freeze, is_alive, thaw, until

Up = Callable[..., Stack]


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [process for process in processes if is_alive(process)]


def predict(stack: Stack, row: list[float]) -> httpx.Response:
    return httpx.post(f"{stack.url}/v1/models/tiny:predict", content=json.dumps({"instances": [row]}), timeout=30)


@pytest.fixture
def tiny(make_onnx: Callable[..., Path], tmp_path: Path) -> str:
    """A repository with one tiny model."""
    make_onnx(tmp_path / "models")
    return str(tmp_path / "models")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_and_a_signal_stops_everything(up: Up, tiny: str, number: int) -> None:
    stack = up("--models", tiny)
    assert "Millrace is ready at http://127.0.0.1:" in stack.output
    assert predict(stack, [1, 2, 3]).json() == {"predictions": [[14.0, 140.0]]}
    running = stack.children()
    for part in ("valkey-server", "serving", "worker"):
        assert stack.children(part)
    assert stack.stop(number) == 0
    assert alive(running) == []


def test_the_line_to_paste_is_a_request_that_is_answered(up: Up) -> None:
    stack = up()
    (line,) = [line for line in stack.output.splitlines() if "curl" in line]
    url, body = line.split("curl -s ")[1].split(" -d ")
    answer = httpx.post(url, content=body.strip("'"), timeout=30)
    assert answer.status_code == 200
    assert "predictions" in answer.json()


@pytest.mark.slow
def test_with_a_models_config_it_waits_for_the_models_that_it_names(
    up: Up, tiny: str, make_onnx: Callable[..., Path], tmp_path: Path
) -> None:
    make_onnx(tmp_path / "elsewhere", "other")
    config = Path(tiny) / "models.config"
    config.write_text(f'model_config_list {{ config {{ name: "far" base_path: "{tmp_path}/elsewhere/other" }} }}')
    assert "(far; " in up("--models", tiny).output
    config.write_text("model_config_list {")
    broken = up("--models", tiny)
    assert broken.process.wait(timeout=60) == 1
    assert f"millrace up: {config}" in broken.output


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's help is there on Linux only")
def test_nothing_outlives_a_supervisor_that_is_killed(up: Up, tiny: str) -> None:
    stack = up("--models", tiny)
    running = stack.children()
    stack.stop(signal.SIGKILL)
    until(lambda: not alive(running), what="the end of all children")


@pytest.mark.slow
def test_the_environment_chooses_what_no_option_does(
    up: Up, tiny: str, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLRACE_REDIS_URL", redis_server.url)
    monkeypatch.setenv("MILLRACE_WORKER_MODELS", tiny)
    monkeypatch.setenv("MILLRACE_LOG_LEVEL", "info")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    stack = up()
    assert stack.children("valkey-server") == []
    assert '"event": "loaded a model", "model": "tiny"' in stack.output
    headers = {"X-Request-Id": "find-me-in-the-log"}
    bad = httpx.post(f"{stack.url}/v1/models/tiny:predict", content=b"{", headers=headers, trust_env=False)
    assert bad.status_code == 400
    until(lambda: '"request_id": "find-me-in-the-log"' in stack.output)


def test_a_password_is_on_no_command_line_and_in_no_message(up: Up, tiny: str) -> None:
    stack = up("--models", tiny, "--redis-url", f"redis://user:hunter2@127.0.0.1:{free_port()}")
    assert "no Redis answers at redis://127.0.0.1" in stack.output
    assert "hunter2" not in stack.output


@pytest.mark.parametrize("option", [["--port", "99999"], ["--port", "0"], ["--workers", "0"], ["--device", "tpu"]])
def test_an_option_out_of_range_is_named(up: Up, option: list[str]) -> None:
    from ops import supervisor

    with pytest.raises(SystemExit, match="2"):
        supervisor.main(option)


def test_workers_and_apis_can_be_several_and_redis_another(up: Up, tiny: str, redis_server: RedisServer) -> None:
    stack = up("--models", tiny, "--apis", "2", "--workers", "2", "--redis-url", redis_server.url)
    assert ": 2 API processes, 2 workers (2 instances a model, 1 thread a run)" in stack.output
    assert len(stack.children("--member")) == 2
    assert stack.children("valkey-server") == []
    until(lambda: 'millrace_workers{model="tiny"} 2.0' in httpx.get(f"{stack.url}/metrics").text)
    assert predict(stack, [1, 0, 0]).json() == {"predictions": [[1.0, 10.0]]}
    running = stack.children()
    assert stack.stop() == 0
    assert alive(running) == []


def test_a_worker_that_dies_is_started_again(up: Up, tiny: str) -> None:
    stack = up("--models", tiny)
    (worker,) = stack.programs("worker")
    worker.kill()
    until(lambda: "worker 1 was killed by SIGKILL; starting it again" in stack.output)
    until(lambda: predict(stack, [0, 1, 0]).status_code == 200)


def test_a_worker_that_keeps_dying_is_started_ever_later_and_ends_nothing_else(up: Up, tiny: str) -> None:
    stack = up("--models", tiny)
    others = [process for process in stack.children() if "-m worker" not in " ".join(process.cmdline())]
    for number, delay in enumerate(("0.1", "0.2", "0.4", "0.8", "1.6")):
        until(lambda: stack.programs("worker"), what="the next worker")
        stack.programs("worker")[0].kill()
        line = f"worker 1 was killed by SIGKILL; starting it again in {delay} s"
        until(lambda line=line: line in stack.output, what=line)  # type: ignore[misc]
        assert stack.output.count("starting it again") == number + 1
    assert alive(others) == others
    until(lambda: predict(stack, [0, 1, 0]).status_code == 200, 60)


@pytest.mark.slow
def test_a_worker_that_stands_still_while_it_loads_is_waited_for(up: Up, tmp_path: Path) -> None:
    """It stands still until the API has forgotten it, with what it was loading."""
    tf = pytest.importorskip("tensorflow")
    module = tf.Module()
    module.twice = tf.function(lambda x: {"y": 2 * x}, input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    tf.saved_model.save(module, str(tmp_path / "twice" / "1"), {"serving_default": module.twice})
    stack = up("--models", str(tmp_path), waits=False)

    def state() -> str:
        with contextlib.suppress(httpx.TransportError):
            for model in httpx.get(f"{stack.url}/v1/models").json()["models"]:
                return str(model["versions"][0]["state"])
        return ""

    until(lambda: state() in ("START", "LOADING"), 60, "the worker to load")
    (worker,) = stack.programs("worker")
    freeze(worker.pid)
    until(lambda: state() == "END", what="the API to forget the worker")
    supervisor = psutil.Process(stack.process.pid)
    pauses = supervisor.num_ctx_switches().voluntary
    until(lambda: supervisor.num_ctx_switches().voluntary > pauses + 200, what="the supervisor to look, a few times")
    thaw(worker.pid)
    until(stack.is_settled, 120, "millrace up")
    assert "Millrace is ready" in stack.output


@pytest.mark.parametrize("option", ["--port", "--grpc-port"])
def test_a_port_in_use_is_named(up: Up, tiny: str, option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        stack = up("--models", tiny, option, str(port))
    assert stack.process.returncode == 1
    (line,) = stack.output.splitlines()
    why = f"cannot be used (Address already in use); choose another with {option} or --host"
    assert line == f"millrace up: port {port} on 127.0.0.1 {why}"


@pytest.mark.slow
def test_grpc_is_named_when_ready_and_can_be_switched_off(up: Up, tiny: str) -> None:
    stack = up("--models", tiny)
    assert f"gRPC at {stack.grpc}" in stack.output
    host, port = stack.grpc.split(":")
    socket.create_connection((host, int(port))).close()
    without = up("--models", tiny, "--grpc-port", "0")
    assert "gRPC" not in without.output
    assert httpx.get(f"{without.url}/v2/health/ready").status_code == 200


def test_a_repository_that_is_not_there_is_named_and_an_empty_one_where_that_is_asked_for(
    up: Up, tmp_path: Path
) -> None:
    missing, empty = up("--models", str(tmp_path / "nowhere")), up("--models", str(tmp_path), "--strict")
    no_file = up(str(tmp_path / "no.onnx"))
    assert (missing.process.returncode, empty.process.returncode, no_file.process.returncode) == (1, 1, 1)
    assert no_file.output == f"millrace up: {tmp_path}/no.onnx is not there\n"
    assert "nowhere is not a folder; give the folder that holds <model>/<version>/ (--models)" in missing.output
    assert f"millrace up: {tmp_path} holds no model: put one at" in empty.output


def test_an_empty_repository_is_served_and_watched(up: Up, make_onnx: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    stack = up("--models", str(tmp_path / "models"))
    assert f"holds no model: put one at {tmp_path / 'models'}/<name>/1/model.onnx" in stack.output
    assert "Millrace is up at http://127.0.0.1:" in stack.output
    assert httpx.get(f"{stack.url}/v2/health/live").status_code == 200
    assert httpx.get(f"{stack.url}/v2/health/ready").status_code == 503
    make_onnx(tmp_path / "models")
    until(lambda: "Millrace is ready at" in stack.output)
    assert predict(stack, [1, 0, 0]).json() == {"predictions": [[1.0, 10.0]]}
    assert stack.stop() == 0


def test_one_file_is_served_from_any_folder_with_programs_of_its_own(
    up: Up, make_onnx: Callable[..., Path], tmp_path: Path
) -> None:
    """Nothing that lies in the folder where it is started is taken for a part of it."""
    (make_onnx(tmp_path / "made") / "model.onnx").rename(tmp_path / "two words+é.onnx")
    (tmp_path / "manifest.json").write_text("of a web page, say")
    (tmp_path / "worker").mkdir()
    for decoy in ("worker/__init__.py", "serving.py", "numpy.py", "logging.py"):
        (tmp_path / decoy).write_text("raise SystemExit('a decoy was started')")
    stack = up("two words+é.onnx", folder=tmp_path)
    assert "Millrace is ready" in stack.output, stack.output
    quoted = "two%20words%2B%C3%A9"
    for url, body in (
        (f"/v1/models/{quoted}:predict", {"instances": [[1, 0, 0]]}),
        (
            f"/v2/models/{quoted}/infer",
            {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 0, 0]}]},
        ),
    ):
        answer = httpx.post(stack.url + url, json=body, timeout=30)
        assert answer.status_code == 200, answer.text
    assert httpx.get(f"{stack.url}/v1/models/{quoted}").json()["model_version_status"][0]["state"] == "AVAILABLE"
    assert httpx.get(f"{stack.url}/v2/models/{quoted}").json()["name"] == "two words+é"
    assert 'model="two words+é"' in httpx.get(f"{stack.url}/metrics").text


def test_a_broken_model_is_named_and_the_others_are_served(up: Up, tiny: str) -> None:
    (Path(tiny) / "broken" / "1").mkdir(parents=True)
    (Path(tiny) / "broken" / "1" / "model.onnx").write_bytes(b"not a model")
    stack = up("--models", tiny)
    (line,) = [
        line for line in stack.output.splitlines() if line.startswith("millrace: model 'broken' is not served: ")
    ]
    assert "model.onnx" in line
    assert predict(stack, [1, 0, 0]).status_code == 200
    status: Any = httpx.get(f"{stack.url}/v1/models/broken").json()["model_version_status"][0]
    assert status["state"] == "END"
    assert "model.onnx" in status["status"]["error_message"]


def test_where_nothing_can_be_loaded_callers_are_told_why_or_it_ends_with_one_line(up: Up, tmp_path: Path) -> None:
    (tmp_path / "broken" / "1").mkdir(parents=True)
    (tmp_path / "other" / "v1").mkdir(parents=True)
    (tmp_path / "other" / "v1" / "model.onnx").write_bytes(b"")
    strict = up("--models", str(tmp_path), "--strict")
    assert strict.process.returncode == 1
    assert "millrace: model 'broken' is not served: " in strict.output
    assert strict.output.splitlines()[-1].startswith("millrace up: no model could be loaded")
    stack = up("--models", str(tmp_path))
    assert "and serves no model yet: it watches" in stack.output
    until(lambda: "millrace: model 'other' is not served: other/v1 is no version" in stack.output)
    answer = httpx.post(f"{stack.url}/v1/models/broken:predict", json={"instances": [1]})
    assert answer.status_code == 503
    assert "broken/1 holds no model: one of " in answer.json()["error"]
    index = httpx.post(f"{stack.url}/v2/repository/index").json()
    assert {entry["name"]: entry["reason"].partition(";")[2] for entry in index}["other"] == " rename it to other/1"


def test_a_redis_that_does_not_answer_is_named(up: Up, tiny: str) -> None:
    stack = up("--models", tiny, "--redis-url", f"redis://127.0.0.1:{free_port()}")
    assert stack.process.returncode == 1
    assert "millrace up: no Redis answers at redis://127.0.0.1:" in stack.output


def test_a_child_that_cannot_start_is_named(up: Up, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "MILLRACE_WORKER_DEVISE", "cuda")
    stack = up("--models", tiny)
    assert stack.process.returncode == 1
    assert "MILLRACE_WORKER_DEVISE is no setting of this program; did you mean MILLRACE_WORKER_DEVICE?" in stack.output
    assert "millrace up: worker 1 ended with status 2 while starting" in stack.output


def test_without_any_redis_it_says_what_to_install(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from ops import embedded_redis

    monkeypatch.setattr(embedded_redis, "find_spec", lambda _: None)
    monkeypatch.setitem(os.environ, "PATH", "")
    with pytest.raises(UpError, match=r"install Valkey, or Redis 6\.2 or later, or give the address of one"):
        embedded_redis.redis_server()
