"""The payload log: what is sampled, handed over and written, with a real writer and behind a real API."""

import json
import math
import os
import resource
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from millrace.broker.redis import RedisBroker
from millrace.protocol.tensors import Tensor, string_tensor
from millrace.settings import SettingsError, load
from serving.payloads.files import PayloadFiles
from serving.payloads.log import PayloadLog
from serving.payloads.shares import read_shares, share_of
from serving.payloads.writer import write_all
from serving.queueing.requests import InferenceRequest
from serving.settings import ServingSettings
from tests.support.api_process import ApiProcess
from tests.support.running import RedisServer, until
from tests.support.versions import running

_FLOATS = Tensor("FP32", (1, 2), b"\0\0\x80\x3f\0\0\0\x40")


def request(model: str = "m", **inputs: Tensor) -> InferenceRequest:
    return InferenceRequest(
        model=model,
        version=3,
        signature="s",
        inputs=inputs or {"x": _FLOATS},
        rows=1,
        max_batch_size=0,
        timeout_s=1,
        trace="",
    )


class Log:
    """A payload log, what it counted, and the lines that it wrote."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.counts: Counter[tuple[str, str]] = Counter()
        chosen = ServingSettings(payload_folder=folder, **{"payload_share": "m=100%", **settings})
        self.log = PayloadLog(chosen, lambda model, outcome: self.counts.update([(model, outcome)]), wall=lambda: 1.5)

    def ask(self, asked: InferenceRequest, **outputs: Tensor) -> None:
        if sample := self.log.sample(asked):
            self.log.put(sample, "id", outputs or {"y": _FLOATS})

    def lines(self) -> list[dict[str, Any]]:
        return lines(self.folder)

    def writer(self) -> psutil.Process:
        (found,) = self._writers()
        return found

    def is_writing(self) -> bool:
        return bool(self._writers())

    def _writers(self) -> list[psutil.Process]:
        return [child for child in psutil.Process().children() if str(self.folder) in child.cmdline()]


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in sorted(folder.glob("*/*.jsonl")) for line in path.read_text().splitlines()]


@contextmanager
def started(log: Log) -> Iterator[None]:
    log.log.start()
    try:
        yield
    finally:
        log.log.stop()


def test_a_request_and_its_answer_become_a_line(tmp_path: Path) -> None:
    log = Log(tmp_path)
    with started(log):
        log.ask(request(x=_FLOATS, words=string_tensor([b"a", b"\xff"], (1, 2))))
    assert log.lines() == [
        {
            "time": "1970-01-01T00:00:01.500+00:00",
            "id": "id",
            "model": "m",
            "version": 3,
            "signature": "s",
            "inputs": {"x": [[1, 2]], "words": [["a", {"b64": "/w=="}]]},
            "outputs": {"y": [[1, 2]]},
        }
    ]
    assert log.counts == {("m", "handed_over"): 1}
    assert [path.stat().st_mode & 0o077 for path in tmp_path.glob("*/*")] == [0]


def test_only_the_models_with_a_share_are_logged(tmp_path: Path) -> None:
    log = Log(tmp_path, payload_share="m=100%,n=0,*=0")
    with started(log):
        for model in ("m", "n", "o"):
            log.ask(request(model))
    assert [line["model"] for line in log.lines()] == ["m"]


def test_what_is_left_out_is_not_written_and_does_not_count(tmp_path: Path) -> None:
    log = Log(tmp_path, payload_share="*=1", payload_leave_out="image, n:x", payload_record_bytes=1024)
    large = Tensor("UINT8", (1, 4096), bytes(4096))
    with started(log):
        log.ask(request("m", image=large, x=_FLOATS))
        log.ask(request("n", image=large, x=_FLOATS))
    assert {line["model"]: sorted(line["inputs"]) for line in log.lines()} == {"m": ["x"], "n": []}


def test_what_is_too_large_is_counted(tmp_path: Path) -> None:
    log = Log(tmp_path, payload_record_bytes=1024)
    large = Tensor("UINT8", (1, 1020), bytes(1020))
    log.ask(request(x=Tensor("UINT8", (1, 4096), bytes(4096))))
    log.ask(request(x=large), y=large)
    assert log.counts == {("m", "too_large"): 2}


def test_a_writer_that_does_not_keep_up_costs_records_and_nobody_waits(tmp_path: Path) -> None:
    log = Log(tmp_path)
    with started(log):
        log.ask(request())
        until(lambda: log.lines())
        writer = log.writer()
        writer.suspend()
        while not log.counts["m", "dropped"]:
            log.ask(request())
        writer.resume()
    assert len(log.lines()) == log.counts["m", "handed_over"] > 1


def test_a_writer_that_is_killed_is_started_again(tmp_path: Path) -> None:
    log = Log(tmp_path)
    with started(log):
        log.ask(request())
        until(lambda: log.lines())
        log.writer().kill()
        log.ask(request())
        until(lambda: len(log.lines()) == 2)


# The files


class Wall:
    now_s = 1e9

    def __call__(self) -> float:
        return self.now_s


def files(folder: Path, wall: Wall, *, most_bytes: int = 8000, most_age_s: float = math.inf) -> PayloadFiles:
    return PayloadFiles(folder, "w", most_bytes, most_age_s, wall)


def test_the_oldest_files_make_way(tmp_path: Path) -> None:
    written = files(tmp_path, Wall())
    for number in range(200):
        written.append("m", b"%99d\n" % number)
        assert sum(path.stat().st_size for path in tmp_path.glob("*/*")) <= 8000
    written.close()
    kept = [int(line) for path in tmp_path.glob("*/*") for line in path.read_text().splitlines()]
    assert sorted(kept) == [*range(200 - len(kept), 200)]
    assert len(kept) >= 60


def test_old_files_go(tmp_path: Path) -> None:
    wall = Wall()
    written = files(tmp_path, wall, most_age_s=1000.0)
    written.append("m", b"line\n")
    written.prune()
    assert list(tmp_path.glob("*/*"))
    wall.now_s = next(tmp_path.glob("*/*")).stat().st_mtime + 1001
    written.prune()
    assert not list(tmp_path.glob("*/*"))
    written.append("m", b"line\n")
    written.close()
    assert lines_of(tmp_path) == ["line"]


def lines_of(folder: Path) -> list[str]:
    return [line for path in folder.glob("*/*") for line in path.read_text().splitlines()]


def test_a_file_is_closed_after_an_hour(tmp_path: Path) -> None:
    wall = Wall()
    written = files(tmp_path, wall)
    for _ in range(3):
        written.append("a model", b"line\n")
        wall.now_s += 2000
    written.close()
    assert len(list(tmp_path.glob("a model/*.jsonl"))) == 2


def test_a_disk_that_was_full_costs_no_line_but_those_that_came_meanwhile(tmp_path: Path) -> None:
    written = files(tmp_path, Wall(), most_bytes=80_000)
    written.append("m", b"a" * 7999 + b"\n")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9500, before[1]))
    try:
        for line in (b"b" * 4999 + b"\n", b"c" * 3999 + b"\n"):
            written.append("m", line)
        with pytest.raises(OSError, match=r"large|left"):
            written.append("m", b"d" * 999 + b"\n")
        written.append("m", b"e" * 1999 + b"\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    written.append("m", b"f" * 9999 + b"\n")
    written.prune()
    written.append("m", b"g\n")
    assert sorted(line[0] for line in lines_of(tmp_path)) == ["a", "b", "c", "e", "f", "g"]
    assert {len(line) for line in lines_of(tmp_path)} == {7999, 4999, 3999, 1999, 9999, 1}
    written.close()


def test_a_disk_that_cannot_be_written_costs_records_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = Log(tmp_path)
    kind = socket.SOCK_SEQPACKET if sys.platform == "linux" else socket.SOCK_DGRAM
    ours, writers = socket.socketpair(socket.AF_UNIX, kind)
    (tmp_path / "m").write_text("a file where the folder would be")
    with writers:
        thread = threading.Thread(target=write_all, args=(writers, files(tmp_path, Wall())))
        thread.start()
        for message in (b"no record", b"neither"):
            ours.send(message)
        ours.close()
        thread.join(20)
    assert not thread.is_alive()
    assert [record.getMessage() for record in caplog.records] == ["a payload was not written"]
    assert log.lines() == []


def test_closed_files_become_parquet_with_the_same_content(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    log = Log(tmp_path, payload_format="parquet", payload_share="*=100%")
    with started(log):
        log.ask(request(x=_FLOATS, words=string_tensor([b"2026-01-01", b"b"], (1, 2))))
        log.ask(request(x=Tensor("FP32", (1, 1), b"\0\0\xc0\x3f")), z=_FLOATS)
        log.ask(request("mixed", words=string_tensor([b"a", b"\xff"], (1, 2))))
        until(lambda: len(log.lines()) == 3)
    until(lambda: not [*(tmp_path / "m").glob("*.jsonl")])  # the log does not wait longer than 2 s for its writer
    (made,) = (tmp_path / "m").glob("*.parquet")
    assert made.stat().st_mode & 0o077 == 0
    first, second = parquet.read_table(made).to_pylist()
    assert first == {
        "time": datetime(1970, 1, 1, 0, 0, 1, 500_000, UTC),
        "id": "id",
        "model": "m",
        "version": 3,
        "signature": "s",
        "inputs": {"x": [[1.0, 2.0]], "words": [["2026-01-01", "b"]]},
        "outputs": {"y": [[1.0, 2.0]], "z": None},
    }
    assert (second["inputs"], second["outputs"]) == ({"x": [[1.5]], "words": None}, {"y": None, "z": [[1.0, 2.0]]})
    until(lambda: not log.is_writing())
    assert [path.suffix for path in (tmp_path / "mixed").iterdir()] == [".jsonl"]  # texts and bytes: it stays


def test_an_hour_old_file_is_closed_without_another_line(tmp_path: Path) -> None:
    wall = Wall()
    closed: list[Path] = []
    written = PayloadFiles(tmp_path, "w", 8000, math.inf, wall, closed=closed.append)
    written.append("m", b"line\n")
    written.prune()
    assert closed == []
    wall.now_s += 3601
    written.prune()
    assert [path.read_bytes() for path in closed] == [b"line\n"]
    written.close()
    assert len(closed) == 1


def test_files_of_every_format_count_and_make_way(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    for number, suffix in enumerate((".parquet", ".part", ".jsonl")):
        (folder / f"a{suffix}").write_bytes(bytes(3000))
        os.utime(folder / f"a{suffix}", (number, number))
    (folder / "README").write_text("is not the log's")
    files(tmp_path, Wall(), most_bytes=8000).prune()
    assert sorted(path.name for path in folder.iterdir()) == ["README", "a.jsonl", "a.part"]


def test_parquet_without_pyarrow_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(SettingsError, match="payload-log"):
        load(ServingSettings, {"MILLRACE_SERVING_PAYLOAD_FORMAT": "parquet"})


# Settings and the API


def test_shares_are_read() -> None:
    shares = read_shares(" digits=10% , a=b=0.5,*=1%")
    assert [share_of(shares, model) for model in ("digits", "a=b", "other")] == [0.1, 0.5, 0.01]
    assert share_of(read_shares("digits=1"), "other") == 0


@pytest.mark.parametrize("text", ["digits", "digits=", "=1", "digits=110%", "digits=-1", "digits=x"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="MILLRACE_SERVING_PAYLOAD_SHARE"):
        load(ServingSettings, {"MILLRACE_SERVING_PAYLOAD_SHARE": text})


@pytest.mark.slow
def test_an_api_logs_what_it_answered(
    redis_server: RedisServer, make_onnx: Callable[..., Path], tmp_path: Path
) -> None:
    make_onnx(tmp_path / "models", "m")
    log = tmp_path / "api.log"
    worker = running(RedisBroker(redis_server.url), tmp_path / "models")
    with worker, ApiProcess(redis_server.url, log, payload_share="*=100%", payload_folder=tmp_path / "payloads") as api:
        url = f"http://127.0.0.1:{api.port}"

        def ask(**body: Any) -> int:
            return httpx.post(f"{url}/v1/models/m:predict", json=body, headers={"X-Request-Id": "r"}).status_code

        until(lambda: ask(instances=[[1, 2, 3]]) == 200)
        assert ask(instances=[["no number"]]) == 400
        until(lambda: lines(tmp_path / "payloads"))
        metrics = httpx.get(f"{url}/metrics").text
        api.stop()
    assert 'millrace_payloads_total{model="m",outcome="handed_over"} 1.0' in metrics
    (line,) = lines(tmp_path / "payloads")
    assert (line["id"], line["inputs"], line["outputs"]) == ("r", {"x": [[1, 2, 3]]}, {"scores": [[14, 140]]})
