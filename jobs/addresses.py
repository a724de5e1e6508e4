"""Which addresses of the network a caller's URL may lead to, and connections to those alone."""

import ipaddress
import socket

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
    found = [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    allowed = [address for address in found if allow_private or is_public(address)]
    if not allowed:
        raise InvalidRequest(f"{host} is at a private address, which is not allowed")
    return allowed


def connected(host: str, port: int, allow_private: bool, timeout_s: float) -> socket.socket:
    """A connection to one of those addresses; the name is not looked up a second time. Raises as they do."""
    addresses = allowed_addresses(host, port, allow_private)
    for address in addresses[:-1]:
        try:
            return socket.create_connection((address, port), timeout_s)
        except OSError:
            continue
    return socket.create_connection((addresses[-1], port), timeout_s)
