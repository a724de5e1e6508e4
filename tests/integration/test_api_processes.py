"""Several API processes on one port are one API: whoever has a connection says the same as the others."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.support.api_process import MB, ApiProcess
from tests.support.running import ROOT, RedisServer, ended, free_port, is_alive, until, until_all_say

ROWS = json.dumps({"instances": [[1, 2, 3]]}).encode()
ANSWER = {"predictions": [[28.0, 280.0]]}
PREDICT = "/v1/models/tiny:predict"
COUNT = 2


class Caller:
    """A connection to one of the API processes; `process` is the id of that one."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self.process = ""
        self.ask("GET", "/v2/health/live")

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
        """The status, and the body, of JSON or as it is."""
        self._connection.request(method, path, body)
        response = self._connection.getresponse()
        content = response.read()
        self.process = response.headers["X-Request-Id"].rpartition("-")[0]
        is_json = response.headers["Content-Type"] == "application/json"
        return response.status, json.loads(content) if is_json and content else content.decode()

    def close(self) -> None:
        self._connection.close()


def call_on_each(port: int, stack: contextlib.ExitStack) -> list[Caller]:
    """A connection to each of the processes."""
    found: dict[str, Caller] = {}
    while len(found) < COUNT:
        caller = Caller(port)
        stack.callback(caller.close)
        found.setdefault(caller.process, caller)
    return list(found.values())


def worker_of(redis_url: str, models: Path, log: Path) -> "subprocess.Popen[bytes]":
    environment = os.environ | {"MILLRACE_REDIS_URL": redis_url, "MILLRACE_WORKER_MODELS": str(models)}
    with log.open("wb") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "worker"], cwd=ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT
        )


def members(api: ApiProcess) -> list[psutil.Process]:
    """The API processes, in the order of their numbers."""
    found = [p for p in psutil.Process(api.process.pid).children() if is_alive(p) and "--member" in p.cmdline()]
    return sorted(found, key=lambda process: int(json.loads(process.cmdline()[-1])["number"]))


