"""What the connections of one server share, whatever protocol they speak."""

import asyncio
from collections import Counter
from concurrent.futures import Executor
from dataclasses import dataclass, field

from serving.settings import ServingSettings
from serving.transport.budget import Budget
from serving.transport.connection_table import ConnectionTable
from serving.transport.grpc_method import Calls
from serving.transport.handler import Handler, Uploads
from serving.transport.http2.header_blocks import RememberedBlocks
from serving.transport.pacer import Pacer


@dataclass(slots=True)
class ServerParts:
    """What the connections of one server share.

    `open_calls` counts the streams of HTTP/2 that have a request, `open_streams` by path the calls of gRPC's methods
    that take a stream of messages; `http2_connections` the connections that speak HTTP/2.
    """

    settings: ServingSettings
    handler: Handler
    budget: Budget
    table: ConnectionTable
    pacer: Pacer
    unpackers: Executor
    loop: asyncio.AbstractEventLoop
    uploads: Uploads | None = None
    calls: Calls | None = None
    is_stopping: bool = False
    most_http2_connections: int = 1000
    http2_connections: int = 0
    open_calls: int = 0
    open_streams: Counter[str] = field(default_factory=Counter)
    remembered: RememberedBlocks = field(default_factory=RememberedBlocks)

    @property
    def timeout_s(self) -> float:
        """How long a body may take to arrive, and how long a caller may not read."""
        return self.settings.request_timeout_ms / 1000
