"""The running stack, once for all acceptance tests that do not break it."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from werkzeug.serving import make_server

from millrace.broker.redis import RedisBroker
from serving.service import Service
from serving.settings import ServingSettings
from serving.web import wsgi
from tests.support.running import ROOT, RedisServer, Stack, start_up


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """`millrace up` with the bundled models, on a Redis that other API processes can join."""
    server = RedisServer(tmp_path_factory.mktemp("stack") / "redis.sock")
    server.start()
    running = start_up("--redis-url", server.url)
    assert running.process.poll() is None, running.output
    running.redis_url = server.url
    yield running
    status = running.stop()
    server.kill()
    assert status == 0, running.output
    running.log.unlink()


@pytest.fixture(scope="session")
def wsgi_url(stack: Stack) -> Iterator[str]:
    """The same API as a plain WSGI application, on the stack's queue and workers."""
    settings = ServingSettings(redis_url=stack.redis_url)
    app, stop = wsgi.run(Service(settings, RedisBroker(settings.redis_url)))
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.port}"
    server.shutdown()
    thread.join()
    server.server_close()
    stop()


@pytest.fixture(params=["own", "wsgi"])
def api(request: pytest.FixtureRequest, stack: Stack) -> str:
    """Where the API answers, under our own server and under a WSGI server in turn."""
    return stack.url if request.param == "own" else str(request.getfixturevalue("wsgi_url"))


@pytest.fixture(scope="session")
def examples() -> Path:
    """The folder of example requests."""
    return ROOT / "examples"
