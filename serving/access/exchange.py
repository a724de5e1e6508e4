"""Tells the other API processes what is asked with each key, so that all of them together keep to its limits."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import msgspec

from millrace.protocol.errors import MillraceError
from serving.access.gate import Gate, Usage
from serving.access.limits import EXCHANGE_S

_log = logging.getLogger(__name__)
_encode = msgspec.json.encode
_decode = msgspec.json.Decoder(dict[str, Usage]).decode


class UsageExchange:
    """Runs until it is cancelled. `exchange` tells the others what this process, `api`, was asked; what each was.

    While the queue is out of reach the shares stay as they are: nothing can be answered either.
    """

    def __init__(self, gate: Gate, api: str, exchange: Callable[[bytes], Awaitable[dict[str, bytes]]]) -> None:
        self._gate = gate
        self._api = api
        self._exchange = exchange

    async def run(self) -> None:
        """Exchange about once a second."""
        while True:
            await asyncio.sleep(EXCHANGE_S)
            if self._gate.has_limits:
                try:
                    await self.once()
                except MillraceError as error:
                    _log.debug("limits were not shared out", extra={"reason": str(error)})
                except Exception:  # shares that are never renewed would run out, and all be refused
                    _log.exception("limits could not be shared out; they are shared out again")

    async def once(self) -> None:
        """Tell what was asked, and take our shares. Raises `Unavailable`."""
        own = self._gate.usage()
        usages = {api: _read(told) for api, told in (await self._exchange(_encode(own))).items()}
        self._gate.share_out({**usages, self._api: own}, self._api)


def _read(told: bytes) -> dict[str, Usage]:
    """What another process told; nothing where it is of another version's form."""
    try:
        return _decode(told)
    except msgspec.MsgspecError as error:
        _log.debug("another process's usage cannot be read", extra={"reason": str(error)})
        return {}
