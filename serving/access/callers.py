"""Who is calling: the address at the other end of the connection, and whether it is this machine's own."""

from ipaddress import IPv6Address, ip_address
from typing import NamedTuple
from urllib.parse import unquote

UNKNOWN = "unknown"


class Peer(str):
    """The address at the other end of a connection, as text, "" where there is none.

    `certificate` is the name in the client's certificate, "" where it showed none.
    """

    __slots__ = ("certificate",)

    def __new__(cls, address: str, certificate: str = "") -> "Peer":
        """Make one."""
        peer = super().__new__(cls, address)
        peer.certificate = certificate
        return peer

    certificate: str


class Caller(NamedTuple):
    """Who asked for a change, for the record. `address` is an IP address, or "" for a Unix socket.

    `name` is that of its key or its certificate, "" where it has none.
    """

    address: str = UNKNOWN
    request_id: str = ""
    protocol: str = ""
    name: str = ""


def is_local(address: str) -> bool:
    """Whether the address is a loopback address, or "" for a Unix socket."""
    if not address:
        return True
    try:
        ip = ip_address(address.partition("%")[0])  # without an IPv6 zone
    except ValueError:
        return False
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped:
        return ip.ipv4_mapped.is_loopback
    return ip.is_loopback


def grpc_address(peer: str) -> str:
    """The address in gRPC's word for a peer: `ipv4:127.0.0.1:50051`, `ipv6:%5B::1%5D:50051`, `unix:/path`."""
    kind, _, rest = peer.partition(":")
    if kind in ("unix", "unix-abstract"):
        return ""
    if kind in ("ipv4", "ipv6"):
        return unquote(rest).rpartition(":")[0].strip("[]") or UNKNOWN
    return UNKNOWN  # gRPC says nothing of a connection that is already gone
