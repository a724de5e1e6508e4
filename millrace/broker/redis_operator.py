"""An operator's look at the dead letters in Redis."""

from collections.abc import Iterator, Sequence
from typing import Any

import hiredis

from millrace.broker.base import DeadLetter
from millrace.broker.connections import BlockingConnections, failure
from millrace.broker.discovery import Servers
from millrace.broker.keys import DEAD_LETTERS, Queue, queue_of_dead_letters
from millrace.broker.resp import Argument, Command

_LETTERS_AT_ONCE = 16  # a block has up to a megabyte, or one large row


class RedisOperatorLink:
    """An operator's look at what was given up."""

    def __init__(self, servers: Servers) -> None:
        self._connections = BlockingConnections(servers)

    def dead_letter_queues(self) -> list[Queue]:
        """See `OperatorLink`. Looks through the keys of every server."""
        found = set()
        for server in self._connections.servers():
            cursor = b"0"
            while True:
                scan: Command = ("SCAN", cursor, "MATCH", DEAD_LETTERS, "COUNT", 1000, "TYPE", "stream")
                (answer,) = self._connections.execute_at(server, scan)
                if isinstance(answer, hiredis.ReplyError):
                    raise failure(answer)
                cursor, keys = answer
                found |= {queue for key in keys if (queue := queue_of_dead_letters(key.decode()))}
                if cursor == b"0":
                    break
        return sorted(found, key=lambda queue: (queue.model, queue.version))

    def dead_letters(self, queue: Queue) -> Iterator[DeadLetter]:
        """See `OperatorLink`."""
        after = "-"
        while True:
            entries = self._execute(queue.dead, "XRANGE", queue.dead, after, "+", "COUNT", _LETTERS_AT_ONCE)
            for entry_id, fields in entries:
                after = f"({entry_id.decode()}"
                yield _dead_letter(queue, entry_id.decode(), fields)
            if len(entries) < _LETTERS_AT_ONCE:
                return

    def drop_dead_letters(self, queue: Queue, entry_ids: Sequence[str] | None = None) -> int:
        """See `OperatorLink`. A stream that is left empty is deleted, too."""
        key = queue.dead
        if entry_ids is None:
            dropped = self._execute(key, "XTRIM", key, "MAXLEN", 0)
        else:
            dropped = self._execute(key, "XDEL", key, *entry_ids) if entry_ids else 0
        if not self._execute(key, "XLEN", key):
            self._execute(key, "DEL", key)
        return int(dropped)

    def close(self) -> None:
        """See `OperatorLink`."""
        self._connections.close()

    def _execute(self, key: str, *command: Argument) -> Any:
        (answer,) = self._connections.execute((key, command))
        if isinstance(answer, hiredis.ReplyError):
            raise failure(answer)
        return answer


def _dead_letter(queue: Queue, entry_id: str, fields: Sequence[bytes]) -> DeadLetter:
    field = dict(zip(fields[::2], fields[1::2], strict=True))
    return DeadLetter(
        queue=queue,
        entry_id=entry_id,
        buried_ms=int(entry_id.partition("-")[0]),
        block=field[b"b"],
        error=field[b"error"].decode(),
        deliveries=int(field[b"deliveries"]),
        consumer=field[b"consumer"].decode(),
    )
