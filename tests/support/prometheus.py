"""A real Prometheus, and promtool: Debian's package `prometheus` has both."""

import contextlib
import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.running import ended, free_port, until


def program(name: str) -> str:
    """The path of `prometheus` or `promtool`; the test is skipped where it is not installed."""
    found = shutil.which(name)
    if not found:
        pytest.skip(f"{name} is not on the PATH: Debian's package prometheus has it")
    return found


@dataclass
class Prometheus:
    """One that runs."""

    url: str

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The result of an instant query."""
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": expression}).json()
        assert answer["status"] == "success", (expression, answer)
        return answer["data"]["result"]

    def get(self, path: str) -> Any:
        """What its own API says."""
        return httpx.get(f"{self.url}/api/v1/{path}").json()["data"]


@contextlib.contextmanager
def prometheus(folder: Path, rules: Path, jobs: Mapping[str, Sequence[str]]) -> Iterator[Prometheus]:
    """It looks at the jobs' targets, HOST:PORT, several times a second, and evaluates the rules."""
    port = free_port()
    config = {
        "global": {"scrape_interval": "250ms", "scrape_timeout": "250ms", "evaluation_interval": "250ms"},
        "rule_files": [str(rules)],
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": list(targets)}]} for job, targets in jobs.items()
        ],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))
    where = ["--config.file", str(folder / "prometheus.yml"), "--storage.tsdb.path", str(folder / "data")]
    command = [program("prometheus"), *where, "--web.listen-address", f"127.0.0.1:{port}", "--log.level", "warn"]
    with (folder / "prometheus.log").open("wb") as log, ended(subprocess.Popen(command, stdout=log, stderr=log)):
        running = Prometheus(f"http://127.0.0.1:{port}")

        def is_ready() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return httpx.get(f"{running.url}/-/ready").status_code == 200
            return False

        until(is_ready, what="Prometheus")
        yield running
