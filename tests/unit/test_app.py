"""What the Flask application adds to every answer."""

import asyncio
import tracemalloc
from collections.abc import Iterator

import pytest
from flask.testing import FlaskClient

from millrace.broker.memory import MemoryBroker
from millrace.protocol.errors import InvalidRequest
from serving.routing import target
from serving.service import Service
from serving.settings import ServingSettings
from serving.web.app import create_app


@pytest.fixture(params=["", "*", "https://example.org"])
def service(request: pytest.FixtureRequest) -> Service:
    return Service(ServingSettings(cors_origin=request.param), MemoryBroker())


@pytest.fixture
def client(service: Service) -> Iterator[FlaskClient]:
    loop = asyncio.new_event_loop()
    yield create_app(service, loop).test_client()
    loop.close()


def test_pages_of_the_allowed_origin_alone_may_call(client: FlaskClient, service: Service) -> None:
    origin = service.settings.cors_origin or None
    for answer in (client.get("/v2"), client.get("/v1/nowhere"), client.get("/v2/models/nope")):
        assert answer.headers.get("Access-Control-Allow-Origin") == origin
    hot = dict(service.refused({}, InvalidRequest("no")).headers)
    assert hot.get("access-control-allow-origin") == origin


def test_a_preflight_is_answered_for_every_path_where_pages_may_call(client: FlaskClient, service: Service) -> None:
    for path in ("/v1/models/half_plus_two:predict", "/v2/models/simple/infer", "/v2/models/simple/config"):
        answer = client.options(path)
        if service.settings.cors_origin:
            assert (answer.status_code, answer.data) == (200, b"")
            assert answer.headers["Access-Control-Allow-Methods"] == "POST, GET"
            assert "Content-Type" in answer.headers["Access-Control-Allow-Headers"]
        else:
            assert "Access-Control-Allow-Methods" not in answer.headers


def test_long_paths_are_read_and_not_kept() -> None:
    tracemalloc.start()
    try:
        for number in range(200):
            found = target(f"/v1/models/{number:050000}:predict")
            assert found
            assert found.model == f"{number:050000}"
        found = None
        kept_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept_bytes < 1_000_000
