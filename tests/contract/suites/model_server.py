"""Stands in for the program `tensorflow_model_server`: takes its flags, and runs this stack with what they say.

TensorFlow Serving's own test of its server starts it so. What has no effect here is passed over. As there, the ports
are there when the models are: until then the stack has others, to which a second process leads the asked ones.
"""

import argparse
import asyncio
import contextlib
import os
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.support.running import free_port

_Connect = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def main() -> None:
    """Become `millrace up`."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for flag in ("port", "rest_api_port", "model_name", "model_base_path", "model_config_file"):
        parser.add_argument(f"--{flag}", default="")
    asked, _ = parser.parse_known_args()
    folder = Path(tempfile.mkdtemp(prefix="model-server-"))
    config = asked.model_config_file
    if not config:
        written = folder / "models.config"
        written.write_text(
            f'model_config_list {{ config {{ name: "{asked.model_name}" base_path: "{asked.model_base_path}" }} }}'
        )
        config = str(written)
    os.environ["MILLRACE_WORKER_MODELS_CONFIG"] = config
    grpc, rest = free_port(), free_port()
    if not os.fork():
        asyncio.run(_forward({int(asked.port): grpc, int(asked.rest_api_port): rest}, rest, os.getppid()))
        return
    command = [sys.executable, "-m", "millrace", "up", "--models", str(folder)]
    os.execv(sys.executable, [*command, "--port", str(rest), "--grpc-port", str(grpc)])


async def _forward(ports: dict[int, int], rest: int, parent: int) -> None:
    """Lead each port to another once the stack is ready, until it has ended."""
    while os.getppid() == parent and not await asyncio.to_thread(_is_ready, rest):
        await asyncio.sleep(0.1)
    servers = [await asyncio.start_server(_to(there), "127.0.0.1", here) for here, there in ports.items()]
    while os.getppid() == parent:
        await asyncio.sleep(0.2)
    for server in servers:
        server.close()
    os._exit(0)


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _to(port: int) -> _Connect:
    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(_copy(reader, back), _copy(there, writer))

    return connect


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()


main()
