"""What is asked of a server about the traffic of its models, as operations that know no network: see `protocol`."""

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from millrace_client.encoding import json_of
from millrace_client.errors import InvalidResponse
from millrace_client.exchange import Request, Response
from millrace_client.protocol import Operation

_JSON = {"Content-Type": "application/json"}


def traffic(model: str) -> Operation[dict[str, Any]]:
    """Which versions get which requests."""
    return Operation((Request(method="GET", path=_path(model)),), _document)


def set_traffic(model: str, document: Mapping[str, Any]) -> Operation[dict[str, Any]]:
    """Set it; what it is then."""
    body = json.dumps(dict(document)).encode()
    return Operation((Request(method="PUT", path=_path(model), body=body, headers=_JSON),), _document)


def metrics() -> Operation[str]:
    """The metrics, in Prometheus' format."""
    return Operation((Request(method="GET", path="/metrics"),), lambda responses: responses[0].body.decode())


def _path(model: str) -> str:
    return f"/v1/models/{quote(model, safe='')}/traffic"


def _document(responses: list[Response]) -> dict[str, Any]:
    document = json_of(responses[0].body)
    if not isinstance(document, dict):
        raise InvalidResponse("the server's answer about traffic is no JSON object")
    return document
