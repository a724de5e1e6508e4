"""The OpenAPI document names the routes that the application has, and no others."""

import re
from collections.abc import Iterator

import pytest
from flask import Flask
from flask.testing import FlaskClient

from millrace.broker.memory import MemoryBroker
from serving.routing import target
from serving.service import Service
from serving.settings import ServingSettings
from serving.web import openapi
from serving.web.wsgi import run

_EXAMPLES = {
    **{"model": "digits", "version": "1", "label": "stable", "job": "mine"},
    **{"plot": "calibration.png", "file": "main.js"},
}


@pytest.fixture
def app() -> Iterator[Flask]:
    made, stop = run(Service(ServingSettings(), MemoryBroker()))
    yield made
    stop()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


def _filled(path: str) -> str:
    return re.sub(r"\{(\w+)\}", lambda match: _EXAMPLES[match[1]], path)


def test_every_route_is_in_the_document_and_every_operation_has_a_route(app: Flask) -> None:
    routes = app.url_map.bind("localhost")
    served = {
        (rule.endpoint, method)
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    described = set()
    for operation in openapi.OPERATIONS:
        rule, _ = routes.match(_filled(operation.path), operation.method, return_rule=True)
        described.add((rule.endpoint, operation.method))
    assert described == served


def test_what_goes_to_one_route_by_its_ending_is_told_apart_in_the_document(client: FlaskClient) -> None:
    for operation in openapi.OPERATIONS:
        path = _filled(operation.path)
        if operation.method == "POST" and target(path):
            continue  # a hot verb
        answer = client.open(path, method=operation.method)
        assert "Malformed request" not in answer.text, path
        assert answer.text != '{"error":"Not Found"}', path


def test_all_hot_verbs_are_described_wherever_they_answer() -> None:
    hot = {operation.path for operation in openapi.OPERATIONS if target(_filled(operation.path))}
    assert hot == {
        *(
            f"/v1/models/{{model}}{version}:{verb}"
            for version in ("", "/versions/{version}", "/labels/{label}")
            for verb in ("predict", "classify", "regress")
        ),
        "/v2/models/{model}/infer",
        "/v2/models/{model}/versions/{version}/infer",
    }


def test_the_document_is_served_as_json_and_as_a_page_that_loads_nothing_from_elsewhere(client: FlaskClient) -> None:
    document = client.get("/openapi.json").get_json()
    assert document == openapi.document()
    page = client.get("/docs")
    assert page.content_type == "text/html; charset=utf-8"
    for path in document["paths"]:
        assert f"<code>{path}</code>" in page.text
    for name in document["components"]["schemas"]:
        assert f'id="{name}"' in page.text
    assert not re.search(r"(src|href)=\"?(https?:)?//|@import|url\(", page.text)


def test_every_error_says_what_it_means() -> None:
    assert all(answer["description"] for answer in openapi.document()["components"]["responses"].values())
