"""Whether an address can be listened on, asked before anything is started."""

import os
import socket


def check_port(host: str, port: int, option: str = "--port") -> None:
    """Raises `OSError` with one clear line when that port cannot be had on that host (a name, IPv4 or IPv6).

    `option` is what chooses the port.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.create_server((host, port), family=family):
            return
    except OSError as error:
        reason = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        raise OSError(
            f"port {port} on {host} cannot be used ({reason}); choose another with {option} or --host"
        ) from None
