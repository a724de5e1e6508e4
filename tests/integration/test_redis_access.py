"""Entering Redis: by ACL users who may do the least, and through TLS."""

import asyncio
import re
from collections.abc import Callable, Iterator

import pytest
import redis

from millrace.broker import acl
from millrace.broker.base import Append, Limits, Reply, Room
from millrace.broker.fragments import Reference
from millrace.broker.keys import Queue, reply_fragments
from millrace.broker.redis import RedisBroker
from millrace.protocol.desired_state import DesiredState
from millrace.protocol.errors import Unavailable
from millrace.protocol.messages import WorkerAnnouncement
from tests.support.running import RedisServer
from tests.support.tls import Certificates, tls_in_front_of
from tests.support.topologies import Cluster

QUEUE = Queue("m", 1)


def entered_freely(url: str) -> str:
    """The URL without its user."""
    return re.sub("://[a-z-]+:secret@", "://", url)


async def api_does_all(url: str, *, changes_models: bool = True) -> None:
    """Everything that an API process asks of Redis, and a model that calls others unless it `changes_models`."""
    link = RedisBroker(url).producer("api")
    try:
        await link.heartbeat()
        if changes_models:
            await link.write_desired_state(DesiredState(model="m", generation=1), replaces=0)
            await link.exchange_usage(b"{}")
        await link.append([Append(QUEUE, "normal", ((1, b"x"), (1, b"y")))], Limits(10, 100))
        if changes_models:
            await link.depths([QUEUE])
        later_ms = int(link.clock.now_ms()) + 60_000
        kept = Room("api:1", 1, 10, 1)
        assert not (await link.append([Append(QUEUE, "normal", (), keeps=kept)], Limits(10, 100)))[0].is_refused
        assert (await link.append([Append(QUEUE, "normal", ((9, b"x"),))], Limits(10, 100)))[0].is_refused
        await link.append([Append(QUEUE, "normal", (), takes=kept)], Limits(10, 100))
        await link.store(QUEUE, "f", b"x", later_ms)
        await link.cancel(QUEUE, [(1, int(link.clock.now_ms()) + 60_000)])
        with redis.Redis.from_url(entered_freely(url)) as client:
            for block in (bytes(2**16), b"2"):  # so much that it is trimmed with the next read
                client.xadd(link.reply_to, {"b": block})
                assert await link.replies() == [block]
            client.rpush(reply_fragments(link.reply_to, "f"), b"x")
            assert await link.fetch(Reference("f", 1, 1)) == b"x"
    finally:
        await link.close()


def worker_does_all(url: str) -> None:
    """Everything that a worker asks of Redis, with a block that is claimed, renewed, buried, answered and finished."""
    make_reply_stream(entered_freely(url))
    asyncio.run(prepare(entered_freely(url)))
    broker = RedisBroker(url)
    link, first, second = (
        broker.worker(),
        broker.consumer(QUEUE, "first", forget_ms=0),
        broker.consumer(QUEUE, "second"),
    )
    link.announce(WorkerAnnouncement(worker="dead", expires_ms=1, models=()))
    link.announce(WorkerAnnouncement(worker="w", expires_ms=2**50, models=()))
    assert [worker.worker for worker in link.live()] == ["w"]
    link.put_back([DesiredState(model="m", generation=1)])
    assert link.block_count(QUEUE) == 1
    (delivery,) = first.exchange([], [], count=1, block_ms=10)
    assert delivery.block == b"x"
    assert first.cancelled_count == 0
    first.cancelled([("millrace:{api}:replies", 1)])
    second.exchange([Reply("millrace:{reads}:replies", bytes(300_000))], [], count=0, block_ms=0)
    claimed = list(second.claim(lease_ms=0, count=1))
    link.renew([(QUEUE, "second")])
    second.bury(claimed[0], "why")
    second.exchange([Reply("millrace:{api}:replies", b"y")], claimed, count=0, block_ms=0)
    link.settle(QUEUE, Reply("millrace:{api}:replies", b"why"), 1, int(link.clock.now_ms()) + 60_000)
    link.release(QUEUE, "second", is_suspect=True)
    if link.can_watch:
        link.watch([QUEUE], 10)
    link.withdraw("w")
    first.close()
    second.close()
    link.close()


def make_reply_stream(url: str) -> None:
    """That of an API process that waits for replies."""
    made = redis.RedisCluster if "cluster" in url else redis.Redis
    with made.from_url(url.replace("+cluster", "").partition(",")[0]) as client:
        client.xadd("millrace:{reads}:replies", {"b": b"x"})


async def prepare(url: str) -> None:
    """A block in fragments on the queue."""
    link = RedisBroker(url).producer("api")
    await link.heartbeat()
    await link.store(QUEUE, "f", b"x", int(link.clock.now_ms()) + 60_000)
    await link.append([Append(QUEUE, "normal", ((1, Reference("f", 1, 1).encoded()),))], Limits(10, 100))
    await link.close()


def worker_with_code_does_all(url: str) -> None:
    """Everything that a worker asks of Redis whose models may be code, which may call models."""
    asyncio.run(api_does_all(url, changes_models=False))
    with redis.Redis.from_url(entered_freely(url)) as client:
        client.flushall()
    worker_does_all(url)


