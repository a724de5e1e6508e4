"""Servers as entries of a TOML file in the form of the peers' harness: their processes, CPU time and memory."""

import contextlib
import http.client
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.forms import FORMS, Refused, ask
from ops.embedded_redis import redis_server

_START_TIMEOUT_S, _STOP_TIMEOUT_S = 60.0, 15.0


class StartError(Exception):
    """A server did not come up; the text ends with its last words."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One server of a TOML file: where its commands run, whose programs they find, and what is asked of it."""

    name: str
    folder: Path
    programs: Path
    start: list[str]
    env: dict[str, str]
    requests: list[dict[str, str]]


def read(file: Path, work: Path | None = None) -> list[Entry]:
    """The file's entries, with the requests whose form is known here.

    `work` is the peers' folder, which has a virtual environment for each; without it they run in this Python's.
    """
    with file.open("rb") as opened:
        peers = tomllib.load(opened)["peer"]
    return [_entry(peer, file.parent, work) for peer in peers]


def _entry(peer: dict[str, Any], base: Path, work: Path | None) -> Entry:
    venv = work / "venvs" / peer.get("venv", peer["name"]) if work else Path(sys.prefix)
    env = {"PYTHONPATH": str(base / "common"), "WORK": str(work)} if work else {}
    return Entry(
        name=peer["name"],
        folder=base / peer.get("dir", peer["name"]),
        programs=venv / "bin",
        start=peer["start"],
        env=env | peer.get("env", {}),
        requests=[request for request in peer["request"] if request["kind"] in FORMS],
    )


class Server:
    """One start of one server. Used as a context: it is up inside, and all its processes are gone afterwards."""

    def __init__(self, entry: Entry, model: Path) -> None:
        self._entry = entry
        self._model = model
        self._ports = {name: str(free_port()) for name in ("port", "port2", "redis")}
        self._roots: list[psutil.Popen] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Server":
        """Start its commands; they may not answer yet."""
        run = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix=f"bench-{self._entry.name}-")))
        self._log = run / "log"
        kept = {name: os.environ[name] for name in ("HOME", "LANG") if name in os.environ}
        path = os.pathsep.join([str(self._entry.programs), os.environ["PATH"]])
        ports = {"PORT": self._ports["port"], "PORT2": self._ports["port2"], "REDIS_PORT": self._ports["redis"]}
        own = {name: value.format(**self._ports) for name, value in self._entry.env.items()}
        env = (
            kept
            | {"ORT_DISABLE_TELEMETRY": "1", "PATH": path, "MODEL": str(self._model), "RUN": str(run)}
            | ports
            | own
        )
        self._stack.callback(self._stop)
        with self._log.open("wb") as log:
            for command in self._entry.start:
                self._roots.append(
                    psutil.Popen(
                        shlex.split(command.format(**self._ports, redis_server=redis_server())),
                        env=env,
                        cwd=self._entry.folder,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
                )
        return self

    def __exit__(self, *_: object) -> None:
        """Stop them."""
        self._stack.close()

    def url(self, request: dict[str, str]) -> str:
        """Where that request goes."""
        return request["url"].format(**self._ports)

    def wait_ready(self, item: Any) -> float:
        """Seconds from the start to the first answer to its first request. Raises `StartError`."""
        started, request = time.monotonic(), self._entry.requests[0]
        last = ""
        while time.monotonic() - started < _START_TIMEOUT_S and all(root.poll() is None for root in self._roots):
            try:
                ask(self.url(request), FORMS[request["kind"]], item)
                return time.monotonic() - started
            except (OSError, http.client.HTTPException, Refused) as error:
                last = str(error)
                time.sleep(0.02)
        words = self._log.read_text(errors="replace").strip().splitlines()[-3:]
        raise StartError(f"{self._entry.name} did not start: {last}; its last words: {' | '.join(words)}")

    def processes(self) -> list[psutil.Process]:
        """All its living processes."""
        found = []
        for root in self._roots:
            with contextlib.suppress(psutil.NoSuchProcess):
                found += [root, *root.children(recursive=True)]
        return found

    def cpu_s(self) -> dict[tuple[int, str], float]:
        """User and system time of each process since its start, by process id and role."""
        spent = {}
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                times = process.cpu_times()
                spent[process.pid, _role(process)] = times.user + times.system
        return spent

    def memory_mb(self) -> dict[str, tuple[float, float]]:
        """PSS and RSS by role, summed over its processes; PSS counts a page that n processes share as 1/n in each."""
        used: dict[str, tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                role, memory = _role(process), process.memory_full_info()
                pss, rss = used[role]
                used[role] = (pss + memory.pss / 2**20, rss + memory.rss / 2**20)
        return dict(used)

    def _stop(self) -> None:
        processes = self.processes()
        for root in self._roots:
            with contextlib.suppress(psutil.NoSuchProcess):
                root.terminate()
        _, alive = psutil.wait_procs(processes, timeout=_STOP_TIMEOUT_S)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(alive, timeout=5)


def _role(process: psutil.Process) -> str:
    """What the process is in its server: its module or script, else its program; a helper is what its parent is."""
    words = process.cmdline()
    if any("multiprocessing" in word for word in words) and (parent := process.parent()):
        return _role(parent)
    if "-m" in words[:-1]:
        return words[words.index("-m") + 1]
    if len(words) > 1 and Path(words[0]).name.startswith("python"):
        return Path(words[1]).name
    return process.name()


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])
