"""The stack on Redis Sentinel and on a Redis Cluster, all real processes: it outlives what happens there."""

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from millrace.broker.keys import WORKERS, Queue
from tests.support.running import Stack, until
from tests.support.topologies import Cluster, Watched, slot_of

Up = Callable[..., Stack]
QUEUE = Queue("tiny", 1)
TIMEOUT_MS = 4000


class Callers:
    """Threads that ask with numbers of their own. `tally` counts the outcomes: 200 for a right answer, the status of a
    refusal, or "wrong". One without an answer a while after its deadline raises when the `with` block ends."""

    def __init__(self, stack: Stack, count: int = 8) -> None:
        self._url = f"{stack.url}/v1/models/tiny:predict"
        self._pool = ThreadPoolExecutor(count)
        self._stopping = threading.Event()
        self.tally: Counter[object] = Counter()
        self._futures = [self._pool.submit(self._ask, number) for number in range(count)]

    def __enter__(self) -> "Callers":
        self.answered(50)
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._pool.shutdown()
        for future in self._futures:
            future.result()

    def answered(self, more: int) -> None:
        before = self.tally[200]
        until(lambda: self.tally[200] >= before + more, 60, f"{more} more answers: {self.tally}")

    def _ask(self, caller: int) -> None:
        turn = 0
        with httpx.Client(timeout=TIMEOUT_MS / 1000 + 4) as http:
            while not self._stopping.is_set():
                turn += 1
                headers = {"X-Request-Timeout-Ms": str(TIMEOUT_MS)}
                answer = http.post(self._url, json={"instances": [[caller, turn, 1]]}, headers=headers)
                total = float(caller + 2 * turn + 3)
                if answer.status_code != 200:
                    assert answer.json()["error"]
                    self.tally[answer.status_code] += 1
                    self._stopping.wait(0.02)
                else:
                    is_right = answer.json() == {"predictions": [[total, 10 * total]]}
                    self.tally[200 if is_right else "wrong"] += 1


@pytest.fixture
def start(up: Up, make_onnx: Callable[..., Path], tmp_path: Path) -> Callable[[str], Stack]:
    """Starts the stack with a tiny model on the Redis of that URL; it is ready when its example was answered."""

    def run(url: str) -> Stack:
        make_onnx(tmp_path / "models")
        stack = up("--models", str(tmp_path / "models"), "--redis-url", url, "--log-level", "error")
        assert stack.process.poll() is None, stack.output
        return stack

    return run


def test_a_master_that_dies_is_replaced_without_a_restart_of_ours(
    start: Callable[[str], Stack], watched: Watched
) -> None:
    stack = start(watched.url)
    processes = [process.pid for process in stack.children()]
    with Callers(stack) as callers:
        watched.nodes[0].kill()
        until(lambda: callers.tally[503] + callers.tally[504], what="requests refused while there is no master")
        callers.answered(200)
        with watched.nodes[1].client() as client:
            assert client.info("replication")["role"] == "master"
    assert callers.tally.keys() <= {200, 503, 504}, callers.tally
    assert [process.pid for process in stack.children()] == processes


@pytest.mark.slow
def test_a_master_that_steps_down_is_followed(start: Callable[[str], Stack], watched: Watched) -> None:
    stack = start(watched.url)
    with Callers(stack) as callers:
        watched.sentinels[0].ask("SENTINEL", "FAILOVER", "mill")
        with watched.nodes[1].client() as client:
            until(lambda: client.info("replication")["role"] == "master", what="the replica to be master")
        # What the Sentinels do after ten seconds, but for closing our connections: the next write finds it read-only.
        watched.nodes[0].ask("REPLICAOF", "127.0.0.1", watched.nodes[1].port)
        callers.answered(200)
    assert callers.tally.keys() <= {200, 503, 504}, callers.tally


def test_a_cluster_serves_from_several_nodes_at_once(start: Callable[[str], Stack], redis_cluster: Cluster) -> None:
    assert redis_cluster.holder(QUEUE.held) is not redis_cluster.holder(WORKERS)
    with Callers(start(redis_cluster.url)) as callers:
        callers.answered(500)
    assert callers.tally.keys() == {200}, callers.tally


@pytest.mark.slow
def test_slots_that_move_from_node_to_node_cost_no_answer(
    start: Callable[[str], Stack], redis_cluster: Cluster
) -> None:
    stack = start(redis_cluster.url)
    source = redis_cluster.holder(QUEUE.held)
    with source.client() as client:
        keys = client.keys("millrace:{*")
    (api,) = stack.children("-m serving")[:1]
    with Callers(stack) as callers:
        for slot in {slot_of(QUEUE.held), slot_of(WORKERS)} | {slot_of(key) for key in keys}:
            for _ in range(2):  # there, and to the third node
                redis_cluster.move(slot)
                callers.answered(50)
        assert redis_cluster.holder(QUEUE.held) is not source
    assert callers.tally.keys() == {200}, callers.tally
    assert api.is_running()


@pytest.mark.slow
def test_connections_to_a_cluster_that_are_cut_are_made_again(
    start: Callable[[str], Stack], redis_cluster: Cluster
) -> None:
    with Callers(start(redis_cluster.url)) as callers:
        for node in redis_cluster.nodes:
            node.ask("CLIENT", "KILL", "TYPE", "normal")
            callers.answered(50)
    assert callers.tally.keys() <= {200, 503, 504}, callers.tally
