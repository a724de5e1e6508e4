"""Run the API: `python -m serving`, or `millrace serve`."""

import argparse
import logging
import os
import sys
from typing import TYPE_CHECKING

import uvloop

from millrace import logs
from millrace.commandline import REDIS_URL_HELP, Parser
from millrace.installing import hint
from millrace.jobs.settings import JobStoreSettings
from millrace.listening import check_port
from millrace.machine import fitting_apis, usable_cores, usable_memory
from millrace.settings import SettingsError, load
from serving.processes.group import run_group
from serving.processes.member import Member, member_of
from serving.settings import ServingSettings

if TYPE_CHECKING:
    from serving.tracing.tracer import Tracer

_log = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> int:
    """Serve until told to stop by SIGTERM or SIGINT; requests in flight are answered first."""
    parser = Parser(
        prog="millrace serve",
        description="Run the API: it takes requests over HTTP and gRPC, puts them into the queue in Redis, and answers "
        "when a worker has replied. Start workers with `millrace work`.",
        examples=[
            "millrace serve --redis-url redis://127.0.0.1:6379/0",
            "MILLRACE_REDIS_URL=redis://queue:6379/0 millrace serve --host 0.0.0.0 --grpc-port 0",
        ],
    )
    parser.add_setting("--host", ServingSettings, "the address to listen on")
    parser.add_setting("--port", ServingSettings, "the HTTP port", type=int)
    parser.add_setting("--grpc-port", ServingSettings, "the gRPC port; 0 switches gRPC off", type=int)
    parser.add_setting(
        "--processes", ServingSettings, "API processes that share the ports; 0 for as many as fit", type=int
    )
    parser.add_setting("--redis-url", ServingSettings, REDIS_URL_HELP)
    parser.add_argument("--member", type=member_of, help=argparse.SUPPRESS)  # one of several, started by the first
    given = sys.argv[1:] if argv is None else argv
    arguments = vars(parser.parse_args(given))
    member = arguments.pop("member")
    try:
        settings = _fitted(load(ServingSettings, os.environ, **arguments), member)
        jobs = load(JobStoreSettings, os.environ)
        logs.configure("serving", settings.log_level, process=member.number if member else 0)
        if not member:
            _check_ports(settings)
            if settings.processes > 1:
                return run_group(settings, given, os.environ)
    except (SettingsError, OSError) as error:
        print(f"millrace serve: {error}", file=sys.stderr)
        return 2
    from serving.access.key_file import KeyFileError
    from serving.api import serve
    from serving.tracing.errors import TracingError
    from serving.transport.certificates import CertificateError

    try:
        uvloop.run(serve(settings, jobs, member, _tracer()))
    except (CertificateError, KeyFileError, TracingError) as error:
        print(f"millrace serve: {error}", file=sys.stderr)
        return 2
    return 0


def _tracer() -> "Tracer | None":
    """What traces requests, if it is asked for. Raises `TracingError`."""
    from serving.tracing.tracer import tracer_of

    try:
        return tracer_of(os.environ)
    except ModuleNotFoundError as error:
        _log.error(f"requests are not traced; {hint(['tracing'])}", extra={"reason": str(error)})
        return None


def _fitted(settings: ServingSettings, member: Member | None) -> ServingSettings:
    """The settings with as many processes as there are, or as fit the machine where nobody says how many."""
    processes = member.count if member else settings.processes or fitting_apis(usable_cores(), usable_memory())
    return settings.model_copy(update={"processes": processes})


def _check_ports(settings: ServingSettings) -> None:
    """Raises `OSError` where a port cannot be had."""
    check_port(settings.host, settings.port)
    if settings.grpc_port:
        check_port(settings.host, settings.grpc_port, "--grpc-port")


if __name__ == "__main__":
    raise SystemExit(main())
