"""A port that several processes share is taken once, as a whole."""

import contextlib
import socket
import sys
import threading

import pytest

from millrace.listening import check_port
from serving.transport.shared_port import SharedPort

HOST = "127.0.0.1"
SPREADS = pytest.mark.skipif(sys.platform != "linux", reason="only Linux spreads connections over sockets")


def shared_port(port: int = 0, host: str = HOST) -> "contextlib.closing[SharedPort]":
    return contextlib.closing(SharedPort(host, port))


def linger(port: int) -> None:
    """Leave a connection of an ordinary server's on the port, in TIME_WAIT."""
    with socket.create_server((HOST, port)) as server, socket.create_connection((HOST, port)) as caller:
        accepted, _ = server.accept()
        accepted.close()
        assert caller.recv(1) == b""


@pytest.mark.parametrize("is_used", [False, True], ids=["before anybody listens", "while somebody listens"])
def test_nobody_else_can_listen_on_it(is_used: bool) -> None:
    with shared_port() as shared, shared.for_one_more() as one:
        if is_used:
            one.listen()
        for host in (HOST, "0.0.0.0"):
            with pytest.raises(OSError, match="in use"):
                check_port(host, shared.port)
            with pytest.raises(OSError, match="in use"):
                SharedPort(host, shared.port)
    check_port(HOST, shared.port)


def test_a_port_that_somebody_has_cannot_be_shared() -> None:
    with socket.create_server((HOST, 0)) as taken, pytest.raises(OSError, match="in use"):
        SharedPort(HOST, taken.getsockname()[1])


def test_connections_of_before_do_not_keep_it() -> None:
    with shared_port() as shared:
        port = shared.port
    linger(port)
    with shared_port(port) as shared, shared.for_one_more() as one:
        one.listen()
        socket.create_connection((HOST, port)).close()


def test_of_many_who_want_it_at_once_one_has_it() -> None:
    with shared_port() as shared:
        port = shared.port
    ready, ended = threading.Barrier(16), threading.Barrier(16)
    taken: list[SharedPort] = []

    def take() -> None:
        ready.wait()
        with contextlib.suppress(OSError):
            taken.append(SharedPort(HOST, port))
        ended.wait()

    threads = [threading.Thread(target=take) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for each in taken:
        each.close()
    assert len(taken) <= 1  # none, where two met between binding and listening


@SPREADS
def test_connections_are_spread_over_those_who_listen() -> None:
    with shared_port() as shared, shared.for_one_more() as one, shared.for_one_more() as other:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((HOST, shared.port))
        one.listen(128)
        accepted = {one: 0, other: 0}
        with contextlib.ExitStack() as open_:
            open_.enter_context(socket.create_connection((HOST, shared.port)))
            other.listen(128)
            for _ in range(64):
                open_.enter_context(socket.create_connection((HOST, shared.port)))
            for listening in accepted:
                listening.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    while True:
                        listening.accept()[0].close()
                        accepted[listening] += 1
        assert sum(accepted.values()) == 65
        assert min(accepted.values()) > 8


def test_where_connections_are_not_spread_all_accept_from_one_socket() -> None:
    shared = SharedPort(HOST, 0, is_spread=False)
    with contextlib.closing(shared), shared.for_one_more() as one, shared.for_one_more() as other:
        one.listen()
        other.listen()
        with socket.create_connection((HOST, shared.port)) as caller:
            accepted, _ = other.accept()
            accepted.close()
            assert caller.recv(1) == b""
        one.close()
        with socket.create_connection((HOST, shared.port)):
            other.accept()[0].close()
        with pytest.raises(OSError, match="in use"):
            check_port(HOST, shared.port)


def test_it_has_the_family_of_its_host() -> None:
    try:
        with shared_port(host="::1") as shared, shared.for_one_more() as one:
            one.listen()
            socket.create_connection(("::1", shared.port)).close()
    except OSError as error:
        pytest.skip(f"this machine has no ::1: {error}")
