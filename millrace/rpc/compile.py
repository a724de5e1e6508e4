"""Compile the `.proto` files into `descriptors.binpb`: `python -m millrace.rpc.compile`. Needs grpcio-tools."""

import subprocess
import sys
from pathlib import Path

from millrace.rpc import DESCRIPTORS, FOLDER


def compile_into(target: Path) -> None:
    """Write the descriptor set of all the sources, with what they import.

    Raises `CalledProcessError` where one is wrong; what is wrong is printed then. protoc runs as a process of its own:
    in one that has loaded other libraries with a protobuf inside it may crash.
    """
    sources = sorted(path.name for path in FOLDER.glob("*.proto"))
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{FOLDER}", "--include_imports"]
    subprocess.run([*command, f"--descriptor_set_out={target}", *sources], check=True)  # noqa: S603 - our own sources


if __name__ == "__main__":
    compile_into(DESCRIPTORS)