def operator_does_all(url: str) -> None:
    """Everything that `millrace dead-letters` asks of Redis."""
    with redis.Redis.from_url(entered_freely(url)) as client:
        for _ in range(2):
            client.xadd(QUEUE.dead, {"b": b"x", "error": "why", "deliveries": 3, "consumer": "c"})
    link = RedisBroker(url).operator()
    (queue,) = link.dead_letter_queues()
    letters = list(link.dead_letters(queue))
    assert link.drop_dead_letters(queue, [letters[0].entry_id]) == 1
    assert link.drop_dead_letters(queue) == 1
    link.close()


ROLES: dict[str, Callable[[str], None]] = {
    "api": lambda url: asyncio.run(api_does_all(url)),
    "worker": worker_does_all,
    "worker-with-code": worker_with_code_does_all,
    "dead-letters": operator_does_all,
}


@pytest.fixture
def user(redis_server: RedisServer) -> Iterator[Callable[..., str]]:
    """Makes the user of a role, who may do what its ACL line says but for some commands; the URL by which it enters."""
    names = set()

    def make(role: str, *forbidden: str) -> str:
        assert set(forbidden) <= set(acl.COMMANDS[role])
        rules = [rule for rule in acl.rules(role).split() if rule not in {f"+{command}" for command in forbidden}]
        with redis.Redis.from_url(redis_server.url) as client:
            client.execute_command("ACL", "SETUSER", role, "reset", ">secret", *rules)
        names.add(role)
        return redis_server.url.replace("unix://", f"unix://{role}:secret@")

    yield make
    with redis.Redis.from_url(redis_server.url) as client:
        client.acl_deluser(*names)


@pytest.mark.parametrize("role", ROLES)
def test_each_role_can_do_its_work_with_exactly_its_acl(role: str, user: Callable[..., str]) -> None:
    ROLES[role](user(role))


@pytest.mark.parametrize(("role", "command"), [(role, command) for role in ROLES for command in acl.COMMANDS[role]])
def test_every_command_of_an_acl_is_needed_and_missed_in_words(
    role: str, command: str, user: Callable[..., str]
) -> None:
    with pytest.raises(Unavailable, match=r"lacks a permission .*(NOPERM|can't run this|has no permissions to)"):
        ROLES[role](user(role, command))


def test_other_keys_are_out_of_reach(user: Callable[..., str], redis_server: RedisServer) -> None:
    with redis.Redis.from_url(user("api")) as client, pytest.raises(redis.exceptions.NoPermissionError):
        client.hvals("another")


def test_in_a_cluster_a_role_must_be_allowed_to_find_its_way(redis_cluster: Cluster) -> None:
    def allow(*more: str) -> None:
        for node in redis_cluster.nodes:
            rules = [*acl.rules("worker").split(), *(f"+{command}" for command in more)]
            node.ask("ACL", "SETUSER", "worker", "reset", ">secret", *rules)

    url = redis_cluster.url.replace("://", "://worker:secret@")
    try:
        allow(*acl.CLUSTER_COMMANDS)
        worker_does_all(url)
        allow()
        with pytest.raises(Unavailable, match=r"the Redis Cluster cannot be reached.* permission"):
            worker_does_all(url)
    finally:
        for node in redis_cluster.nodes:
            node.ask("ACL", "DELUSER", "worker")


def test_tls_works_for_every_role(redis_server: RedisServer, certificates: Certificates) -> None:
    with tls_in_front_of(redis_server, certificates, "server", asks=False) as port:
        url = f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificates.file('ca.crt')}"
        asyncio.run(prepare(url))
        worker = RedisBroker(url).consumer(QUEUE, "c")
        assert [delivery.block for delivery in worker.exchange([], [], count=1, block_ms=0)] == [b"x"]
        worker.close()


@pytest.mark.parametrize("name", ["server", "stranger"])
def test_a_server_that_cannot_prove_itself_is_refused_unless_told_otherwise(
    redis_server: RedisServer, certificates: Certificates, name: str
) -> None:
    authority = f"ssl_ca_certs={certificates.file('ca.crt')}"
    refused = {"server": "", "stranger": f"?{authority}"}[name]
    taken = {"server": "?ssl_cert_reqs=none", "stranger": f"?{authority}&ssl_check_hostname=false"}[name]
    with tls_in_front_of(redis_server, certificates, name, asks=False) as port:
        for role in (lambda url: asyncio.run(prepare(url)), lambda url: RedisBroker(url).worker().live()):
            with pytest.raises(Unavailable, match="certificate verify failed"):
                role(f"rediss://127.0.0.1:{port}/0{refused}")
            role(f"rediss://127.0.0.1:{port}/0{taken}")


def test_a_client_certificate_is_shown_to_a_server_that_asks(
    redis_server: RedisServer, certificates: Certificates
) -> None:
    with tls_in_front_of(redis_server, certificates, "server", asks=True) as port:
        url = f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificates.file('ca.crt')}"
        with pytest.raises(Unavailable):
            RedisBroker(url).worker().live()
        with pytest.raises(Unavailable):
            asyncio.run(prepare(url))
        url += f"&ssl_certfile={certificates.file('client.crt')}&ssl_keyfile={certificates.file('client.key')}"
        assert RedisBroker(url).worker().live() == []
        asyncio.run(prepare(url))
