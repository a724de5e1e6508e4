"""Run a worker: `python -m worker --device cpu|cuda|cuda:1`, or `millrace work`."""

import logging
import os
import signal
import sys
import threading
from functools import partial

from millrace import logs
from millrace.artifacts.configs import ConfigError
from millrace.artifacts.repository import RepositoryError
from millrace.broker.redis import RedisBroker
from millrace.commandline import REDIS_URL_HELP, Parser, device
from millrace.devices import DEVICE_HELP
from millrace.settings import SettingsError, load
from worker.backends import FORMATS
from worker.metrics import served_metrics
from worker.mirroring.cache import CacheError
from worker.mirroring.following import StoreFollower
from worker.process import Worker
from worker.processes.host import MODULES, ModelProcesses
from worker.processes.starter import ProcessStarter
from worker.settings import WorkerSettings

_log = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> int:
    """Serve until told to stop by SIGTERM or SIGINT; batches in hand are finished first."""
    parser = Parser(
        prog="millrace work",
        description="Run a worker: it loads the models of a repository, takes requests from the queue in Redis, runs "
        "them in batches, and replies. Any number of workers may share a queue.",
        examples=[
            "millrace work --models models --redis-url redis://127.0.0.1:6379/0",
            "millrace work --models models --device cuda",
        ],
    )
    parser.add_setting("--models", WorkerSettings, "the model repository: a folder, or the URL of a store")
    parser.add_setting("--redis-url", WorkerSettings, REDIS_URL_HELP)
    parser.add_setting("--device", WorkerSettings, DEVICE_HELP, type=device)
    parser.add_setting("--backend", WorkerSettings, "the format to load", choices=["auto", *FORMATS])
    parser.add_setting("--instances", WorkerSettings, "threads per model", type=int)
    code_help = "let models be Python code, which can do all that this program's user can"
    parser.add_setting("--allow-code", WorkerSettings, code_help, action="store_true")
    arguments = parser.parse_args(argv)
    try:
        settings = load(WorkerSettings, os.environ, **vars(arguments))
        logs.configure("worker", settings.log_level)
        if settings.allow_code:
            _log.warning("models may run Python code of their own (allow_code)")
        broker = RedisBroker(settings.redis_url)
        starter = ProcessStarter.forked(MODULES)  # first of all, for nothing has started a thread yet
        follower = StoreFollower(settings) if isinstance(settings.models, str) else None
        if follower:
            settings = settings.model_copy(update={"models": follower.folder})
        worker = Worker(
            settings, broker, partial(ModelProcesses, settings, broker, environ=os.environ, starter=starter)
        )
        if follower:
            follower.start(worker.versions_in_use)
        for number in (signal.SIGTERM, signal.SIGINT):
            # In a thread: a handler that sets an event may meet the main thread inside that event's lock.
            signal.signal(number, lambda *_: threading.Thread(target=worker.stop).start())
        with served_metrics(settings, worker.id, worker.usage):
            worker.run()
    except (SettingsError, RepositoryError, ConfigError, CacheError) as error:
        print(f"millrace work: {error}", file=sys.stderr)
        return 2
    return 1 if worker.has_failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
