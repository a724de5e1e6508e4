"""Changes of models over HTTP, under our own server: refused by the head alone, recorded, and open on this machine."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop

from millrace.broker.memory import MemoryBroker
from millrace.protocol.messages import ModelAnnouncement, WorkerAnnouncement
from serving.api import Api
from serving.service import Service
from serving.settings import ServingSettings
from serving.transport.http_server import HttpServer
from tests.support.running import free_port


@asynccontextmanager
async def running(**settings: Any) -> AsyncIterator[int]:
    """The port of an API whose one worker has version 1 of model m, and does at once what it is asked for."""
    broker = MemoryBroker()
    service = Service(ServingSettings(port=free_port(), **settings), broker)
    await service.start()
    server = HttpServer(service.settings, Api(service), service.budget, 100)
    await server.start()

    async def obey() -> None:
        link = broker.worker()
        models = (ModelAnnouncement(name="m", version=1, state="AVAILABLE"),)
        while True:
            states = service.producer.desired_states.by_model
            done = {name: state.generation for name, state in states.items()}
            link.announce(WorkerAnnouncement(worker="w", expires_ms=2**60, models=models, generations=done))
            await asyncio.sleep(0.01)

    obeying = asyncio.ensure_future(obey())
    try:
        async with asyncio.timeout(10):
            while not service.is_ready:
                await asyncio.sleep(0.01)
        yield server.port
    finally:
        obeying.cancel()
        await server.stop(1.0)
        await service.stop(1.0)


async def ask(port: int, text: str) -> tuple[int, dict[str, str], dict[str, Any]]:
    """The answer to a head and what there is of its body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(text.replace("\n", "\r\n").encode())
    async with asyncio.timeout(10):
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()[:-1]
        headers = dict(line.lower().split(": ", 1) for line in lines[1:])
        body = await reader.readexactly(int(headers["content-length"]))
    writer.close()
    return int(lines[0].split()[1]), headers, json.loads(body or b"{}")


ROUTES = [
    "POST /v2/repository/models/m/load",
    "POST /v2/repository/models/m/unload",
    "POST //v2/repository/models/m/unload",
    "POST /v2/repository/models/%6d/unload",
    "PUT /v1/models/m/traffic",
    "PUT /v1/models/m/labels/stable",
    "DELETE /v1/models/m/labels/stable",
    "PUT /v1/models/m/policy",
    "DELETE /v1/models/m/policy",
]


@pytest.mark.parametrize("mode", ["loopback", "none"])
def test_a_page_is_refused_though_its_body_never_comes(mode: str, record: list[dict[str, str]]) -> None:
    async def test() -> None:
        async with running(model_control=mode, cors_origin="*") as port:
            simple = "Content-Type: text/plain\nContent-Length: 50000\n\n"
            for route in ROUTES:
                page = f"{route} HTTP/1.1\nHost: localhost:{port}\nOrigin: https://example.org\n{simple}"
                rebound = f"{route} HTTP/1.1\nHost: example.org:{port}\n{simple}"
                for request in (page, rebound):
                    status, headers, body = await ask(port, request)
                    assert status == 403
                    assert "model" in body["error"]
                    assert record[-1]["request_id"] == headers["x-request-id"]
                    assert (record[-1]["caller"], record[-1]["outcome"]) == ("127.0.0.1", "PERMISSION_DENIED")

    uvloop.run(test())
    assert len(record) == 2 * len(ROUTES)


def test_this_machine_changes_models_and_each_change_is_recorded(record: list[dict[str, str]]) -> None:
    async def test() -> None:
        async with running() as port:
            host = f"HTTP/1.1\nHost: localhost:{port}\nX-Request-Id: mine\n"
            label = '{"version": 1}'
            for request, status in (
                (f"PUT /v1/models/m/labels/stable {host}Content-Length: {len(label)}\n\n{label}", 200),
                (f"DELETE /v1/models/m/labels/stable {host}\n", 200),
                (f"POST /v2/repository/models/m/load {host}\n", 200),
                (f"POST /v2/repository/models/nobody/unload {host}\n", 400),
                (f"POST /v2/repository/models/m/nowhere {host}\n", 404),
            ):
                assert (await ask(port, request))[0] == status

    uvloop.run(test())
    shown = [(line["action"], line["model"], line["outcome"]) for line in record]
    assert shown == [
        ("label", "m", "OK"),
        ("remove label", "m", "OK"),
        ("load", "m", "OK"),
        ("unload", "nobody", "INVALID_ARGUMENT"),
    ]
    assert {(line["caller"], line["request_id"], line["protocol"]) for line in record} == {
        ("127.0.0.1", "mine", "http")
    }
    assert "stable" not in record[0]["old"]
    assert json.loads(record[0]["new"])["labels"] == json.loads(record[1]["old"])["labels"] == {"stable": 1}


def test_pages_read_what_cors_lets_them_and_change_nothing_by_it() -> None:
    async def test() -> None:
        async with running(cors_origin="https://example.org") as port:
            page = f"Host: localhost:{port}\nOrigin: https://example.org\nSec-Fetch-Site: cross-site\n"
            status, headers, _ = await ask(port, f"GET /v1/models/m/traffic HTTP/1.1\n{page}\n")
            assert (status, headers["access-control-allow-origin"]) == (200, "https://example.org")
            asked = "Access-Control-Request-Method: PUT\n"
            status, headers, _ = await ask(port, f"OPTIONS /v1/models/m/traffic HTTP/1.1\n{page}{asked}\n")
            assert "PUT" not in headers.get("access-control-allow-methods", "")
            override = "X-HTTP-Method-Override: DELETE\n"
            status, _, _ = await ask(port, f"GET /v1/models/m/policy HTTP/1.1\n{page}{override}\n")
            assert status in (400, 404, 405)

    uvloop.run(test())
