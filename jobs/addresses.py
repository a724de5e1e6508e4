"""Which addresses of the network a caller's URL may lead to, and connections to those alone."""

import ipaddress
import socket
import time
from collections.abc import Sequence

from millrace.protocol.errors import InvalidRequest

_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public network, however it is written."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour
        if inner is None and found in _NAT64:
            inner = ipaddress.IPv4Address(found.packed[-4:])
        found = inner or found
    return found.is_global and not found.is_multicast


def allowed_addresses(host: str, port: int, allow_private: bool) -> list[str]:
    """The addresses of the host that may be connected to. Raises `InvalidRequest` for none, `OSError` for no host."""
    try:
        found = [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    except UnicodeError:  # a label that is empty or too long
        raise InvalidRequest(f"{host[:300]!r} is no name of a host") from None
    allowed = [address for address in found if allow_private or is_public(address)]
    if not allowed:
        raise InvalidRequest(f"{host} is at a private address, which is not allowed")
    return allowed


def connected(host: str, port: int, allow_private: bool, timeout_s: float) -> socket.socket:
    """A connection to one of those addresses; the name is not looked up a second time. Raises as they do."""
    return reached(allowed_addresses(host, port, allow_private), port, timeout_s)


def reached(addresses: Sequence[str], port: int, timeout_s: float) -> socket.socket:
    """A connection to the first of the addresses that answers, within that time for all together; its timeout then.

    Whoever owns a name chooses how many addresses it has. Raises `OSError`.
    """
    ends = time.monotonic() + timeout_s
    for number, address in enumerate(addresses, 1):
        left_s = max(0.001, (ends - time.monotonic()) / (len(addresses) - number + 1))
        try:
            opened = socket.create_connection((address, port), left_s)
        except OSError:
            if number == len(addresses):
                raise
        else:
            opened.settimeout(timeout_s)
            return opened
    raise AssertionError("there is no address")
