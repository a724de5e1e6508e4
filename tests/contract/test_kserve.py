"""What KServe's Python client sends, in both versions of its protocol, and what it looks for in the answers.

The client itself runs in `suites/test_kserve.py`, where it is installed.
"""

from typing import Any

import httpx

from tests.contract.claims import proves
from tests.support.running import Stack

_CLIENT = "kserve (InferenceRESTClient, as acted out by a test)"


def _json(stack: Stack, path: str) -> Any:
    response = httpx.get(stack.url + path)
    assert response.is_success, response.text
    return response.json()


@proves(_CLIENT, "is_server_live, is_server_ready")
def test_the_server_is_live_and_ready(stack: Stack) -> None:
    assert _json(stack, "/")["status"].lower() == "alive"
    assert _json(stack, "/v2/health/live")["live"] is True
    assert _json(stack, "/v2/health/ready")["ready"] is True


@proves(_CLIENT, "is_model_ready")
def test_a_model_is_ready(stack: Stack) -> None:
    assert _json(stack, "/v1/models/simple")["ready"] is True
    assert httpx.get(f"{stack.url}/v2/models/simple/ready").is_success
    assert not httpx.get(f"{stack.url}/v2/models/nobody/ready").is_success


@proves(_CLIENT, "infer, version 1")
def test_version_1_infers(stack: Stack) -> None:
    url = f"{stack.url}/v1/models/half_plus_two:predict"
    assert httpx.post(url, json={"instances": [1.0, 2.0, 5.0]}).json() == {"predictions": [2.5, 3.0, 4.5]}


@proves(_CLIENT, "GET /v1/models", differs="lists objects with the models' versions, where KServe lists names")
def test_the_models_are_listed(stack: Stack) -> None:
    assert "simple" in {model["name"] for model in _json(stack, "/v1/models")["models"]}
