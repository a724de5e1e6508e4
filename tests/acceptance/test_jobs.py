"""Background jobs of `millrace up`, as a person uses them: upload, progress, result; also after a restart."""

import asyncio
import contextlib
import csv
import importlib
import io
import json
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pyarrow as pa
import pytest
from millrace_client import AsyncClient, Client, InvalidRequest, JobFailed, NotFound, map_batches

from tests.support.jobs import csv_of
from tests.support.running import ROOT, Stack, is_alive, our_environment, until

Up = Callable[..., Stack]
_CLI = "import sys; from millrace_client.cli import main; sys.exit(main())"


@pytest.fixture
def tiny(make_onnx: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A repository with one tiny model; jobs are kept in the test's folder."""
    monkeypatch.setenv("MILLRACE_JOBS_FOLDER", str(tmp_path / "jobs"))
    make_onnx(tmp_path / "models")
    return str(tmp_path / "models")


def submit(stack: Stack, rows: bytes, **more: Any) -> str:
    document = {"kind": "score", "model": "tiny", "columns": {"x": "x"}, **more}
    answer = httpx.post(
        f"{stack.url}/v1/jobs",
        data={"job": json.dumps(document)},
        files={"input": ("rows.csv", rows, "text/csv")},
        timeout=30,
    )
    assert answer.status_code == 202, answer.text
    return f"{stack.url}{answer.headers['Location']}"


def ended(job: str) -> dict[str, Any]:
    until(lambda: httpx.get(job).json()["state"] in ("finished", "failed", "canceled"), 60, "the end of the job")
    found: dict[str, Any] = httpx.get(job).json()
    return found


def directly(stack: Stack, rows: list[list[float]]) -> Any:
    return httpx.post(f"{stack.url}/v1/models/tiny:predict", json={"instances": rows}, timeout=30).json()["predictions"]


def test_a_file_is_scored_as_the_model_scores_its_rows(up: Up, tiny: str) -> None:
    stack = up("--models", tiny, "--jobs", "1")
    job = submit(stack, csv_of(500))
    states = []
    with httpx.stream("GET", f"{job}/events", timeout=60) as events:
        for line in events.iter_lines():
            if line.startswith("data: "):
                states.append(json.loads(line.removeprefix("data: ")))
    assert states[-1]["state"] == "finished", states[-1]
    assert (states[-1]["rows"], states[-1]["rows_done"], states[-1]["errors"]) == (500, 500, 0)
    found = list(csv.DictReader(io.StringIO(httpx.get(f"{job}/result").text)))
    assert [row["id"] for row in found] == [str(number) for number in range(500)]
    answers = directly(stack, [json.loads(row["x"]) for row in found])
    assert [json.loads(row["scores"]) for row in found] == answers
    metrics = httpx.get(f"{stack.url}/metrics").text
    assert 'millrace_jobs{kind="score",state="finished"} 1.0' in metrics
    assert 'millrace_job_rows_total{kind="score"} 500.0' in metrics


def test_jobs_go_on_after_everything_was_started_again(up: Up, tiny: str) -> None:
    stack = up("--models", tiny, "--jobs", "1")
    first = submit(stack, csv_of(100))
    assert ended(first)["state"] == "finished"
    result = httpx.get(f"{first}/result").content
    running = stack.children()
    for program in stack.programs("jobs"):
        program.suspend()  # so that the second job waits
    second = submit(stack, csv_of(50))
    stack.stop(signal.SIGKILL)
    for program in running:
        with contextlib.suppress(psutil.NoSuchProcess):
            program.resume()
    until(lambda: not any(map(is_alive, running)), what="the end of all")
    again = up("--models", tiny, "--jobs", "1")
    first, second = (job.replace(stack.url, again.url) for job in (first, second))
    assert httpx.get(f"{first}/result").content == result
    assert ended(second)["state"] == "finished"


@pytest.mark.slow
def test_two_stacks_do_not_share_a_folder_and_jobs_can_be_left_out(up: Up, tiny: str) -> None:
    stack = up("--models", tiny, "--jobs", "1")
    other = up("--models", tiny, "--jobs", "1")
    assert other.process.wait(60) == 1
    assert "another stack has the jobs" in other.output
    without = up("--models", tiny, "--jobs", "0")
    answer = httpx.get(f"{without.url}/v1/jobs")
    assert answer.status_code == 501
    assert "MILLRACE_JOBS_REDIS_URL" in answer.json()["error"]
    assert httpx.get(f"{stack.url}/v1/jobs").json() == {"jobs": []}


def test_without_their_packages_the_stack_starts_without_jobs_unless_they_are_asked_for(
    up: Up, tiny: str, tmp_path: Path
) -> None:
    program = tmp_path / "millrace"
    lines = [
        f"#!{sys.executable}",
        "import os, sys",
        f"os.environ['PYTHONPATH'] = {our_environment()['PYTHONPATH']!r}",
        f"sys.path.insert(0, {str(ROOT)!r})",
        "sys.modules['rq'] = None",
        "from ops.supervisor import main",
        "sys.exit(main([each for each in sys.argv[2:] if each != '--jobs=default']))",
    ]
    program.write_text("\n".join(lines))
    program.chmod(0o755)
    asked = up("--models", tiny, "--jobs", "1", program=program)
    assert asked.process.wait(60) == 1
    assert "rq: not installed" in asked.output
    stack = up("--models", tiny, "--jobs=default", program=program)
    assert "without background jobs: rq: not installed" in stack.output
    assert directly(stack, [[1, 2, 3]]) == [[14.0, 140.0]]
    assert httpx.get(f"{stack.url}/v1/jobs").status_code == 501


def test_the_client_submits_watches_and_fetches(up: Up, tiny: str, tmp_path: Path) -> None:
    stack = up("--models", tiny, "--jobs", "1")
    (tmp_path / "rows.csv").write_bytes(csv_of(300))
    with Client(stack.url) as client:
        job = client.jobs.score("tiny", tmp_path / "rows.csv", columns={"x": "x"})
        statuses = list(job.progress())
        assert (statuses[-1].state, statuses[-1].rows_done, statuses[-1].fraction) == ("finished", 300, 1.0)
        scored = job.result(tmp_path / "scored.csv")
        assert len(list(csv.DictReader(io.StringIO(scored.read_text())))) == 300
        assert job.logs()
        assert job.id in [each.id for each in client.jobs.list()]
        failing = client.jobs.score("tiny", tmp_path / "rows.csv", column="nothing")
        with pytest.raises(JobFailed, match="nothing"):
            failing.result(tmp_path / "no.csv")
        assert not (tmp_path / "no.csv").exists()
        with pytest.raises(InvalidRequest, match="modle"):
            client.jobs.submit({"kind": "score", "modle": "tiny"})
        with pytest.raises(InvalidRequest, match="cannot read"):
            client.jobs.score("tiny", "nowhere.csv")
        job.delete()
        with pytest.raises(NotFound):
            client.jobs.get(job.id)
    _in_batches(stack.url)
    asyncio.run(_asynchronously(stack.url, tmp_path))
    _on_the_command_line(stack.url, tmp_path)


def _in_batches(url: str) -> None:
    rows = [[float(number), 2.0, 3.0] for number in range(5)]
    expected = [[14.0 - 1 + number, 140.0 - 10 + 10 * number] for number in range(5)]
    ask = pickle.loads(pickle.dumps(map_batches("tiny", column="rows", url=url, rows=2)))
    answered = ask({"rows": np.array(rows, np.float32), "id": np.arange(5)})
    assert answered["scores"].tolist() == expected
    assert answered["id"].tolist() == list(range(5))
    table = ask(pa.table({"rows": rows, "id": range(5)}))
    assert table["scores"].to_pylist() == expected
    assert table.column_names == ["rows", "id", "scores"]
    assert ask(table.select(["rows"]).to_batches()[0]).column("scores").to_pylist() == expected
    if find_spec("pandas"):  # no program of ours needs it
        frame = ask(importlib.import_module("pandas").DataFrame({"rows": rows}))
        assert np.stack(frame["scores"].to_list()).tolist() == expected
    by_name = map_batches("tiny", url=url, prefix="tiny_")
    assert by_name({"x": np.array(rows, np.float32)})["tiny_scores"].tolist() == expected
    nothing = by_name({"x": np.empty((0, 3), np.float32)})
    assert {name: (values.shape, values.dtype) for name, values in nothing.items()} == {
        "x": ((0, 3), np.float32),
        "tiny_scores": ((0, 2), np.float32),
    }
    assert ask(table.slice(0, 0)).schema == ask(table).schema
    with pytest.raises(InvalidRequest, match="no column 'rows'"):
        ask({"other": np.zeros(1)})
    with pytest.raises(TypeError, match="and not list"):
        ask([1])


async def _asynchronously(url: str, folder: Path) -> None:
    async with AsyncClient(url) as client:
        job = await client.jobs.score("tiny", folder / "rows.csv", columns={"x": "x"}, id="mine")
        again = await client.jobs.score("tiny", folder / "rows.csv", columns={"x": "x"}, id="mine")
        assert again.id == job.id == "mine"
        states = [status.state async for status in job.progress()]
        assert states[-1] == "finished"
        await job.result(folder / "async.csv")
    assert (folder / "async.csv").read_bytes() == (folder / "scored.csv").read_bytes()


def _on_the_command_line(url: str, folder: Path) -> None:
    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-P", "-c", _CLI, "jobs", *arguments, "--url", url]
        return subprocess.run(command, capture_output=True, text=True, env=our_environment(), timeout=60)

    source, out = str(folder / "rows.csv"), str(folder / "cli.csv")
    done = run("submit", "score", "--model", "tiny", "--input", source, "--column", "x=x", "--output", out)
    assert (done.returncode, done.stderr.splitlines()[-1][:8]) == (0, "finished"), done.stderr
    assert (folder / "cli.csv").read_bytes() == (folder / "scored.csv").read_bytes()
    job = done.stdout.split()[0]
    assert json.loads(run("show", job, "--json").stdout)["rows_done"] == 300
    assert job in run("list", "--state", "finished").stdout
    run("result", job, "--out", str(folder / "again.csv"))
    assert (folder / "again.csv").read_bytes() == (folder / "scored.csv").read_bytes()
    assert "finished" in run("logs", job).stdout
    assert run("cancel", job).stdout == f"{job} finished\n"
    assert run("retry", job).returncode == 1
    assert run("delete", job).returncode == 0
    missing = run("show", job)
    assert (missing.returncode, missing.stderr) == (1, f"millrace: no job '{job}'\n")
