"""What integration tests share."""

from collections.abc import Iterator

import pytest

from tests.support.processes import Api
from tests.support.running import RedisServer


@pytest.fixture
def api(redis_server: RedisServer) -> Iterator[Api]:
    """Asks models as the API does, without HTTP."""
    api = Api(redis_server.url)
    yield api
    api.stop()
