"""`millrace dead-letters`, as an operator runs it, on a real Redis."""

import asyncio
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from millrace.broker.base import Append, Limits
from millrace.broker.keys import Queue
from millrace.broker.redis import RedisBroker
from millrace.protocol import codec
from millrace.protocol.messages import RequestBlock, RequestItem
from millrace.protocol.tensors import Tensor
from tests.support.running import RedisServer


def run(url: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MILLRACE_")}
    return subprocess.run(
        [sys.executable, "-m", "millrace", "dead-letters", *arguments],
        env=environment | {"MILLRACE_REDIS_URL": url},
        capture_output=True,
        text=True,
        timeout=60,
    )


def bury(url: str, queue: Queue, block: bytes, error: str) -> None:
    async def append() -> None:
        link = RedisBroker(url).producer("api")
        await link.append([Append(queue, "normal", ((1, block),))], Limits(100, 10**6))
        await link.close()

    asyncio.run(append())
    consumer = RedisBroker(url).consumer(queue, "worker-1-0")
    (delivery,) = consumer.exchange([], [], count=1, block_ms=0)
    consumer.bury(delivery, error)
    consumer.exchange([], [delivery], count=0, block_ms=0)
    consumer.close()


def block(model: str, *traces: str) -> bytes:
    items = tuple(RequestItem(number, trace, 1, 1_763_700_000_000) for number, trace in enumerate(traces))
    tensors = {"x": Tensor.from_numpy(np.zeros((len(traces), 3), np.float32))}
    return codec.encode_request(
        RequestBlock(
            reply_to="millrace:{a}:replies",
            model=model,
            version=1,
            signature="s",
            sent_ms=0.0,
            items=items,
            tensors=tensors,
        )
    )


@pytest.fixture
def url(redis_server: RedisServer) -> str:
    """A queue with three dead letters: two of digits, one of sentiment that cannot be read."""
    bury(redis_server.url, Queue("digits", 1), block("digits", "req-1", "req-2"), "the request was given up")
    bury(redis_server.url, Queue("digits", 1), block("digits", "evil\x1b[2Jname"), "again\nand again")
    bury(redis_server.url, Queue("sentiment", 3), b"garbage", "7 bytes are no block")
    return redis_server.url


def listed(url: str, *arguments: str) -> list[dict[str, object]]:
    answer = run(url, *arguments, "--json")
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


def test_they_are_listed_for_a_person_and_for_a_machine(url: str) -> None:
    first, second, third = listed(url)
    assert (first["model"], first["version"], first["requests"]) == ("digits", 1, ["req-1", "req-2"])
    assert (first["error"], first["deliveries"]) == ("the request was given up", 1)
    assert str(first["buried"]).endswith("+00:00")
    assert (third["model"], third["version"], third["requests"]) == ("sentiment", 3, [])
    assert listed(url, "list", "digits") == listed(url, "list", "digits/1") == [first, second]
    table = run(url).stdout.splitlines()
    assert table[0].split() == ["MODEL", "ID", "WHEN", "DELIVERIES", "REQUESTS", "ERROR"]
    assert len(table) == 4
    assert all(word in table[1] for word in ("digits/1", str(first["id"]), "req-1, req-2", "the request was given up"))
    assert "evil\\x1b[2Jname" in table[2]
    assert "again\\nand again" in table[2]


def test_one_is_shown_with_its_requests_tensors_and_error(url: str) -> None:
    first, _, third = listed(url)
    shown = json.loads(run(url, "show", "digits/1", str(first["id"]), "--json").stdout)
    assert shown["items"] == [
        {"id": 0, "request": "req-1", "rows": 1, "deadline": "2025-11-21T04:40:00.000+00:00"},
        {"id": 1, "request": "req-2", "rows": 1, "deadline": "2025-11-21T04:40:00.000+00:00"},
    ]
    assert shown["tensors"] == [{"name": "x", "datatype": "FP32", "shape": [2, 3], "bytes": 24}]
    assert (shown["error"], shown["consumer"]) == ("the request was given up", "worker-1-0")
    text = run(url, "show", "digits", str(first["id"])).stdout
    assert "req-2" in text
    assert "[2, 3]" in text
    unreadable = json.loads(run(url, "--json", "show", "sentiment/3", str(third["id"])).stdout)
    assert unreadable["unreadable"] == "7 bytes are no block"


def test_one_all_of_a_model_and_all_are_dropped(url: str) -> None:
    first, second, third = listed(url)
    assert run(url, "drop", "digits/1", str(first["id"])).stdout == "dropped 1\n"
    assert listed(url) == [second, third]
    assert run(url, "drop", "digits").stdout == "dropped 1\n"
    assert listed(url) == [third]
    assert json.loads(run(url, "drop", "--all", "--json").stdout) == {"dropped": 1}
    assert run(url).stdout == "no dead letters\n"
    assert json.loads(run(url, "drop", "--all", "--json").stdout) == {"dropped": 0}


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("show", "digits/1", "1-1"), "digits/1 has no dead letter 1-1"),
        (("drop", "digits/1", "1-1"), "digits/1 has no dead letter 1-1"),
        (("drop", "digits/1", "no-id"), "digits/1 has no dead letter no-id"),
        (("list", "digits/2"), "digits/2 has no dead letters; there are some of digits/1, sentiment/3"),
        (("drop",), "say what to drop: MODEL/VERSION ID, MODEL[/VERSION], or --all"),
        (("drop", "digits", "--all"), "say what to drop: MODEL/VERSION ID, MODEL[/VERSION], or --all"),
        (("--redis-url", "unix:///nowhere/redis.sock"), "cannot be reached"),
    ],
)
def test_what_is_not_there_is_said(url: str, arguments: tuple[str, ...], error: str) -> None:
    answer = run(url, *arguments)
    assert answer.returncode == 1
    assert error in answer.stderr
    assert "Traceback" not in answer.stderr
    assert len(listed(url)) == 3


def test_a_url_that_is_none_is_a_wrong_setting() -> None:
    answer = run("http://127.0.0.1")
    assert answer.returncode == 2
    assert "MILLRACE_REDIS_URL" in answer.stderr
