"""TLS in front of a Redis, with a CA of the tests' own: the embedded Redis is built without it."""

import asyncio
import contextlib
import ssl
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.running import RedisServer, until


@dataclass
class Certificates:
    """A CA and what it signed: a server on 127.0.0.1, a server of another name, and a client."""

    folder: Path

    def make(self) -> None:
        new = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
        self._run(f"req -x509 {new} -days 2 -subj /CN=ca -keyout ca.key -out ca.crt")
        for name, where in (("server", "IP:127.0.0.1"), ("stranger", "DNS:elsewhere"), ("client", "DNS:client")):
            self._run(f"req {new} -subj /CN={name} -keyout {name}.key -out {name}.csr")
            (self.folder / "names").write_text(f"subjectAltName={where}\n")
            signed = f"-in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out {name}.crt"
            self._run(f"x509 -req -days 2 -extfile names {signed}")

    def encrypt(self, name: str) -> str:
        """A copy of a key that needs a password."""
        self._run(f"pkey -in {name} -aes256 -passout pass:secret -out encrypted-{name}")
        return f"encrypted-{name}"

    def _run(self, arguments: str) -> None:
        subprocess.run(["openssl", *arguments.split()], cwd=self.folder, check=True, capture_output=True)

    def file(self, name: str) -> str:
        return str(self.folder / name)


@contextlib.contextmanager
def tls_in_front_of(server: RedisServer, certificates: Certificates, name: str, *, asks: bool) -> Iterator[int]:
    """The port where TLS is taken off before the Redis; `asks` for a client's certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certificates.file("ca.crt"))
    context.load_cert_chain(certificates.file(f"{name}.crt"), certificates.file(f"{name}.key"))
    context.verify_mode = ssl.CERT_REQUIRED if asks else ssl.CERT_NONE
    ports: list[int] = []
    stopping = asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                target.write(data)
                await target.drain()
        target.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_unix_connection(server.path)
        await asyncio.gather(copy(reader, there_writer), copy(there_reader, writer))

    async def run() -> None:
        loops.append(asyncio.get_running_loop())
        async with await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context) as listening:
            ports.append(listening.sockets[0].getsockname()[1])
            await stopping.wait()

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    until(lambda: ports)
    try:
        yield ports[0]
    finally:
        loops[0].call_soon_threadsafe(stopping.set)
        thread.join()
