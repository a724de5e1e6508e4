"""Who is at the other end of a connection."""

import asyncio

from serving.access.callers import Peer
from serving.transport.certificates import client_name


def peer_of(transport: asyncio.BaseTransport) -> Peer:
    """The peer of a connection, after its handshake where it has one."""
    found = transport.get_extra_info("peername")
    address = found[0] if isinstance(found, tuple) else ""
    return Peer(address, client_name(transport.get_extra_info("peercert")))
