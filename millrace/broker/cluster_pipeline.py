"""A pipeline on its way through a Redis Cluster: which command is sent where, and which must be sent again."""

import time
from collections.abc import Sequence
from typing import Any

import hiredis
from redis.exceptions import AskError, MovedError

from millrace.broker.discovery import ClusterServers
from millrace.broker.resp import Command, Routed
from millrace.protocol.errors import Unavailable

PAUSE_S = 0.01  # before a command that found its slot on the way is sent again
_REDIRECTS_S = 5.0  # for as long a slot may be on its way from node to node


class ClusterPipeline:
    """One pipeline's way through a Cluster: the commands that still lack an answer, and where each goes next.

    In rounds, until it `is_over`: `parts` says which commands go where, `commands` what to send there, and `take` takes
    in what came back.
    """

    def __init__(self, servers: ClusterServers, commands: Sequence[Routed]) -> None:
        self._servers = servers
        self._commands = commands
        self._missing = list(range(len(commands)))
        self._asking: dict[int, str] = {}
        self._ends = time.monotonic() + _REDIRECTS_S
        self._rounds = 0
        self.answers: list[Any] = [None] * len(commands)
        self.must_pause = False

    @property
    def is_over(self) -> bool:
        """Whether every command has its answer."""
        return not self._missing

    @property
    def keys(self) -> set[str]:
        """The keys whose servers must be known for the next round."""
        return {self._commands[i][0] for i in self._missing}

    def parts(self, places: dict[str, str]) -> dict[str, list[int]]:
        """Begin a round: the commands' numbers by the server that each goes to."""
        parts: dict[str, list[int]] = {}
        for i in self._missing:
            parts.setdefault(self._asking.get(i) or places[self._commands[i][0]], []).append(i)
        self._missing, self.must_pause = [], self._rounds > 1
        self._rounds += 1
        return parts

    def commands(self, part: Sequence[int]) -> list[Command]:
        """What to send for these commands; one that follows an ASK has to say so."""
        asking: Command = ("ASKING",)
        return [c for i in part for c in ((asking,) if i in self._asking else ()) + (self._commands[i][1],)]

    def take(self, part: Sequence[int], answers: Sequence[Any]) -> None:
        """Take in the answers to such a pipeline. Raises `Unavailable` when a slot has been under way for too long."""
        left = iter(answers)
        for i in part:
            if self._asking.pop(i, None):
                next(left)
            answer = next(left)
            kind, _, where = str(answer).partition(" ") if isinstance(answer, hiredis.ReplyError) else ("", "", "")
            if kind not in ("MOVED", "ASK", "TRYAGAIN"):
                self.answers[i] = answer
                continue
            self._missing.append(i)
            if kind == "MOVED":
                self._servers.moved(MovedError(where))
            elif kind == "ASK":
                there = AskError(where)
                self._asking[i] = self._servers.at(there.host, there.port)
            else:
                self.must_pause = True
        if self._missing and time.monotonic() > self._ends:
            raise Unavailable("a slot of the queue's Redis Cluster is on its way from node to node")
