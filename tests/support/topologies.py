"""Redis on several servers, as processes of the tests' own: three masters of a Cluster, or a master under Sentinels."""

import socket
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import redis
from redis.crc import key_slot

from tests.support.running import free_port, server_under_test, until

SLOTS = 16384


@dataclass(eq=False)
class Node:
    """A Redis server on a TCP port of this machine."""

    folder: Path
    port: int
    options: tuple[str, ...] = ()
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        quiet = ["--save", "", "--appendonly", "no", "--loglevel", "warning"]
        where = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        self._run([*where, *quiet, *self.options])

    def _run(self, arguments: list[str]) -> None:
        self.process = subprocess.Popen([server_under_test(), *arguments], stdout=subprocess.DEVNULL)
        until(lambda: self.answers() or self._has_ended(), what=f"the Redis on port {self.port}")
        assert not self._has_ended()

    def _has_ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def client(self) -> "redis.Redis":
        return redis.Redis(port=self.port, decode_responses=True, protocol=2)

    def ask(self, *command: object) -> object:
        with self.client() as client:
            return client.execute_command(*command)

    def answers(self) -> bool:
        try:
            return self.ask("PING") in ("PONG", True)
        except redis.RedisError:
            return False

    def kill(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()


class SentinelNode(Node):
    """A Sentinel that watches a master called `mill`."""

    def __init__(self, folder: Path, master: Node, quorum: int) -> None:
        super().__init__(folder, free_port())
        self.configuration = (
            f"port {self.port}\nbind 127.0.0.1\ndir {folder}\nloglevel warning\n"
            f"sentinel monitor mill 127.0.0.1 {master.port} {quorum}\n"
            "sentinel down-after-milliseconds mill 500\nsentinel failover-timeout mill 3000\n"
        )

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / "sentinel.conf"
        file.write_text(self.configuration)
        self._run([str(file), "--sentinel"])


@dataclass
class Cluster:
    """Three masters, each with a third of the slots, and no replicas."""

    nodes: list[Node] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"redis+cluster://{','.join(node.address for node in self.nodes)}"

    def start(self, folder: Path) -> None:
        for number in range(3):
            options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "2000")
            self.nodes.append(Node(folder / str(number), _port_with_bus(), options))
            self.nodes[-1].start()
        bounds = [SLOTS * third // 3 for third in range(4)]
        for number, node in enumerate(self.nodes):
            node.ask("CLUSTER", "ADDSLOTS", *range(bounds[number], bounds[number + 1]))
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            self.nodes[0].ask("CLUSTER", "MEET", "127.0.0.1", node.port)
        until(lambda: all(self._is_whole(node) for node in self.nodes), what="the Cluster to form")

    @staticmethod
    def _is_whole(node: Node) -> bool:
        with node.client() as client:
            info = client.execute_command("CLUSTER INFO")
        return info["cluster_state"] == "ok" and info["cluster_known_nodes"] == "3"

    def empty(self) -> None:
        for node in self.nodes:
            node.ask("FLUSHALL")

    def holder(self, key: str) -> Node:
        """The node that holds the key, by the word of the nodes themselves."""
        return self._holder(slot_of(key))

    def _holder(self, slot: int) -> Node:
        with self.nodes[0].client() as client:
            ranges = client.execute_command("CLUSTER SLOTS")
        port = next(master[1] for first, last, master, *_ in ranges if first <= slot <= last)
        return next(node for node in self.nodes if node.port == port)

    def move(self, slot: int) -> None:
        """Move a slot and its keys one by one to another node, as the tools of Redis do it."""
        source = self._holder(slot)
        target = self.nodes[(self.nodes.index(source) + 1) % 3]
        names = {node: str(node.ask("CLUSTER", "MYID")) for node in self.nodes}
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", names[source])
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", names[target])
        while keys := source.ask("CLUSTER", "GETKEYSINSLOT", slot, 1):
            assert isinstance(keys, list)
            source.ask("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
        for node in (target, source, *self.nodes):
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", names[target])

    def kill(self) -> None:
        for node in self.nodes:
            node.kill()


def slot_of(key: str) -> int:
    """The slot of a key."""
    return int(key_slot(key.encode()))


def _port_with_bus() -> int:
    """A free port whose sister, where the nodes of a Cluster talk to each other, is free, too."""
    while True:
        port = free_port()
        try:
            with socket.create_server(("127.0.0.1", port + 10_000)):
                return port
        except (OSError, OverflowError):
            continue


@dataclass
class Watched:
    """A master, a replica and three Sentinels that make the replica master when the master is gone."""

    folder: Path
    nodes: list[Node] = field(default_factory=list)
    sentinels: list[SentinelNode] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"redis+sentinel://{','.join(node.address for node in self.sentinels)}/mill"

    def start(self) -> None:
        master = Node(self.folder / "master", free_port())
        replica = Node(self.folder / "replica", free_port(), ("--replicaof", "127.0.0.1", str(master.port)))
        self.nodes = [master, replica]
        self.sentinels = [SentinelNode(self.folder / f"sentinel-{i}", master, quorum=2) for i in range(3)]
        for node in (*self.nodes, *self.sentinels):
            node.start()
        until(self._is_watched, what="the Sentinels to know the replica and each other")

    def _is_watched(self) -> bool:
        states = []
        for sentinel in self.sentinels:
            with sentinel.client() as client:
                states.append(client.sentinel_master("mill"))
        return all(state["num-slaves"] == 1 and state["num-other-sentinels"] == 2 for state in states)

    def kill(self) -> None:
        for node in (*self.sentinels, *self.nodes):
            node.kill()
