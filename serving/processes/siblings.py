"""What the API processes on one port tell one another, so that each of them speaks for all.

    the others      each listens on a Unix socket in their folder. One that asks sends a letter, and has a byte back
                    when it is done; who does not answer in time is passed over.
    refresh         read from the queue what was changed. Asked when a change of models is done, so that the caller's
                    next request finds it whichever process has it; and when a heartbeat has brought news, so that the
                    others have them within milliseconds, and not with their next heartbeat.
    write           write what was counted into a file. Asked before all files are read and added up.

What a process counted is in its file before anybody is told of it. One that is started in the place of another goes on
from that one's file. So the sums never fall, whichever process tells them and whichever has died; what it had counted
in its last second, and nobody had seen, is lost with it.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path

import msgspec

from millrace.protocol.errors import MillraceError
from serving.monitoring.counts import Counts, Present, total
from serving.processes.member import Member

_log = logging.getLogger(__name__)
_REFRESH, _WRITE = b"r", b"w"
_ANSWER_S = 1.0
_WRITE_S = 1.0
_decoder = msgspec.msgpack.Decoder(Counts)


class Siblings:
    """The other API processes, none for a process that is no member of several.

    `refresh` reads what is in the queue now. `is_connected` says whether it answers. `counts` are those of this
    process, which go on from `counted_before`.
    """

    def __init__(
        self,
        member: Member | None,
        counts: Callable[[], Counts],
        refresh: Callable[[], Awaitable[None]],
        is_connected: Callable[[], bool],
    ) -> None:
        self._counts = counts
        self._folder = Path(member.folder) if member else None
        self._number = member.number if member else 1
        self._numbers = range(1, member.count + 1) if member else range(1, 2)
        self._refresh = refresh
        self._is_connected = is_connected
        self._asking = asyncio.Lock()
        self._server: asyncio.Server | None = None
        self._writing: asyncio.TimerHandle | None = None
        self._written = b""
        self._is_left_alone = False

    def counted_before(self) -> Counts:
        """What the process counted whose place this one has taken, if there was one."""
        return self._read(self._number)

    async def start(self) -> None:
        """Listen to the others."""
        if self._folder:
            path = self._socket(self._number)
            path.unlink(missing_ok=True)  # of the one before
            self._server = await asyncio.start_unix_server(self._answer, path)
            self._write_now_and_then()

    def left_alone(self) -> None:
        """Whoever started this process is gone: nobody goes on from its file, and nobody else removes the folder."""
        self._is_left_alone = True

    def stop(self) -> None:
        """Listen to nobody any more; what was counted is in the file, as long as somebody reads it."""
        if self._writing:
            self._writing.cancel()
        if self._server:
            self._server.close()
            self._socket(self._number).unlink(missing_ok=True)
        if self._folder and self._is_left_alone:
            self._file(self._number).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # the last one finds it empty
                self._folder.rmdir()
        else:
            self._write()

    async def refresh(self) -> None:
        """Return when the others have read what was changed, as far as they answer."""
        await self._ask(_REFRESH)

    async def total(self) -> Counts:
        """What all of them have counted, those that are gone included."""
        if not self._folder:
            return self._own()
        self._write()
        async with self._asking:
            living = {self._number, *await self._ask(_WRITE)}
        return await asyncio.to_thread(self._sum, living)  # which takes a while where there are many models

    def _sum(self, living: Collection[int]) -> Counts:
        """What is in all files; those who do not live count as no processes, and have nothing."""
        found = []
        for number in self._numbers:
            counts = self._read(number)
            if number not in living:
                counts.processes, counts.queue_up, counts.present = 0, True, Present()
            found.append(counts)
        return total(found)

    async def _ask(self, question: bytes) -> list[int]:
        """Ask all others at once; the numbers of those that did it."""
        others = [number for number in self._numbers if number != self._number]
        answered = await asyncio.gather(*(self._ask_one(number, question) for number in others))
        return [number for number, has_answered in zip(others, answered, strict=True) if has_answered]

    async def _ask_one(self, number: int, question: bytes) -> bool:
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_ANSWER_S):
                reader, writer = await asyncio.open_unix_connection(self._socket(number))
                try:
                    writer.write(question)
                    return bool(await reader.read(1))
                finally:
                    writer.close()
        return False

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError, MillraceError):  # whoever asked goes on without us
            async with asyncio.timeout(_ANSWER_S):
                if await reader.read(1) == _REFRESH:
                    await self._refresh()
                else:
                    self._write()
                writer.write(b".")
        writer.close()

    # The files

    def _read(self, number: int) -> Counts:
        """What the process of that number has written; nothing counted where it has not yet."""
        if not self._folder:
            return Counts()
        try:
            counts = _decoder.decode(self._file(number).read_bytes())
        except FileNotFoundError:
            return Counts()
        except (OSError, msgspec.MsgspecError) as error:
            _log.warning("what an API process counted cannot be read", extra={"of": number, "reason": str(error)})
            return Counts()
        return counts

    def _write(self) -> None:
        if not self._folder:
            return
        encoded = msgspec.msgpack.encode(self._own())
        if encoded == self._written:
            return
        file = self._file(self._number)
        beside = file.with_suffix(".new")
        try:
            beside.write_bytes(encoded)
            beside.replace(file)
        except OSError as error:
            _log.warning("what was counted cannot be written", extra={"reason": str(error)})
        else:
            self._written = encoded

    def _write_now_and_then(self) -> None:
        self._write()
        self._writing = asyncio.get_running_loop().call_later(_WRITE_S, self._write_now_and_then)

    def _own(self) -> Counts:
        counts = self._counts()
        counts.queue_up = self._is_connected()
        return counts

    def _file(self, number: int) -> Path:
        return Path(self._folder or "", f"{number}.counts")

    def _socket(self, number: int) -> Path:
        return Path(self._folder or "", f"{number}.socket")
