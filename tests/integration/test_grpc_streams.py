"""Open gRPC streams whose callers mean no good: an API process stays within the memory that it printed."""

import contextlib
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from millrace import rpc
from tests.support.api_process import MB, ApiProcess
from tests.support.running import RedisServer, free_port, until

STREAMS, MESSAGE_BYTES = 20, 25 * MB
SERVICE = "/inference.GRPCInferenceService"


@contextmanager
def relay(port: int, most_bytes: int) -> Iterator[tuple[int, list[int]]]:
    """A port whose connections lead to another, and on which each caller's bytes stop after so many.

    The list has an item for each connection on which they have stopped.
    """
    opened: list[socket.socket] = []
    stopped: list[int] = []

    def pump(source: socket.socket, target: socket.socket, left: float) -> None:
        with contextlib.suppress(OSError):
            while left > 0 and (data := source.recv(65_536)):
                target.sendall(data[: int(min(left, len(data)))])
                left -= len(data)
        if left <= 0:
            stopped.append(1)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                caller, _ = listening.accept()
                server = socket.create_connection(("127.0.0.1", port))
                opened.extend((caller, server))
                for pair in ((caller, server, most_bytes), (server, caller, float("inf"))):
                    threading.Thread(target=pump, args=pair, daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=accept, daemon=True).start()
        try:
            yield int(listening.getsockname()[1]), stopped
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            for connection in opened:
                connection.close()


def half_sent(stack: ExitStack, port: int, message: bytes) -> Any:
    """The call of a stream whose message does not arrive whole."""
    options = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1))
    channel = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{port}", options=options))
    return channel.stream_stream(f"{SERVICE}/ModelStreamInfer")(iter([message]), timeout=120)


@pytest.mark.parametrize(
    ("server", "words"),
    [
        ("own", "holds all the bytes that it may|others need its room"),  # of one that took more than a second
        pytest.param("grpcio", "the stream waited for a message", marks=pytest.mark.slow),
    ],
)
def test_streams_whose_messages_stop_in_the_middle_are_given_up_before_memory_ends(
    redis_server: RedisServer, tmp_path: Path, server: str, words: str
) -> None:
    message = rpc.message("inference.ModelInferRequest")(model_name="m", raw_input_contents=[bytes(MESSAGE_BYTES)])
    port = free_port()
    settings: dict[str, Any] = {"max_buffered_bytes": 64 * MB, "max_connections": 100, "max_grpc_connections": 50}
    started = ApiProcess(redis_server.url, tmp_path / "log", grpc_port=port, grpc_server=server, **settings)
    with started as api, ExitStack() as stack:
        relayed, stopped = stack.enter_context(relay(port, MESSAGE_BYTES - 2 * MB))
        before = api.memory_bytes
        assert before + STREAMS * (MESSAGE_BYTES - 2 * MB) > api.own_limit_bytes + 6 * MESSAGE_BYTES
        with api.watched() as peak:
            calls: list[Any] = []

            def is_settled(stopped_before: int) -> bool:
                return len(stopped) > stopped_before or calls[-1].done()

            while len(calls) < STREAMS:
                settled = partial(is_settled, len(stopped))
                calls.append(half_sent(stack, relayed, message.SerializeToString()))
                until(settled, 60, "a message to stop")
            until(lambda: any(call.done() for call in calls), 60, "a stream to be given up")
            until(lambda: api.memory_bytes < api.own_limit_bytes, 60, "the memory to come back")
        # Nobody can ask grpc.aio how much it holds: this is what comes until it is looked at again.
        assert peak[0] < api.own_limit_bytes + (5 * MESSAGE_BYTES if server == "grpcio" else 0)
        # On a machine that takes 10 s for this, the first ones end because the rest of their frame did not come.
        given_up = [call for call in calls if call.done() and call.code() != grpc.StatusCode.UNAVAILABLE]
        assert {call.code() for call in given_up} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert re.search(words, given_up[0].details())
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            live = channel.unary_unary(f"{SERVICE}/ServerLive")(b"", timeout=30)
        assert rpc.message("inference.ServerLiveResponse").FromString(live).live
