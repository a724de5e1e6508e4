"""Run background jobs: `python -m jobs`, or `millrace jobs-worker`."""

import os
import signal
import sys
from pathlib import Path

from jobs.program import Program
from jobs.settings import JobsSettings
from millrace import logs
from millrace.commandline import REDIS_URL_HELP, Parser
from millrace.settings import SettingsError, load


def main(argv: list[str] | None = None) -> int:
    """Run units of jobs until told to stop by SIGTERM or SIGINT; the unit at work is given back to others."""
    parser = Parser(
        prog="millrace jobs-worker",
        description="Run background jobs: score and evaluate whole files, in parts, with the models of running "
        "workers. `millrace up` starts one; `millrace jobs submit` gives it work.",
        examples=["MILLRACE_JOBS_REDIS_URL=redis://127.0.0.1:6380/0 millrace jobs-worker --folder /var/lib/millrace"],
    )
    parser.add_setting("--redis-url", JobsSettings, REDIS_URL_HELP)
    parser.add_setting("--store-url", JobsSettings, "the Redis that keeps jobs; a password belongs into the variable")
    parser.add_setting("--folder", JobsSettings, "where uploads, parts and results are", type=Path)
    parser.add_setting("--root", JobsSettings, "jobs may read and write files below this folder", type=Path)
    arguments = parser.parse_args(argv)
    try:
        settings = load(JobsSettings, os.environ, **vars(arguments))
        if settings.store_url is None:
            raise SettingsError("MILLRACE_JOBS_REDIS_URL: is not set; it names the Redis that keeps jobs")
        logs.configure("jobs", settings.log_level)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # until a worker listens
        Program(settings).run()
    except SettingsError as error:
        print(f"millrace jobs-worker: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
