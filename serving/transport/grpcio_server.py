"""The gRPC server of grpc.aio, for the setting `grpc_server=grpcio`."""

import os
from collections.abc import Callable
from typing import Any

# What gRPC's own library has to say comes as lines of no form, as many as callers like; our log has what matters. It
# looks when it is imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc
import grpc.aio

from serving.settings import ServingSettings
from serving.transport.budget import Budget
from serving.transport.certificates import Certificates
from serving.transport.descriptors import grpc_connections
from serving.transport.grpc_method import Calls
from serving.transport.grpcio_intake import WINDOW_BYTES, GrpcioIntake
from serving.transport.grpcio_method import CountedMethod

_MANY = 2**31 - 1
_HANDSHAKE_MS = 10_000
_PING_MS, _PING_ANSWER_MS = 60_000, 20_000


class GrpcioServer:
    """Listens on one address. `start` first, `stop` last; both on the event loop of the service.

    `largest_bytes` is the largest message of any method. With `certificates` it speaks TLS.
    """

    def __init__(
        self,
        settings: ServingSettings,
        budget: Budget,
        calls: Calls,
        largest_bytes: int,
        certificates: Certificates | None = None,
    ) -> None:
        self._settings = settings
        self._certificates = certificates
        self.intake = GrpcioIntake(
            budget,
            calls,
            most_bytes=largest_bytes,
            most_open=settings.max_connections,
            timeout_s=settings.request_timeout_ms / 1000,
        )
        self._server = grpc.aio.server(handlers=(_Refusals(calls),), options=_options(settings, largest_bytes))
        for path, method in calls.methods.items():  # known to gRPC itself, which costs less than being asked each time
            _, name, method_name = path.split("/")
            registered = self.intake.registered(CountedMethod(path, method, settings.max_connections))
            self._server.add_registered_method_handlers(name, {method_name: registered})

    @property
    def open_calls(self) -> int:
        """How many calls have no answer yet."""
        return self.intake.open

    def watch_memory(self, excess_bytes: Callable[[], int]) -> None:
        """See `serving.api.Server`: nobody can ask gRPC how much of a stream's message it holds."""
        self.intake.excess_bytes = excess_bytes

    async def start(self) -> None:
        """Listen. Raises `OSError` where the address cannot be had."""
        host, port = self._settings.host, self._settings.grpc_port
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            if self._certificates:
                self._server.add_secure_port(address, _credentials(self._certificates))
            else:
                self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(f"gRPC cannot listen on {address}: {error}") from None
        await self._server.start()
        self.intake.start()

    async def stop(self, timeout_s: float | None = None) -> None:
        """Take no more calls, and answer those that came; what is open after that time is cut off."""
        await self._server.stop(self._settings.drain_timeout_s if timeout_s is None else timeout_s)
        self.intake.stop()


def _credentials(certificates: Certificates) -> grpc.ServerCredentials:
    """What gRPC shows to clients. It asks for the newest with each handshake."""
    shown = certificates.loaded

    def configuration() -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration(((shown.key, shown.certificate),), shown.client_authority)

    def newest() -> grpc.ServerCertificateConfiguration | None:
        nonlocal shown
        if certificates.loaded is shown:
            return None
        shown = certificates.loaded
        return configuration()

    return grpc.dynamic_ssl_server_credentials(configuration(), newest, certificates.client_auth == "required")


def _options(settings: ServingSettings, largest_bytes: int) -> tuple[tuple[str, int], ...]:
    """What gRPC is told of its limits."""
    return (
        ("grpc.max_receive_message_length", largest_bytes),
        ("grpc.max_send_message_length", -1),
        # A port that is taken is an error, and no way to take calls from its owner; unless that is our own group.
        ("grpc.so_reuseport", int(settings.process_count > 1)),
        # Packed messages are unpacked by the intake, within their limit.
        ("grpc.per_message_decompression", 0),
        # What may come of a stream before its message is asked for. gRPC would raise it where that looks quicker.
        ("grpc.http2.lookahead_bytes", WINDOW_BYTES),
        ("grpc.http2.bdp_probe", 0),
        # Calls that gRPC has and we have not asked for yet: it would drop some of more than 1,000, without a word.
        ("grpc.server.max_pending_requests", _MANY),
        ("grpc.server.max_pending_requests_hard_limit", _MANY),
        ("grpc.server_max_unrequested_time_in_server", _MANY // 1000),
        # More than the intake lets in, so that it is the intake that refuses, in words. A client that knows the limit
        # waits by itself; in its first moment it does not.
        ("grpc.max_concurrent_streams", 2 * settings.max_connections),
        ("grpc.max_allowed_incoming_connections", grpc_connections(settings.max_grpc_connections)),
        ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
        ("grpc.max_connection_idle_ms", int(settings.keep_alive_timeout_s * 1000)),
        ("grpc.max_connection_age_ms", int(settings.max_connection_age_s * 1000) or _MANY),
        ("grpc.keepalive_time_ms", _PING_MS),
        ("grpc.keepalive_timeout_ms", _PING_ANSWER_MS),
    )


class _Refusals(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpcio has no types
    """Answers what is not offered."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        """What refuses the method by name, whatever it takes and gives."""
        answer = self._calls.unknown(handler_call_details.method)

        async def refuse(requests: Any, context: Any) -> None:  # noqa: ARG001 - they are not read
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, answer.text)

        return grpc.stream_stream_rpc_method_handler(refuse)
