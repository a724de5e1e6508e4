"""Where a server is and how it is spoken to: the URL, the transport, and the parts that belong to it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType

import httpx2

from millrace_client.protocol import InferenceProtocol, Transport
from millrace_client.rest import RestProtocol

DEFAULT_URL = "http://127.0.0.1:8000"
DEFAULT_GRPC_URL = "grpc://127.0.0.1:8001"
URL_VARIABLE = "MILLRACE_URL"
_SCHEMES = {"http": "json", "https": "json", "grpc": "grpc", "grpcs": "grpc"}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server's URL, without a slash at the end, and the transport to it."""

    url: str
    transport: Transport

    def protocol(self) -> InferenceProtocol:
        """The protocol of the transport. Raises `ModuleNotFoundError` where its extra is not installed."""
        if self.transport == "grpc":
            protocol: InferenceProtocol = grpc_part("rpc").GrpcProtocol()
            return protocol
        return RestProtocol(is_binary=self.transport == "binary")


def endpoint(url: str | None, transport: Transport | None, environ: Mapping[str, str] = os.environ) -> Endpoint:
    """The endpoint for what a caller gave; either may be left out, and then the variable MILLRACE_URL names the server.

    Raises `ValueError` where URL and transport contradict each other.
    """
    given, source = _given(url, transport, environ)
    parsed = httpx2.URL(given)
    if parsed.scheme not in _SCHEMES or not parsed.host:
        raise ValueError(
            f"{given!r}{source} is not the URL of a server: it has to begin with http:// or https://, "
            "or with grpc:// or grpcs://"
        )
    implied: Transport = "grpc" if _SCHEMES[parsed.scheme] == "grpc" else "json"
    transport = transport or implied
    if transport not in ("json", "binary", "grpc"):
        raise ValueError(f"transport {transport!r} is none of json, binary, grpc")
    if (transport == "grpc") != (implied == "grpc"):
        raise ValueError(
            f"transport {transport!r} cannot go with {given!r}{source}: grpc needs a grpc:// URL, and no other may"
        )
    return Endpoint(given.rstrip("/"), transport)


def _given(url: str | None, transport: Transport | None, environ: Mapping[str, str]) -> tuple[str, str]:
    """The URL, and for an error message where it is from, unless the caller gave it."""
    if url is not None:
        return url, ""
    if variable := environ.get(URL_VARIABLE):
        return variable, f" in {URL_VARIABLE}"
    return (DEFAULT_GRPC_URL if transport == "grpc" else DEFAULT_URL), ""


def grpc_part(name: str) -> ModuleType:
    """The module `rpc` or `grpcwire`. Raises `ModuleNotFoundError`, which says what to install."""
    try:
        from millrace_client import grpcwire, rpc
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"there is no {error.name}; gRPC needs the client's extra; "
            "install it from Millrace's checkout with: pip install './client[grpc]'",
            name=error.name,
        ) from error
    return {"rpc": rpc, "grpcwire": grpcwire}[name]