def samples(text: str) -> dict[str, float]:
    """The values of Prometheus' text format by name and labels."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


@pytest.fixture(scope="module")
def queue(tmp_path_factory: pytest.TempPathFactory, make_onnx: Callable[..., Path]) -> Iterator[RedisServer]:
    """A Redis, and a worker with the model `tiny` in two versions."""
    folder = tmp_path_factory.mktemp("processes")
    make_onnx(folder / "models")
    make_onnx(folder / "models", version=2)
    config = f'name: "tiny" base_path: "{folder}/models/tiny" model_version_policy {{ all {{ }} }}'
    (folder / "models" / "models.config").write_text(f"model_config_list {{ config {{ {config} }} }}")
    server = RedisServer(folder / "redis.sock")
    server.start()
    with ended(worker_of(server.url, folder / "models", folder / "worker.log")):
        yield server
    server.kill()


@pytest.fixture(scope="module")
def api(queue: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiProcess]:
    """An API of two processes with 100 MB for requests."""
    log = tmp_path_factory.mktemp("api") / "log"
    settings = {"processes": COUNT, "max_buffered_bytes": 100 * MB}
    with ApiProcess(queue.url, log, grpc_port=free_port(), **settings) as process:
        for number in (1, 2):
            path = f"/v2/models/tiny/versions/{number}/ready"

            def look(path: str = path) -> tuple[int, str]:
                status, headers, _ = process.ask("GET", path)
                return status, headers["x-request-id"]

            until_all_say(COUNT, look, f"version {number} in every process")
        yield process
        process.stop()


@pytest.fixture
def callers(api: ApiProcess) -> Iterator[list[Caller]]:
    """A connection to each of the processes."""
    with contextlib.ExitStack() as stack:
        yield call_on_each(api.port, stack)


# One truth


METRICS = ("/metrics", "/monitoring/prometheus/metrics")


def test_whoever_is_asked_has_counted_what_all_have(api: ApiProcess, callers: list[Caller]) -> None:
    answered = 'millrace_requests_total{model="tiny",protocol="tfs",status="200",version="2"}'
    before = samples(callers[0].ask("GET", "/metrics")[1])
    for caller in callers:
        for _ in range(5):
            assert caller.ask("POST", PREDICT, ROWS) == (200, ANSWER)
    found = [samples(caller.ask("GET", "/metrics")[1]) for caller in callers]
    counted = [{name: value for name, value in each.items() if not name.startswith("process_")} for each in found]
    assert counted[0] == counted[1]  # but for what the processes take, which changes all the time
    assert found[0][answered] - before.get(answered, 0) == 5 * COUNT
    assert found[0]["millrace_api_processes"] == COUNT
    assert found[0]["millrace_queue_up"] == 1
    assert callers[0].ask("GET", METRICS[1]) == callers[1].ask("GET", METRICS[1])
    statistics = [caller.ask("GET", "/v2/models/tiny/stats") for caller in callers]
    assert statistics[0] == statistics[1]
    of_triton = found[0]['nv_inference_request_success{model="tiny",version="2"}']
    assert statistics[0][1]["model_stats"][1]["inference_stats"]["success"]["count"] == of_triton


def test_calls_of_grpc_are_shared_out_and_counted_together(api: ApiProcess, callers: list[Caller]) -> None:
    answerers: set[str] = set()
    counts: list[int] = []
    while len(answerers) < COUNT:
        options = (("grpc.use_local_subchannel_pool", 1),)  # a connection of its own
        with grpc.insecure_channel(f"127.0.0.1:{api.grpc_port}", options=options) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            request = service_pb2.ModelInferRequest(model_name="tiny")
            request.inputs.add(name="x", datatype="FP32", shape=[1, 3]).contents.fp32_contents.extend([1, 2, 3])
            _, call = stub.ModelInfer.with_call(request)
            answerers.add(dict(call.trailing_metadata())["x-request-id"].rpartition("-")[0])
            asked = service_pb2.ModelStatisticsRequest(name="tiny", version="2")
            (statistics,) = stub.ModelStatistics(asked).model_stats
            counts.append(statistics.inference_stats.success.count)
    assert answerers == {caller.process for caller in callers}
    assert counts == list(range(counts[0], counts[0] + len(counts)))


def test_what_is_loaded_and_unloaded_by_one_is_so_for_all_at_once(callers: list[Caller]) -> None:
    for one, other in (callers, callers[::-1]):
        assert one.ask("POST", "/v2/repository/models/tiny/unload", b"{}")[0] == 200
        for caller in (other, one):
            assert caller.ask("GET", "/v2/models/tiny/ready")[0] == 503
            assert caller.ask("POST", PREDICT, ROWS)[0] == 404
            states = {entry["state"] for entry in caller.ask("POST", "/v2/repository/index", b"{}")[1]}
            assert states <= {"UNAVAILABLE", "UNLOADING"}
        assert one.ask("POST", "/v2/repository/models/tiny/load", b"{}")[0] == 200
        for caller in (other, one):
            assert caller.ask("GET", "/v2/models/tiny/ready")[0] == 200
            assert caller.ask("POST", PREDICT, ROWS) == (200, ANSWER)
            assert caller.ask("GET", "/v1/models/tiny")[1]["model_version_status"][0]["state"] == "AVAILABLE"


def test_labels_and_traffic_set_at_one_apply_at_all_at_once(callers: list[Caller]) -> None:
    one, other = callers
    for number in (1, 2, 1, 2):
        body = json.dumps({"version": number}).encode()
        assert one.ask("PUT", "/v1/models/tiny/labels/stable", body)[0] == 200
        status = other.ask("GET", "/v1/models/tiny/labels/stable")[1]
        assert status["model_version_status"][0]["version"] == str(number)
        one, other = other, one
    body = json.dumps({"weights": {"1": 1}}).encode()
    assert one.ask("PUT", "/v1/models/tiny/traffic", body)[0] == 200
    assert other.ask("GET", "/v1/models/tiny/traffic")[1]["weights"] == {"1": 1.0}
    assert one.ask("PUT", "/v1/models/tiny/traffic", b"{}")[0] == 200


def test_readiness_is_the_same(callers: list[Caller]) -> None:
    assert [caller.ask("GET", "/v2/health/ready") for caller in callers] == [(200, {"ready": True})] * COUNT


# The processes


def test_the_memory_that_is_printed_is_that_of_all_of_them(api: ApiProcess) -> None:
    (line,) = (line for line in api.lines if "memory_limit_bytes" in line)
    assert line["event"].startswith(f"serving in {COUNT} processes with at most ")
    assert " + 100 requests and responses + " in line["event"]
    assert line["memory_limit_bytes"] > line["offload_limit_bytes"] == COUNT * 2 * 1536 * MB
    assert sum(process.memory_info().rss for process in members(api)) < line["memory_limit_bytes"]


def test_the_log_says_which_process_speaks(api: ApiProcess) -> None:
    assert {line.get("process") for line in api.lines if line["event"] == "started"} == {1, 2}


@pytest.mark.parametrize("processes", [1, COUNT])
def test_a_second_api_on_the_port_is_refused_clearly(api: ApiProcess, queue: RedisServer, processes: int) -> None:
    environment = os.environ | {"MILLRACE_REDIS_URL": queue.url}
    arguments = [f"--processes={processes}", f"--port={api.port}", f"--grpc-port={free_port()}"]
    command = [sys.executable, "-m", "serving", *arguments]
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 2
    assert f"port {api.port} on 127.0.0.1 cannot be used (Address already in use)" in ran.stderr


def test_one_that_dies_is_started_again_and_what_was_counted_is_not_forgotten(api: ApiProcess) -> None:
    answered = 'millrace_request_duration_seconds_count{model="tiny",version="2"}'
    with contextlib.ExitStack() as stack:
        for caller in call_on_each(api.port, stack):
            assert caller.ask("POST", PREDICT, ROWS) == (200, ANSWER)
            before = samples(caller.ask("GET", "/metrics")[1])[answered]
    _, victim = members(api)
    victim.kill()
    until(lambda: any("API process 2 was killed by SIGKILL; starting it again" in line["event"] for line in api.lines))

    def processes() -> float:
        found = samples(api.ask("GET", "/metrics")[2].decode())
        assert found[answered] == before
        return found["millrace_api_processes"]

    until(lambda: processes() == COUNT)
    with contextlib.ExitStack() as stack:
        for caller in call_on_each(api.port, stack):
            assert caller.ask("POST", PREDICT, ROWS) == (200, ANSWER)


@pytest.mark.slow
def test_one_that_stands_still_keeps_nobody_waiting_for_long(api: ApiProcess, callers: list[Caller]) -> None:
    started = {line["process"]: line["api"] for line in api.lines if line["event"] == "started"}
    (caller,) = (caller for caller in callers if caller.process == started[1])
    _, still = members(api)
    still.suspend()
    try:
        before = time.monotonic()
        assert samples(caller.ask("GET", "/metrics")[1])["millrace_api_processes"] == 1
        assert caller.ask("PUT", "/v1/models/tiny/labels/new", b'{"version": 2}')[0] == 200
        assert time.monotonic() - before < 10
    finally:
        still.resume()


# Starting and stopping


def test_a_process_that_cannot_start_ends_all_with_the_reason(queue: RedisServer, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        environment = os.environ | {"MILLRACE_REDIS_URL": queue.url}
        port = str(taken.getsockname()[1])
        ports = [f"--port={free_port()}", f"--grpc-port={port}"]
        command = [sys.executable, "-m", "serving", "--processes=2", *ports]
        ran = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
    assert ran.returncode == 2
    assert f"port {port} on 127.0.0.1 cannot be used" in ran.stderr


def test_processes_that_cannot_start_end_with_their_reason_and_no_trace(queue: RedisServer, tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text("{")
    environment = os.environ | {
        "MILLRACE_REDIS_URL": queue.url,
        "MILLRACE_SERVING_KEYS_FILE": str(tmp_path / "keys.json"),
    }
    command = [sys.executable, "-m", "serving", "--processes=2", f"--port={free_port()}", f"--grpc-port={free_port()}"]
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 1
    assert "keys.json is no file of keys" in ran.stderr
    assert "an API process could not start, so all end" in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_all_stop_when_the_one_that_started_them_is_told_to_or_is_gone(
    queue: RedisServer, tmp_path: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / ("long" * 25)  # longer than the path of a socket can be
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    with ApiProcess(queue.url, tmp_path / "log", processes=COUNT, drain_timeout_s=1) as api:
        folder = Path(json.loads(members(api)[0].cmdline()[-1])["folder"])
        all_of_them = psutil.Process(api.process.pid).children(recursive=True)
        assert len(all_of_them) == 3 * COUNT
        api.process.send_signal(number)
        until(lambda: not any(map(is_alive, all_of_them)), 30, "the end of all")
        if number == signal.SIGTERM:
            assert api.process.wait(10) == 0
        assert not folder.exists()


class Load:
    """Asks on a connection of its own each time, until told to stop; counts statuses, 0 where nobody listens."""

    def __init__(self, port: int) -> None:
        self.statuses: Counter[int] = Counter()
        self.wrong: list[bytes] = []
        self._port = port
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(4)]

    def _ask(self) -> None:
        while not self._done.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
            try:
                connection.request("POST", PREDICT, ROWS)
                response = connection.getresponse()
                body = response.read()
            except (OSError, http.client.HTTPException):
                self.statuses[0] += 1
                self._done.wait(0.005)
            else:
                self.statuses[response.status] += 1
                if response.status != 200:
                    self.wrong.append(body)
            finally:
                connection.close()

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()


@pytest.mark.parametrize("processes", [1, pytest.param(COUNT, marks=pytest.mark.slow)])
def test_an_api_that_starts_says_nothing_false(queue: RedisServer, tmp_path: Path, processes: int) -> None:
    """Whoever is answered while APIs come and go beside a worker that runs has the model's answer."""
    port = free_port()
    with Load(port) as load:
        for number in range(2):
            answered = load.statuses[200]
            with ApiProcess(queue.url, tmp_path / f"{number}", processes=processes, port=port) as api:
                until(lambda before=answered: load.statuses[200] > before + 20, 30, "answers")  # type: ignore[misc]
                api.stop()
    assert load.wrong == []
    assert load.statuses.keys() <= {0, 200}


def test_an_api_without_a_queue_listens_and_says_so(tmp_path: Path) -> None:
    with ApiProcess(f"unix://{tmp_path}/nothing.sock", tmp_path / "log") as api:
        assert api.ask("GET", "/v2/health/live")[0] == 200
        assert api.ask("GET", "/v2/health/ready")[0] == 503
        assert json.loads(api.ask("GET", "/")[2])["models"] == []
        for method, path in (
            ("POST", PREDICT),
            ("POST", "/v2/models/tiny/infer"),
            ("GET", "/v1/models/tiny"),
            ("GET", "/v1/models"),
            ("GET", "/v2/models/tiny"),
            ("GET", "/v2/models/tiny/ready"),
            ("GET", "/v2/models/stats"),
            ("POST", "/v2/repository/index"),
            ("POST", "/v2/repository/models/tiny/unload"),
        ):
            status, _, text = api.ask(method, path, b"{}" if method == "POST" else None)
            assert (status, b"has not answered since the server started" in text) == (503, True), (path, text)
