"""TLS in front of a connection: a handshake, and then the same protocol as on a plain one.

A handshake has a place in the connection table like any connection: it counts against the limit, ends after
`_HANDSHAKE_S`, and is among the first to go where the table is full. What the socket has not taken of a response waits
in the TLS layer, where its transport counts it, and not below.
"""

import asyncio
import logging
import ssl
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, cast

from serving.transport.certificates import Certificates
from serving.transport.connection_table import ConnectionTable
from serving.transport.thinning import Thinning

_log = logging.getLogger(__name__)
_HANDSHAKE_S = 10.0
_SHUTDOWN_S = 2.0
_LINGER_S = 0.5
_UNREAD_BYTES = 65_536
_FAILURES_LOGGED_PER_S = 10


@dataclass(slots=True)
class TlsParts:
    """What the handshakes of one server share. `connection` makes the protocol that goes on after each.

    `failed` counts those that came to nothing.
    """

    certificates: Certificates
    table: ConnectionTable
    connection: Callable[[], asyncio.Protocol]
    loop: asyncio.AbstractEventLoop
    failed: int = 0
    thinning: Thinning = field(default_factory=lambda: Thinning(_FAILURES_LOGGED_PER_S))

    def handshake(self) -> "Handshake":
        """The protocol of a new connection."""
        return Handshake(self)


class Handshake(asyncio.Protocol):
    """One connection until its handshake is done. See `connection_table.OpenConnection`."""

    __slots__ = ("_early", "_is_lost", "_since", "_tls", "_transport", "_upgrade", "ends")

    def __init__(self, tls: TlsParts) -> None:
        self._tls = tls
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._upgrade: Coroutine[Any, Any, Any] = cast(Coroutine[Any, Any, Any], None)
        self._early: list[bytes] = []
        self._is_lost = False
        self._since = tls.loop.time()
        self.ends = self._since + _HANDSHAKE_S

    @property
    def waits_since(self) -> float | None:
        """See `OpenConnection`."""
        return self._since

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of `asyncio.Protocol`: the plain connection is there."""
        self._transport = cast(asyncio.Transport, transport)
        if not self._tls.table.add(self):
            self._tls.table.remove(self)
            self._transport.abort()
            return
        self._transport.set_write_buffer_limits(high=0)
        self._upgrade = self._tls.loop.start_tls(
            self._transport,
            self,
            self._tls.certificates.loaded.context,
            server_side=True,
            ssl_handshake_timeout=_HANDSHAKE_S + 1,
            ssl_shutdown_timeout=_SHUTDOWN_S,
        )
        self._step()

    def _step(self, _waited: object = None) -> None:
        """Go on with the upgrade. No task does it: the first step has to be done before the first byte is read."""
        table = self._tls.table
        try:
            waiter: asyncio.Future[None] = self._upgrade.send(None)
        except StopIteration as end:
            self._go_on(end.value)
        except OSError as error:  # as are those of TLS and of time
            table.remove(self)
            self._fail(error)
        except BaseException:
            table.remove(self)
            raise
        else:
            waiter.add_done_callback(self._step)

    def _go_on(self, secured: asyncio.Transport) -> None:
        table = self._tls.table
        if self._is_lost:
            table.remove(self)
            return
        secured.set_read_buffer_limits(high=_UNREAD_BYTES)  # type: ignore[attr-defined]  # which TLS has
        secured.set_write_buffer_limits(high=_UNREAD_BYTES)
        connection = self._tls.connection()
        table.hand_over(self)
        secured.set_protocol(connection)
        connection.connection_made(secured)
        if self._early and not secured.is_closing():
            connection.data_received(b"".join(self._early))

    def data_received(self, data: bytes) -> None:
        """Part of `asyncio.Protocol`: what came with the end of the handshake."""
        self._early.append(data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the reason changes nothing
        """Part of `asyncio.Protocol`."""
        self._is_lost = True

    def pace(self, now: float) -> float | None:  # noqa: ARG002 - whatever the time
        """See `OpenConnection`."""
        return None

    def give_up(self) -> int:
        """See `OpenConnection`."""
        self.abort()
        return 0

    def linger(self) -> None:
        """See `OpenConnection`."""
        self.ends = self._tls.loop.time() + _LINGER_S

    def expire(self) -> None:
        """See `OpenConnection`."""
        self.abort()

    def count_unsent(self) -> None:
        """See `OpenConnection`: nothing is sent yet but the handshake."""

    def look_for_caller(self) -> None:
        """See `OpenConnection`."""

    def abort(self) -> None:
        """See `OpenConnection`."""
        self._is_lost = True  # the upgrade ends then as if it were done
        self._transport.abort()

    def _fail(self, error: OSError) -> None:
        self._tls.failed += 1
        left_out = self._tls.thinning.count()
        if left_out is None:
            return
        peer = self._transport.get_extra_info("peername")
        reason = (error.reason if isinstance(error, ssl.SSLError) else "") or str(error)
        extra = {"caller": str(peer[0]) if isinstance(peer, tuple) else "", "reason": reason}
        _log.info("a TLS handshake failed", extra=extra | ({"left_out": left_out} if left_out else {}))
