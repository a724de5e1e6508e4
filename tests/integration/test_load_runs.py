"""`millrace load` and its locustfile as processes, against a server whose faults are known."""

import importlib.util
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest
from millrace_client.load.command import main

from tests.support.load_servers import paced_server
from tests.support.running import ROOT, our_environment

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("locust") is None, reason="locust is not installed"
)  # it is not imported: that would patch this process's sockets
REFUSED, WRONG = 10, 15  # one request of so many


@pytest.fixture(scope="module")
def faulty() -> Iterator[str]:
    with paced_server("--of", str(REFUSED), "--status", "429", "--wrong-of", str(WRONG)) as url:
        yield url


@pytest.fixture(scope="module")
def sound() -> Iterator[str]:
    with paced_server() as url:
        yield url


def load(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "millrace_client.load", *arguments]
    return subprocess.run(command, env=our_environment(), capture_output=True, text=True, timeout=120)


def locust(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "locust", "-f", str(ROOT / "client/loadtest/locustfile.py"), "--headless"]
    return subprocess.run([*command, *arguments], env=our_environment(), capture_output=True, text=True, timeout=120)


def test_faults_are_counted_apart_over_several_processes(faulty: str, tmp_path: Path) -> None:
    """--check: a wrong value in the right shape is wrong too. Objectives that are missed have a status of their own."""
    files = {name: tmp_path / f"run.{name}" for name in ("json", "csv", "md", "html", "junit")}
    done = load(
        "image", "--host", faulty, "--check", "--payloads", "1", "--rate", "300", "--for", "2s", "--warm-up", "200ms",
        "--connections", "64", "--processes", "2", "--max-send-lag", "1000", "--p99-ms", "1000",
        "--fail", "errors<1%", "--fail", "goodput>0.5",
        *(part for name, file in files.items() for part in (f"--{name}", str(file))),
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    document = json.loads(files["json"].read_text())
    requests = document["requests"]
    assert requests == pytest.approx(600, rel=0.2)
    assert document["refused"] == pytest.approx(requests / REFUSED, rel=0.3)
    assert document["failures"]["wrong"] > 0
    assert document["failed"] == document["failures"]["wrong"]
    assert document["ok"] == requests - document["refused"] - document["failed"]
    assert document["errors"]["not the answer that the request gets alone"] == document["failed"]
    assert len(document["generator_cpu"]) == 2
    assert sum(count for _, count in document["raw"]["lag"]["buckets"]) == requests  # none of the warm-up's
    assert document["stages_ms"]["server"]["queue"]["mean"] == pytest.approx(0.02)
    assert set(document["stages_ms"]["client"]) == {"send", "wait", "receive"}
    suite = ET.parse(files["junit"]).getroot()
    assert (suite.get("failures"), suite.get("errors")) == ("1", "0")
    assert all(file.stat().st_size for file in files.values())


@pytest.mark.slow
def test_a_closed_loop_waits_for_its_answers_and_passes_what_is_for_locust(sound: str, tmp_path: Path) -> None:
    done = load(
        "image", "--host", sound, "--protocol", "oip-binary", "--users", "4", "--for", "1s", "--warm-up", "0s",
        "--fail", "errors<=0%", "--json", str(tmp_path / "a.json"), "--", "--csv", str(tmp_path / "locust"),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads((tmp_path / "a.json").read_text())
    assert (document["load"]["mode"], document["load"]["users"]) == ("closed", 4)
    assert document["send_lag_ms"] is None
    assert document["ok"] == document["requests"] > 100
    locusts = (tmp_path / "locust_stats.csv").read_text()
    assert re.search(r"^oip-binary,image,\d+,0,", locusts, re.MULTILINE)


def test_no_server_and_wrong_usage_have_a_status_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    nobody = load("image", "--host", "http://127.0.0.1:9", "--rate", "10", "--for", "1s")
    assert (nobody.returncode, "127.0.0.1:9" in nobody.stderr) == (4, True)
    with pytest.raises(SystemExit) as ended:
        main(["image", "--rate", "10", "--users", "3"])
    assert (ended.value.code, "--users or --rate" in capsys.readouterr().err) == (2, True)


@pytest.mark.slow
def test_a_run_that_shows_nothing_is_invalid(sound: str) -> None:
    done = load("image", "--host", sound, "--rate", "50", "--for", "1s", "--warm-up", "0s", "--max-send-lag", "0")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "INVALID    the generator fell behind its schedule" in done.stdout


@pytest.mark.slow
def test_the_plain_locustfile_runs_distributed(faulty: str, tmp_path: Path) -> None:
    """Locust's own numbers and status, and all that the processes counted in one result."""
    result = tmp_path / "result.json"
    done = locust(
        "--processes", "2", "--host", faulty, "--model", "image", "--users", "4", "--spawn-rate", "4", "--for", "1s",
        "--warm-up", "0s", "--result", str(result), "--html", str(tmp_path / "locust.html"),
    )  # fmt: skip
    assert done.returncode == 1, done.stderr  # Locust's, because requests failed
    kinds = json.loads(result.read_text())["tally"]["kinds"]
    assert kinds["ok"] > kinds["refused"] > 0
    assert "AttributeError" not in done.stderr
    assert 'refused: 429: {"error": "not now"}' in done.stdout + done.stderr
    assert (tmp_path / "locust.html").stat().st_size > 1000
