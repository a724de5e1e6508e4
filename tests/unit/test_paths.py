"""Texts for callers name no path of the server."""

import asyncio
from pathlib import Path

import pytest

from millrace.broker.memory import MemoryBroker
from millrace.protocol.errors import NoWorker, from_wire
from millrace.protocol.messages import ModelAnnouncement, WorkerAnnouncement
from millrace.protocol.paths import without_paths
from serving.models.model_control import ModelControl
from serving.models.registry import ModelRegistry
from serving.service import Service
from serving.settings import ServingSettings
from serving.web.app import create_app


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Load model from /srv/models/m/1/model.onnx failed", "Load model from model.onnx failed"),
        (
            "/srv/models/m holds no version: <model>/<number>/ is wanted",
            "m holds no version: <model>/<number>/ is wanted",
        ),
        ("base_path '/etc' is outside of /srv/models", "base_path 'etc' is outside of models"),
        ('File "/usr/lib/my python/a.py", line 3', 'File "a.py", line 3'),
        ("no '/srv/my models/m 2/model.onnx'", "no 'model.onnx'"),
        ("(/srv/a/b)", "(b)"),
        ("open=/srv/a/b, [/srv/c]", "open=b, [c]"),
        ("file:///srv/a/b", "b"),
        ("cannot read /srv/models/", "cannot read models/"),
        (
            "see https://example.org/a/b, docs/reference/settings.md",
            "see https://example.org/a/b, docs/reference/settings.md",
        ),
        ("1/2 of N/A and and/or", "1/2 of N/A and and/or"),
        ("<number>/ and -1/x", "<number>/ and -1/x"),
        ("/", "/"),
    ],
)
def test_only_a_files_name_is_left_of_its_path(text: str, left: str) -> None:
    assert without_paths(text) == left


def test_a_workers_error_is_cut_when_it_comes_in() -> None:
    assert str(from_wire("INTERNAL", "cannot open /srv/models/m/1/model.onnx")) == "cannot open model.onnx"


def test_nothing_that_callers_read_of_a_model_names_a_path_of_its_worker() -> None:
    path = "/srv/secret/models/m/1/model.onnx"
    broken = ModelAnnouncement(
        name="m",
        version=1,
        state="END",
        error=f"Load model from {path} failed",
        description=f"made of {path}",
        notes=(f"from {path}",),
    )
    workers = [WorkerAnnouncement(worker="w", expires_ms=2**60, models=(broken,))]
    service = Service(ServingSettings(), MemoryBroker())
    service.models = ModelRegistry(lambda: workers)
    service.repository = ModelControl(service.producer, service.models, service.settings)
    loop = asyncio.new_event_loop()
    client = create_app(service, loop).test_client()
    answers = [client.get(path) for path in ("/v1/models", "/v1/models/m", "/v2/models/m", "/v2/models/m/config")]
    answers += [client.post("/v2/repository/index"), client.get("/openapi.json"), client.get("/docs")]
    texts = [answer.text for answer in answers]
    with pytest.raises(NoWorker) as caught:
        service.models.find("m")
    texts.append(str(caught.value))
    assert "Load model from model.onnx failed" in texts[0]
    assert "Load model from model.onnx failed" in texts[-1]
    for text in texts:
        assert "secret" not in text
        assert str(Path.cwd()) not in text
    loop.close()
