"""An API whose callers need keys, with all its servers in this process and a worker in memory: `y` is twice `x`."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import grpc.aio
import httpx
from flask import Flask
from flask.testing import FlaskClient

from millrace import rpc
from millrace.broker.base import Reply
from millrace.broker.keys import Queue
from millrace.broker.memory import MemoryBroker
from millrace.jobs.settings import JobStoreSettings
from millrace.protocol import codec
from millrace.protocol.messages import ModelAnnouncement, ReplyBlock, ReplyItem, WorkerAnnouncement
from millrace.protocol.tensors import Signature, Tensor, TensorSpec
from serving.access.key_file import StoredKey, new_key, write_keys
from serving.api import Api, servers_of
from serving.protocols.grpc_services import GrpcServices
from serving.service import Service
from serving.settings import ServingSettings
from serving.web.app import create_app
from tests.support.running import free_port

MODELS = ("m", "other")
OIP, TFS = "/inference.GRPCInferenceService/", "/tensorflow.serving."
_BODY = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1.0]}]}
_SIGNATURE = Signature(
    inputs=(TensorSpec(name="x", datatype="FP32", shape=(-1,)),),
    outputs=(TensorSpec(name="y", datatype="FP32", shape=(-1,)),),
)
_HTTP_STATUS = {
    grpc.StatusCode.OK: 200,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
}


class Answer(NamedTuple):
    """What came back, over gRPC with the HTTP status that says the same; header names are in lower case."""

    status: int
    text: str
    headers: Mapping[str, str]


class Keyed:
    """The servers, a file of keys, and callers of each protocol."""

    def __init__(
        self, folder: Path, broker: MemoryBroker, jobs: JobStoreSettings | None, settings: dict[str, Any]
    ) -> None:
        self.file = folder / "keys.json"
        if not self.file.exists():
            write_keys(self.file, [])
        self.settings = ServingSettings(port=free_port(), grpc_port=free_port(), keys_file=self.file, **settings)
        self.broker = broker
        self.service = Service(self.settings, broker, jobs)
        assert self.service.gate
        self.gate = self.service.gate
        self.api = Api(self.service)
        self._stopping = asyncio.Event()
        self._servers = servers_of(self.service, self.api, self._stopping, 100)
        self._loop = asyncio.get_running_loop()
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{self.settings.grpc_port}")
        self.client = httpx.AsyncClient(base_url=f"http://localhost:{self.settings.port}", timeout=10)
        self.works = True
        self._stored: list[StoredKey] = []

    @property
    def grpc_methods(self) -> Collection[str]:
        """The paths of all methods of gRPC."""
        return GrpcServices(self.service, self._stopping, 1).methods.keys()

    async def start(self) -> None:
        """Listen."""
        for server in self._servers:
            await server.start()

    async def stop(self) -> None:
        """Answer what came, and stop."""
        self._stopping.set()
        await asyncio.gather(*(server.stop(1.0) for server in self._servers))

    @cached_property
    def app(self) -> Flask:
        """The application as a WSGI server has it."""
        return create_app(self.service, self._loop)

    def add(self, name: str, *roles: Any, **more: Any) -> str:
        """A new key."""
        key, digest = new_key()
        self._stored.append(StoredKey(name=name, roles=roles, sha256=digest, **more))
        self.write()
        return key

    def remove(self, name: str) -> None:
        self._stored = [key for key in self._stored if key.name != name]
        self.write()

    def write(self) -> None:
        write_keys(self.file, self._stored)
        self.look()

    def look(self) -> None:
        """Take what the file says now."""
        self.gate.files.look()

    async def work(self) -> None:
        """Be the worker of all models, while the test lets it."""
        models = tuple(
            ModelAnnouncement(
                name=name, version=1, state="AVAILABLE", signatures={"serving_default": _SIGNATURE}, max_batch_size=8
            )
            for name in MODELS
        )
        links = [self.broker.consumer(Queue(name, 1), "c") for name in MODELS]
        worker = self.broker.worker()
        while True:
            states = self.service.producer.desired_states.by_model
            done = {name: state.generation for name, state in states.items()}
            worker.announce(WorkerAnnouncement(worker="w", expires_ms=2**60, models=models, generations=done))
            for link in links if self.works else []:
                for delivery in link.exchange([], [], count=100, block_ms=0):
                    block = codec.decode_request(delivery.block)
                    values = block.tensors["x"].to_numpy()
                    items = tuple(ReplyItem(item.id, item.rows, 0.0, 0.0) for item in block.items)
                    outputs = {"y": Tensor.from_numpy(values * 2)}
                    reply = ReplyBlock(worker="w", compute_ms=1.0, batch_rows=len(values), items=items, tensors=outputs)
                    link.exchange([Reply(block.reply_to, codec.encode_reply(reply))], [delivery], count=0, block_ms=0)
            await asyncio.sleep(0.002)

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.005)

    # Callers

    async def over_http(self, method: str, path: str, headers: Mapping[str, str], body: Any = None) -> Answer:
        content = None if body is None else json.dumps(body)
        response = await self.client.request(method, path, headers=dict(headers), content=content)
        return Answer(response.status_code, response.text, response.headers)

    async def over_wsgi(self, method: str, path: str, headers: Mapping[str, str], body: Any = None) -> Answer:
        client: FlaskClient = self.app.test_client()
        data = None if body is None else json.dumps(body)
        found = await asyncio.to_thread(client.open, path, method=method, headers=dict(headers), data=data)
        return Answer(found.status_code, found.text, {name.lower(): value for name, value in found.headers.items()})

    async def over_grpc(self, path: str, message: Any, headers: Mapping[str, str]) -> Answer:
        metadata = tuple((name.lower(), value) for name, value in headers.items())
        call = self.channel.unary_unary(path)(message.SerializeToString(), metadata=metadata, timeout=10)
        try:
            code, trailing = await call.code(), await call.trailing_metadata()
        except asyncio.CancelledError:
            call.cancel()
            raise
        return Answer(_HTTP_STATUS.get(code, 500), await call.details() or "", dict(trailing or ()))

    async def infer(self, protocol: str, headers: Mapping[str, str], model: str = "m") -> Answer:
        """Ask a model over one of `PROTOCOLS`."""
        if protocol == "gRPC":
            message = rpc.message("inference.ModelInferRequest")(model_name=model)
            message.inputs.add(name="x", datatype="FP32", shape=[1])
            message.raw_input_contents.append(b"\0\0\x80\x3f")
            return await self.over_grpc(f"{OIP}ModelInfer", message, headers)
        ask = self.over_wsgi if protocol == "WSGI" else self.over_http
        return await ask("POST", f"/v2/models/{model}/infer", headers, _BODY)


PROTOCOLS = ("HTTP", "gRPC", "WSGI")


@asynccontextmanager
async def keyed(
    folder: Path, broker: MemoryBroker | None = None, jobs: JobStoreSettings | None = None, **settings: Any
) -> AsyncIterator[Keyed]:
    """A running API with a file of keys, empty at first. Several that share a broker share its queue."""
    bench = Keyed(folder, broker or MemoryBroker(), jobs, {"drain_timeout_s": 1.0, "offload_processes": 0, **settings})
    working = asyncio.create_task(bench.work())
    await asyncio.sleep(0)  # it has announced itself then
    await bench.service.start()
    await bench.start()
    try:
        await bench.until(lambda: bench.service.is_ready)
        yield bench
    finally:
        await bench.client.aclose()
        await bench.channel.close()
        bench.works = True
        await bench.stop()
        await bench.service.stop(1.0)
        working.cancel()
