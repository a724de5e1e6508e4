"""Run the API: `python -m serving`, or `millrace serve`."""

import argparse
import os
import sys

import uvloop

from millrace import logs
from millrace.commandline import REDIS_URL_HELP, Parser
from millrace.jobs.settings import JobStoreSettings
from millrace.listening import check_port
from millrace.machine import fitting_apis, usable_cores, usable_memory
from millrace.settings import SettingsError, load
from serving.processes.group import run_group
from serving.processes.member import Member, member_of
from serving.settings import ServingSettings


def main(argv: list[str] | None = None) -> int:
    """Serve until told to stop by SIGTERM or SIGINT; requests in flight are answered first."""
    parser = Parser(prog="millrace serve", description="Run the API.")
    parser.add_argument("--host", help="the address to listen on")
    parser.add_argument("--port", type=int, help="the HTTP port")
    parser.add_argument("--grpc-port", type=int, help="the gRPC port; 0 switches gRPC off")
    parser.add_argument("--processes", type=int, help="API processes that share the ports; 0 for as many as fit")
    parser.add_argument("--redis-url", help=REDIS_URL_HELP)
    parser.add_argument("--member", type=member_of, help=argparse.SUPPRESS)  # one of several, started by the first
    given = sys.argv[1:] if argv is None else argv
    arguments = vars(parser.parse_args(given))
    member = arguments.pop("member")
    try:
        settings = _fitted(load(ServingSettings, os.environ, **arguments), member)
        jobs = load(JobStoreSettings, os.environ)
        if not member:
            _check_ports(settings)
            if settings.processes > 1:
                logs.configure("serving", settings.log_level)
                return run_group(settings, given, os.environ)
    except (SettingsError, OSError) as error:
        print(f"millrace serve: {error}", file=sys.stderr)
        return 2
    # What gRPC's own library has to say comes as lines of no form, as many as callers like; our log has what matters.
    # It looks when it is imported.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from serving.api import serve

    uvloop.run(serve(settings, jobs, member))
    return 0


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
