"""Run the API: `python -m serving`, or `millrace serve`."""

import os
import sys

import uvloop

from millrace.commandline import REDIS_URL_HELP, Parser
from millrace.jobs.settings import JobStoreSettings
from millrace.listening import check_port
from millrace.settings import SettingsError, load
from serving.settings import ServingSettings


def main(argv: list[str] | None = None) -> int:
    """Serve until told to stop by SIGTERM or SIGINT; requests in flight are answered first."""
    parser = Parser(prog="millrace serve", description="Run the API.")
    parser.add_argument("--host", help="the address to listen on")
    parser.add_argument("--port", type=int, help="the HTTP port")
    parser.add_argument("--grpc-port", type=int, help="the gRPC port; 0 switches gRPC off")
    parser.add_argument("--redis-url", help=REDIS_URL_HELP)
    arguments = parser.parse_args(argv)
    try:
        settings = load(ServingSettings, os.environ, **vars(arguments))
        jobs = load(JobStoreSettings, os.environ)
        check_port(settings.host, settings.port)
        if settings.grpc_port:
            check_port(settings.host, settings.grpc_port, "--grpc-port")
    except (SettingsError, OSError) as error:
        print(f"millrace serve: {error}", file=sys.stderr)
        return 2
    from serving.api import serve

    uvloop.run(serve(settings, jobs))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
