"""A stack of Millrace with given settings, for `millrace tune`: `millrace up` as a process, on a copy of the model."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from millrace_client import Client
from millrace_client.load.faults import CannotRun
from millrace_client.load.tuning import Candidate

_START_S, _STOP_S = 120.0, 30.0


def newest_version(models: Path, model: str) -> Path:
    """The folder of the model's newest version. Raises `CannotRun` where there is none with a manifest."""
    folder = models / model
    versions = [each for each in folder.iterdir() if each.name.isdecimal()] if folder.is_dir() else []
    if not versions:
        raise CannotRun(f"{folder} has no versions")
    return max(versions, key=lambda each: int(each.name))


def write_batching(source: Path, target: Path, max_batch_size: int) -> None:
    """A copy of a version's folder with another `max_batch_size` in its manifest; the folder's name is its version."""
    shutil.copytree(source, target)
    file = target / "manifest.json"
    manifest: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    manifest["batching"] = {**manifest.get("batching", {}), "max_batch_size": max_batch_size}
    if "version" in manifest:
        manifest["version"] = type(manifest["version"])(target.name)
    file.write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


class CandidateStack:
    """`millrace up` with a candidate's settings, on a free port."""

    def __init__(self, version: Path, candidate: Candidate, folder: Path) -> None:
        self.url = f"http://127.0.0.1:{_free_port()}"
        self._model, self._folder = version.parent.name, folder
        repository = folder / "models"
        write_batching(version, repository / self._model / version.name, candidate.max_batch_size)
        self._log = (folder / "stack.log").open("wb")
        command = [sys.executable, "-m", "millrace", "up", "--models", str(repository), "--grpc-port", "0"]
        command += ["--port", self.url.rpartition(":")[2], "--workers", str(candidate.workers), "--jobs", "0"]
        settings = {
            "MILLRACE_WORKER_INSTANCES": str(candidate.instances),
            "MILLRACE_WORKER_THREADS": str(candidate.threads),
        }
        self._process = subprocess.Popen(command, env=os.environ | settings, stdout=self._log, stderr=subprocess.STDOUT)

    def wait_until_ready(self) -> None:
        """Raises `CannotRun`, with what the stack said, where it does not become ready."""
        ends_s = time.monotonic() + _START_S
        with Client(self.url, retries=0) as client:
            while not client.is_ready(self._model):
                if self._process.poll() is not None or time.monotonic() > ends_s:
                    said = (self._folder / "stack.log").read_text(encoding="utf-8", errors="replace")
                    raise CannotRun(f"the stack did not become ready:\n{said[-2000:]}")
                time.sleep(0.1)

    def cpu_s(self) -> float:
        """CPU seconds that the stack's processes have used until now."""
        root = psutil.Process(self._process.pid)
        spent = 0.0
        for process in [root, *root.children(recursive=True)]:
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            spent += times.user + times.system
        return spent

    def close(self) -> None:
        """Stop it."""
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
