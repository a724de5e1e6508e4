"""`millrace up`: the whole stack on one machine, as processes that start, are watched and stop together.

Starts a Redis of its own where no URL is given, then the API and the workers (`python -m serving`, `python -m worker`;
none of them is imported). Says "ready" when every model in the repository has answered. A process that dies before that
ends the whole with the reason. Afterwards a process that dies is started again, as often as it dies: see `restarts`.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from millrace.broker.discovery import without_secrets
from millrace.listening import check_port
from ops import embedded_redis, options
from ops.errors import UpError
from ops.processes import StackProcess
from ops.readiness import Readiness, answers_example, states
from ops.served_models import served_models
from ops.stopping import stop_timeouts

_START_TIMEOUT_S = 120.0
_START_PAUSE_S, _WATCH_PAUSE_S = 0.02, 0.1


class Supervisor:
    """Starts, watches and stops the processes. `run` returns after `stop`, which any thread may call.

    `clock` is a monotonic clock in seconds.
    """

    def __init__(
        self, arguments: argparse.Namespace, environ: Mapping[str, str], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._arguments = arguments
        self._environment = dict(environ)
        self._clock = clock
        self._processes: list[StackProcess] = []
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Tell `run` to stop everything and return."""
        self._stopping.set()

    def run(self) -> None:
        """Bring the stack up, watch it until `stop`, take it down. Raises `UpError`; nothing runs any more then."""
        models = served_models(self._arguments.models, self._environment.get("MILLRACE_WORKER_MODELS_CONFIG"))
        self._check_ports()
        with tempfile.TemporaryDirectory(prefix="millrace-") as folder:
            try:
                self._start_programs(self._redis_url(Path(folder)))
                self._wait_until_ready(models)
                while not self._stopping.wait(_WATCH_PAUSE_S):
                    self._revive_the_dead()
            finally:
                self._stop_all()

    # Starting

    def _check_ports(self) -> None:
        options = self._arguments
        try:
            check_port(options.host, options.port)
            if options.grpc_port:
                check_port(options.host, options.grpc_port, "--grpc-port")
        except OSError as error:
            raise UpError(str(error)) from None

    def _redis_url(self, folder: Path) -> str:
        """The URL of a Redis that answers: the given one, or one that is started here."""
        if url := self._arguments.redis_url:
            if not embedded_redis.answers(url):
                shown, where = without_secrets(url), "--redis-url or MILLRACE_REDIS_URL"
                raise UpError(f"no Redis answers at {shown} ({where}; without, one is started here)")
            return str(url)
        command, url = embedded_redis.command(folder)
        self._start("redis", command, log=folder / "redis.log")
        self._wait_for(lambda: embedded_redis.answers(url), lambda: "the embedded Redis did not start")
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
        if options.allow_code:
            self._environment["MILLRACE_WORKER_ALLOW_CODE"] = "true"
            print("millrace: models may run Python code of their own (--allow-code)", file=sys.stderr, flush=True)
        self._start("api", [sys.executable, "-m", "serving"])
        for number in range(1, options.workers + 1):
            self._start(f"worker {number}", [sys.executable, "-m", "worker"])

    def _start(self, name: str, command: list[str], log: Path | None = None) -> None:
        process = StackProcess(name, command, self._environment, log)
        self._processes.append(process)
        try:
            process.start(self._clock())
        except OSError as error:
            raise UpError(f"{name} could not be started: {error}") from None

    def _wait_until_ready(self, models: Mapping[str, Mapping[str, Any]]) -> None:
        base = f"http://{_local(self._arguments.host)}:{self._arguments.port}"
        readiness, started = Readiness(models), self._clock()
        self._wait_for(
            lambda: readiness.is_settled(states(base), self._clock()),
            lambda: f"not loaded in time: {_listed(readiness.missing)}; run with --log-level info to see why",
        )
        for name, why in readiness.missing.items():
            print(f"millrace: model {name!r} is not served: {why}", file=sys.stderr)
        if not readiness.available:
            raise UpError("no model could be loaded; see the lines above")
        for name in readiness.available:
            if example := models[name]:
                self._wait_for_answer(base, name, example)
        grpc = f"{_local(self._arguments.host)}:{self._arguments.grpc_port}" if self._arguments.grpc_port else ""
        _print_ready(base, grpc, {name: models[name] for name in readiness.available}, self._clock() - started)

    def _wait_for_answer(self, base: str, model: str, example: Mapping[str, Any]) -> None:
        self._wait_for(lambda: answers_example(base, model, example), lambda: f"model {model!r} did not answer")

    def _wait_for(self, condition: Callable[[], bool], failure: Callable[[], str]) -> None:
        """Return when the condition holds. Raises `UpError` when it takes too long or a process dies, or on `stop`."""
        ends = self._clock() + _START_TIMEOUT_S
        while not condition():
            for process in self._processes:
                if process.end:
                    raise UpError(f"{process.name} {process.end} while starting: {process.last_words}")
            if self._clock() > ends:
                raise UpError(failure())
            if self._stopping.wait(_START_PAUSE_S):
                raise UpError("stopped before it was ready")

    # Watching

    def _revive_the_dead(self) -> None:
        for process in self._processes:
            if news := process.revive(self._clock()):
                print(f"millrace: {news}", file=sys.stderr, flush=True)

    # Stopping

    def _stop_all(self) -> None:
        """One role after the other, each with its time; what does not leave in time is killed."""
        for role, timeout_s in stop_timeouts(self._environment).items():
            processes = [process for process in self._processes if process.name.split()[0] == role]
            for process in processes:
                process.terminate()
            ends = self._clock() + timeout_s
            for process in processes:
                process.wait(max(0.1, ends - self._clock()))
                process.kill()


def _listed(missing: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({why})" for name, why in missing.items())


def _print_ready(base: str, grpc: str, models: Mapping[str, Mapping[str, Any]], seconds: float) -> None:
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


def main(argv: list[str] | None = None) -> int:
    """Run `millrace up`; returns the exit status."""
    supervisor = Supervisor(options.parser(os.environ).parse_args(argv), os.environ)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # In a thread: a handler that sets an event may meet the main thread inside that event's lock.
        signal.signal(number, lambda *_: threading.Thread(target=supervisor.stop).start())
    try:
        supervisor.run()
    except UpError as error:
        print(f"millrace up: {error}", file=sys.stderr)
        return 1
    return 0
