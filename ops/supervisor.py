"""`millrace up`: the whole stack on one machine, as processes that start, are watched and stop together.

Starts a Redis of its own where no URL is given, then the API and the workers (`python -m serving`, `python -m worker`;
none of them is imported, and none is taken from the current folder). Says "ready" when every model in the repository is
served and has answered its example, or it is known why not. Where none is served, the API says so to its callers, and
the repository is watched until one is. A process that dies before that ends the whole with the reason. Afterwards a
process that dies is started again, as often as it dies: see `restarts`.
"""

import argparse
import os
import secrets
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from millrace.broker.discovery import without_secrets
from millrace.child_process import ChildProcess, start_program
from millrace.listening import check_port
from millrace.settings import SettingsError, secret
from ops import embedded_redis, jobs, options
from ops.errors import ExampleError, UpError
from ops.readiness import LocalApi, Readiness, answers_example, states
from ops.report import Report
from ops.served_models import served_models
from ops.sizing import sizes
from ops.stopping import stop_timeouts

_START_TIMEOUT_S = 120.0
_START_PAUSE_S, _WATCH_PAUSE_S = 0.02, 0.1
_MODELS_CONFIG = "MILLRACE_WORKER_MODELS_CONFIG"
_PYTHON = (sys.executable, "-P", "-m")  # -P: our own programs, and not what is called so in the current folder
_LOOK_S = 1.0  # how often to look for the first model that is served


