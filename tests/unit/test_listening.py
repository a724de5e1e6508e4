"""Whether a port can be had, said in one line."""

import socket

import pytest

from millrace.listening import check_port


@pytest.mark.parametrize(("host", "family"), [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)])
def test_a_free_port_passes_and_one_in_use_is_named(host: str, family: socket.AddressFamily) -> None:
    try:
        taken = socket.create_server((host, 0), family=family)
    except OSError:
        pytest.skip(f"this machine has no {host}")
    with taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=rf"port {port} on {host} cannot be used \(Address already in use\)"):
            check_port(host, port)
    check_port(host, port)


def test_a_host_that_is_not_this_machines_is_named() -> None:
    with pytest.raises(OSError, match=r"on 192\.0\.2\.1 cannot be used"):
        check_port("192.0.2.1", 8000)
