"""A port on which several processes listen, each with a socket that it gets from whoever starts it.

Where the system spreads connections over sockets that are bound with SO_REUSEPORT, which Linux does, each process has a
socket of its own: a process that ends takes no other's connections with it, and one that has not begun to listen gets
none. Elsewhere all processes accept from one socket.
"""

import socket
import sys

_IS_SPREAD = sys.platform == "linux"
BACKLOG = 2048


class SharedPort:
    """Takes the port, as a whole: nobody else can listen on it until `close`. Raises `OSError` where somebody does.

    A `port` of 0 stands for one that is free. `is_spread` says whether each process has a socket of its own.
    """

    def __init__(self, host: str, port: int, *, is_spread: bool = _IS_SPREAD) -> None:
        self._is_spread = is_spread
        self._address: tuple[str, int] = (host, port)
        self._family = family_of(host, port)
        self._kept = self._bound()
        self._address = host, self._kept.getsockname()[1]
        if is_spread:
            self._kept = self._kept_for_us(self._kept)

    @property
    def port(self) -> int:
        """Its number."""
        return self._address[1]

    def for_one_more(self) -> socket.socket:
        """A socket for one more process, which is to call `listen`; whoever asks for it closes it here."""
        return self._bound(shares=True) if self._is_spread else self._kept.dup()

    def close(self) -> None:
        """Let others have the port, once the processes have closed their sockets."""
        self._kept.close()

    def _bound(self, *, shares: bool = False) -> socket.socket:
        bound = socket.socket(self._family, socket.SOCK_STREAM)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of before may linger on the port
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shares)
            if self._family == socket.AF_INET6:
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            bound.bind(self._address)
        except OSError:
            bound.close()
            raise
        return bound

    def _kept_for_us(self, first: socket.socket) -> socket.socket:
        """A socket that gets no connections and keeps the port, once `first`, which shares it with nobody, has it.

        Of several that were bound at once only one can listen. It lets this one in and goes. From then on nobody can
        listen there who wants the port for themselves: this one does not let its address be used again.
        """
        with first:
            first.listen()
            first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            kept = self._bound(shares=True)
            kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
            return kept


def family_of(host: str, port: int) -> socket.AddressFamily:
    """The family of addresses that a host has, a name or an address. Raises `OSError` where it has none."""
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