class Supervisor:
    """Starts, watches and stops the processes. `run` returns after `stop`, which any thread may call.

    `clock` is a monotonic clock in seconds.
    """

    def __init__(
        self, arguments: argparse.Namespace, environ: Mapping[str, str], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._arguments = arguments
        self._models: Path | str = arguments.model or arguments.models  # a URL is a string
        self._environment = dict(environ)
        if arguments.model:
            self._environment.pop(_MODELS_CONFIG, None)
        self._sizes = sizes(arguments, environ, self._models)
        self._clock = clock
        self._processes: list[ChildProcess] = []
        self._stopping = threading.Event()
        scheme = "https" if environ.get("MILLRACE_SERVING_TLS_CERT") else "http"
        self._base = f"{scheme}://{_local(arguments.host)}:{arguments.port}"
        self._api = self._local_api()
        grpc = f"{_local(arguments.host)}:{arguments.grpc_port}" if arguments.grpc_port else ""
        self._report = Report(self._base, grpc, self._models)
        self._next_look = 0.0
        self._jobs = 0  # how many jobs programs are started
        self._jobs_folder: jobs.JobsFolder | None = None

    def _local_api(self) -> LocalApi:
        """How the API is asked: with a key of our own where callers need one."""
        environment, key = self._environment, ""
        if environment.get("MILLRACE_SERVING_KEYS_FILE"):
            key = environment["MILLRACE_SERVING_SUPERVISOR_KEY"] = secrets.token_urlsafe(32)
        own = [environment[name] for name in ("MILLRACE_CLIENT_CERT", "MILLRACE_CLIENT_KEY") if name in environment]
        return LocalApi(self._base, key, own if self._base.startswith("https") else ())

    def stop(self) -> None:
        """Tell `run` to stop everything and return."""
        self._stopping.set()

    def run(self) -> None:
        """Bring the stack up, watch it until `stop`, take it down. Raises `UpError`; nothing runs any more then."""
        if self._arguments.model and not self._arguments.model.exists():
            raise UpError(f"{self._models} is not there")
        models = self._served_models()
        if not models and isinstance(self._models, Path):
            self._say_that_there_is_none()
        self._check_ports()
        print(f"millrace: {self._sizes}", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(prefix="millrace-") as folder:
            try:
                url = self._redis_url(Path(folder))
                self._prepare_jobs(Path(folder))
                self._start_programs(url)
                self._wait_until_ready(models)
                while not self._stopping.wait(_WATCH_PAUSE_S):
                    self._revive_the_dead()
                    self._look_for_the_first()
            finally:
                self._stop_all()
                if self._jobs_folder:
                    self._jobs_folder.release()

    def _served_models(self) -> dict[str, dict[str, Any]]:
        if isinstance(self._models, str):
            return {}  # only a worker looks into a store
        return served_models(self._models, self._environment.get(_MODELS_CONFIG))

    def _say_that_there_is_none(self) -> None:
        where = self._models
        text = f"{where} holds no model: put one at {where}/<name>/1/model.onnx, or build ours with `make models`"
        if self._arguments.strict:
            raise UpError(text)
        self._report.trouble(text)

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
        if url := self._arguments.redis_url or _secret("MILLRACE_REDIS_URL", self._environment):
            if not embedded_redis.answers(url):
                shown, where = without_secrets(url), "--redis-url or MILLRACE_REDIS_URL"
                raise UpError(f"no Redis answers at {shown} ({where}; without, one is started here)")
            return str(url)
        command, url = embedded_redis.command(folder)
        self._start("redis", command, log=folder / "redis.log")
        self._wait_for(lambda: embedded_redis.answers(url), lambda: "the embedded Redis did not start", must=True)
        return url

    def _prepare_jobs(self, folder: Path) -> None:
        """Start the server for jobs, if there are to be any. Where they were not asked for, they may be missing."""
        wanted = self._arguments.jobs
        if wanted == 0:
            return
        try:
            if missing := jobs.missing_packages():
                needs = "the extra `jobs` brings them"
                raise UpError(f"{', '.join(missing)}: not installed; {needs}")
            self._start_jobs_redis(folder)
        except UpError as error:
            if wanted or self._stopping.is_set():
                raise
            self._report.trouble(f"without background jobs: {error}")
            return
        self._jobs = wanted or 1

    def _start_jobs_redis(self, folder: Path) -> None:
        if url := _secret(jobs.STORE_URL, self._environment):
            if not embedded_redis.answers(url):
                raise UpError(
                    f"no Redis answers at {without_secrets(url)} ({jobs.STORE_URL}; without, one is started here)"
                )
            return
        self._jobs_folder = found = jobs.JobsFolder(self._environment)
        command, url = found.redis_command(folder)
        self._start("redis of jobs", command, log=found.log)
        self._wait_for(lambda: embedded_redis.answers(url), lambda: "the Redis of jobs did not start", must=True)
        self._environment |= {jobs.STORE_URL: url, jobs.FOLDER: str(found.path)}

    def _start_programs(self, url: str) -> None:
        options = self._arguments
        self._environment.pop("MILLRACE_REDIS_URL_FILE", None)  # it was read
        # By the environment, not by flags: a password in a URL does not belong where every user of the machine sees it.
        self._environment |= {
            "MILLRACE_REDIS_URL": url,
            "MILLRACE_LOG_LEVEL": options.log_level,
            "MILLRACE_SERVING_HOST": options.host,
            "MILLRACE_SERVING_PORT": str(options.port),
            "MILLRACE_SERVING_GRPC_PORT": str(options.grpc_port),
            "MILLRACE_SERVING_PROCESSES": str(self._sizes.apis),
            "MILLRACE_WORKER_MODELS": str(self._models),
            "MILLRACE_WORKER_DEVICE": options.device,
        }
        if options.allow_code:
            self._environment["MILLRACE_WORKER_ALLOW_CODE"] = "true"
            print("millrace: models may run Python code of their own (--allow-code)", file=sys.stderr, flush=True)
        if options.playground_assets:
            self._environment["MILLRACE_SERVING_PLAYGROUND_ASSETS"] = str(options.playground_assets)
        if isinstance(self._models, Path) and self._models.is_dir():
            self._environment.setdefault("MILLRACE_SERVING_MODELS", str(self._models))
        self._start("api", [*_PYTHON, "serving"])
        for number in range(1, self._sizes.workers + 1):
            self._start(f"worker {number}", [*_PYTHON, "worker"])
        if self._jobs and isinstance(self._models, Path) and self._models.is_dir():
            self._environment.setdefault("MILLRACE_JOBS_MODELS", str(self._models))
        for number in range(1, self._jobs + 1):
            self._start(f"jobs {number}", [*_PYTHON, "jobs"])

    def _start(self, name: str, command: list[str], log: Path | None = None) -> None:
        process = ChildProcess(name, partial(start_program, command, self._environment, log), log)
        self._processes.append(process)
        try:
            process.start(self._clock())
        except OSError as error:
            raise UpError(f"{name} could not be started: {error}") from None

    def _wait_until_ready(self, models: Mapping[str, Mapping[str, Any]]) -> None:
        started = self._clock()
        self._wait_for(lambda: states(self._api) is not None, lambda: "the API does not answer", must=True)
        if isinstance(self._models, str):
            self._wait_for(lambda: bool(states(self._api)), lambda: f"no model came from {self._models} yet")
            models = {name: {} for name in states(self._api) or {}}
        readiness = Readiness(models)

        def is_settled() -> bool:
            found = states(self._api)
            return found is not None and readiness.is_settled(found, self._clock())

        def why_not() -> str:
            return f"not loaded in time: {_listed(readiness.missing)}; run with --log-level info to see why"

        self._wait_for(is_settled, why_not)
        self._report.missing(readiness.missing)
        for name in readiness.available:
            if example := models[name]:
                self._wait_for_answer(name, example)
        if readiness.available:
            self._report.ready({name: models[name] for name in readiness.available}, self._clock() - started)
        elif self._arguments.strict:
            raise UpError("no model could be loaded; see the lines above")
        else:
            self._report.nothing_served()

    def _wait_for_answer(self, model: str, example: Mapping[str, Any]) -> None:
        """Return when the model has answered its example. One that does not is an error only where it is `--strict`."""
        try:
            self._wait_for(
                lambda: answers_example(self._api, model, example), lambda: f"model {model!r} did not answer"
            )
        except ExampleError as error:
            if self._arguments.strict:
                raise
            self._report.trouble(str(error))

    def _wait_for(self, condition: Callable[[], bool], failure: Callable[[], str], *, must: bool = False) -> None:
        """Return when the condition holds. Raises `UpError` when a process dies, or on `stop`.

        When it takes too long, that is an error where it `must` hold or all is `--strict`, and else it is said.
        """
        ends = self._clock() + _START_TIMEOUT_S
        while not condition():
            for process in self._processes:
                if process.end:
                    raise UpError(f"{process.name} {process.end} while starting: {process.last_words}")
            if self._clock() > ends:
                if must or self._arguments.strict:
                    raise UpError(failure())
                self._report.trouble(failure())
                return
            if self._stopping.wait(_START_PAUSE_S):
                raise UpError("stopped before it was ready")

    # Watching

    def _revive_the_dead(self) -> None:
        for process in self._processes:
            if news := process.revive(self._clock()):
                print(f"millrace: {news}", file=sys.stderr, flush=True)

    def _look_for_the_first(self) -> None:
        """Where no model was served yet: say which one is now, or what else is known of them."""
        if self._report.is_ready or self._clock() < self._next_look:
            return
        self._next_look = self._clock() + _LOOK_S
        readiness = Readiness(found := states(self._api) or {})
        readiness.is_settled(found, self._clock())
        self._report.missing({name: why for name, why in readiness.missing.items() if found[name].state == "END"})
        if readiness.available:
            models = self._served_models()
            self._report.ready({name: models.get(name, {}) for name in readiness.available})

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


def _secret(name: str, environ: Mapping[str, str]) -> str | None:
    try:
        return secret(name, environ)
    except SettingsError as error:
        raise UpError(str(error)) from None


def _listed(missing: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({why})" for name, why in missing.items())


def _local(host: str) -> str:
    """The host as a URL on this machine has it."""
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}[host]  # noqa: S104
    return f"[{host}]" if ":" in host else host


def main(argv: list[str] | None = None) -> int:
    """Run `millrace up`; returns the exit status."""
    arguments = options.parse(argv, os.environ)
    supervisor = Supervisor(arguments, os.environ)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # In a thread: a handler that sets an event may meet the main thread inside that event's lock.
        signal.signal(number, lambda *_: threading.Thread(target=supervisor.stop).start())
    try:
        supervisor.run()
    except UpError as error:
        print(f"millrace up: {error}", file=sys.stderr)
        return 1
    return 0
