"""The paced server as a process, for the tests of the load generator."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.running import ROOT, ended, free_port, until


@contextmanager
def paced_server(*arguments: str) -> Iterator[str]:
    """The URL of `paced_server.py`, which runs with these arguments."""
    port = free_port()
    command = [sys.executable, str(ROOT / "tests/support/paced_server.py"), str(port), *arguments]

    def listens() -> bool:
        with socket.socket() as caller:
            return caller.connect_ex(("127.0.0.1", port)) == 0

    with ended(subprocess.Popen(command)):
        until(listens, what="the paced server")
        yield f"http://127.0.0.1:{port}"
