"""Run a worker: `python -m worker --device cpu|cuda|cuda:1`, or `millrace work`."""

import logging
import os
import signal
import sys
import threading
from functools import partial
from pathlib import Path

from millrace import logs
from millrace.artifacts.configs import ConfigError
from millrace.artifacts.repository import RepositoryError
from millrace.broker.redis import RedisBroker
from millrace.commandline import REDIS_URL_HELP, Parser, device
from millrace.devices import DEVICE_HELP
from millrace.settings import SettingsError, load
from worker.backends import FORMATS
from worker.process import Worker
from worker.processes.host import MODULES, ModelProcesses
from worker.processes.starter import ProcessStarter
from worker.settings import WorkerSettings

_log = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> int:
    """Serve until told to stop by SIGTERM or SIGINT; batches in hand are finished first."""
    parser = Parser(prog="millrace work", description="Run a worker.")
    parser.add_argument("--models", type=Path, help="the model repository")
    parser.add_argument("--redis-url", help=REDIS_URL_HELP)
    parser.add_argument("--device", type=device, help=DEVICE_HELP)
    parser.add_argument("--backend", choices=["auto", *FORMATS], help="the format to load")
    parser.add_argument("--instances", type=int, help="threads per model")
    code_help = "let models be Python code, which can do all that this program's user can"
    parser.add_argument("--allow-code", action="store_true", default=None, help=code_help)
    arguments = parser.parse_args(argv)
    try:
        settings = load(WorkerSettings, os.environ, **vars(arguments))
        logs.configure("worker", settings.log_level)
        if settings.allow_code:
            _log.warning("models may run Python code of their own (allow_code)")
        broker = RedisBroker(settings.redis_url)
        starter = ProcessStarter.forked(MODULES)  # first of all, for nothing has started a thread yet
        worker = Worker(
            settings, broker, partial(ModelProcesses, settings, broker, environ=os.environ, starter=starter)
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            # In a thread: a handler that sets an event may meet the main thread inside that event's lock.
            signal.signal(number, lambda *_: threading.Thread(target=worker.stop).start())
        worker.run()
    except (SettingsError, RepositoryError, ConfigError) as error:
        print(f"millrace work: {error}", file=sys.stderr)
        return 2
    return 1 if worker.has_failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
