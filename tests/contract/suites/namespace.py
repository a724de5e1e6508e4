"""Runs a command beside a stack of its own on ports 8000 and 8001, in a network namespace that has nothing else.

    unshare --net python -m tests.contract.suites.namespace MODELS FOLDER LOG COMMAND…

The command runs in the folder; its exit status is this program's. What the stack says goes to the file LOG.
"""

import fcntl
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

from tests.support.running import start_up

_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1


def bring_loopback_up() -> None:
    """A new namespace has its loopback interface down."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        asked = struct.pack("16sH22x", b"lo", 0)
        (flags,) = struct.unpack_from("H", fcntl.ioctl(probe, _SIOCGIFFLAGS, asked), 16)
        fcntl.ioctl(probe, _SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", flags | _IFF_UP))


def main(models: str, folder: str, log: str, *command: str) -> int:
    """Run it; the command's exit status."""
    bring_loopback_up()
    stack = start_up("--models", models, "--grpc-port", "8001", port=8000)
    try:
        theirs = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        return subprocess.run(command, cwd=folder, env=theirs, check=False).returncode
    finally:
        stack.stop()
        Path(log).write_text(stack.output)
        stack.log.unlink()


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
