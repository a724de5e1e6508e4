"""The memory of what was refused is back when the answers are out, for every kind of refusal."""

import contextlib
import gzip
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest

from tests.acceptance.test_neighbours import Grpc, Http, binary, infer, predict, rest
from tests.support import onnxmodels as models
from tests.support.running import Parts, until

pytestmark = pytest.mark.alone

MB = 2**20
TIMES = 50
KEPT_BYTES = 100 * MB  # of 600 that were sent: caches, and what gRPC and the allocator keep


def _declared(body: bytes, shape: list[int]) -> Http:
    described = {"name": "x", "datatype": "FP32", "shape": shape, "parameters": {"binary_data_size": len(body)}}
    head = json.dumps({"inputs": [described]}).encode()
    return Http("/v2/models/numbers/infer", head + body, {"Inference-Header-Content-Length": str(len(head))})


WRONG: dict[str, Callable[[], Http | Grpc]] = {
    "a packed body of another shape": lambda: _declared(bytes(12 * MB), [1]).packed(),
    "a body of another shape": lambda: _declared(bytes(12 * MB), [1]),
    "JSON that does not parse": lambda: rest("numbers", b'{"instances":[[' + b"0.5," * (3 * MB)),
    "JSON that is no tensor": lambda: rest("numbers", b'{"instances":[[' + b"0.5," * (MB // 2) + b"[1]]]}"),
    "one long string": lambda: rest("numbers", b'{"instances":"' + b"a" * (12 * MB) + b'"}'),
    "strings that are too few": lambda: binary("texts", "BYTES", [1, 3 * MB], bytes(12 * MB - 4)),
    "a packed body that is cut": lambda: Http(
        "/v1/models/numbers:predict", gzip.compress(b"0.5," * (3 * MB), 1)[:-1], {"Content-Encoding": "gzip"}
    ),
    "a model that is not there": lambda: rest("nobody", b'{"instances":[[' + b"0.5," * (3 * MB) + b"1]]}"),
    "raw tensors of another shape over gRPC": lambda: infer("numbers", "FP32", [1], bytes(12 * MB)),
    "tensors of another shape over gRPC": lambda: predict("numbers", 1, [1], tensor_content=bytes(12 * MB)),
    "a message that is none": lambda: Grpc("/inference.GRPCInferenceService/ModelInfer", b"\xff" * (12 * MB)),
}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    folder = tmp_path_factory.mktemp("memory")
    for name, kind in (("numbers", models.FLOAT), ("texts", models.STRING)):
        models.save(
            folder / "models" / name / "1",
            [models.node("Identity", ["x"], ["y"])],
            [models.info("x", kind, ["rows", "values"])],
            [models.info("y", kind, ["rows", "values"])],
        )
    with Parts(folder, folder / "models", waits=False) as parts:
        until(lambda: _are_ready(parts.urls[0]), 60, "the models to be ready")
        yield parts


def _are_ready(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return all(httpx.get(f"{url}/v2/models/{name}/ready").status_code == 200 for name in ("numbers", "texts"))
    return False


@pytest.mark.parametrize("name", WRONG)
def test_memory_is_back_when_the_answers_are_out(stack: Parts, name: str) -> None:
    request, process = WRONG[name](), psutil.Process(stack.apis[0].pid)
    assert 400 <= request.send(stack) <= 413  # what the first one imports and caches is no leak
    before = process.memory_info().rss
    with ThreadPoolExecutor(4) as callers:
        statuses = set(callers.map(lambda _: request.send(stack), range(TIMES)))
    # Where there is no room for one of them, it is refused for that.
    assert statuses <= {400, 404, 413, 429, 500, 503}
    kept = process.memory_info().rss - before
    assert kept < KEPT_BYTES, f"{kept / MB:.0f} MB of {TIMES} bodies are kept"
