"""Run the API under Granian: `python -m serving`, or `millrace serve`."""

import argparse
import os
import sys
from functools import partial
from typing import Any

from granian import Granian
from granian.constants import Interfaces

from millrace.listening import check_port
from millrace.settings import SettingsError, load
from serving.asgi import build
from serving.settings import ServingSettings


def main(argv: list[str] | None = None) -> int:
    """Serve until told to stop by SIGTERM or SIGINT; requests in flight are answered first."""
    parser = argparse.ArgumentParser(prog="millrace serve", description="Run the API.")
    parser.add_argument("--host", help="the address to listen on")
    parser.add_argument("--port", type=int, help="the HTTP port")
    parser.add_argument("--redis-url", help="where the queue is")
    arguments = parser.parse_args(argv)
    try:
        settings = load(ServingSettings, os.environ, **vars(arguments))
        check_port(settings.host, settings.port)
    except (SettingsError, OSError) as error:
        print(f"millrace serve: {error}", file=sys.stderr)
        return 2
    server = Granian(
        "serving.asgi:build",
        address=settings.host,
        port=settings.port,
        interface=Interfaces.ASGI,
        websockets=False,
        log_enabled=False,
        workers_kill_timeout=int(settings.drain_timeout_s) + 1,
    )
    server.serve(target_loader=partial(_load, settings))
    return 0


def _load(settings: ServingSettings, _target: str) -> Any:
    return build(settings)


if __name__ == "__main__":
    raise SystemExit(main())
