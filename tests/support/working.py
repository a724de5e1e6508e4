"""What tests of the worker share: scripted models, an instance in a thread, and callers of a real broker."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace

from millrace.artifacts.manifest import Batching
from millrace.broker.base import Append, Broker, Limits, ProducerLink
from millrace.broker.keys import Queue
from millrace.protocol import codec
from millrace.protocol.messages import ModelAnnouncement, RequestBlock, RequestItem
from millrace.protocol.tensors import Signature, Tensor, TensorSpec, encode_strings
from serving.queueing.producer import Producer
from serving.queueing.requests import InferenceRequest, InferenceResponse
from worker.backends.base import Arrays
from worker.loading.model import Model
from worker.preprocessing import preparation
from worker.running.current import CurrentRequests, current
from worker.running.loop import Instance
from worker.running.quarantine import Quarantine

QUEUE = Queue("m", 1)
SIGNATURE = Signature(
    inputs=(TensorSpec(name="x", datatype="FP32", shape=(-1, -1)),),
    outputs=(TensorSpec(name="y", datatype="FP32", shape=(-1, -1)),),
)


@dataclass
class Scripted:
    """A backend that computes `y` from `x` in Python and remembers the rows of each run.

    With `passes_traces_on`, also what it was told of the run's requests.
    """

    compute: Callable[[Any], Any]
    platform: str = "scripted"
    fault: str = ""
    notes: Sequence[str] = ()
    keeps_state: str = ""
    labels: Sequence[str] = ()
    passes_traces_on: bool = False

    def __post_init__(self) -> None:
        self.signatures: Mapping[str, Signature] = {"serving_default": SIGNATURE}
        self.mixed_rows: Mapping[str, str] = {}
        self.axes: Mapping[str, Sequence[str]] = {}
        self.runs: list[int] = []
        self.told: list[CurrentRequests | None] = []

    def run(self, signature: str, inputs: Arrays) -> Arrays:
        self.told.append(current.get())
        self.runs.append(len(inputs["x"]))
        return {"y": self.compute(inputs["x"])}

    def close(self) -> None:
        """Nothing is held."""


# Models named after how they break. 666 is the input that they cannot stand.


def doubles(x: Any) -> Any:
    return x * 2


def raises_in_infer(x: Any) -> Any:
    if (x == 666).any():
        raise ValueError("cannot stand 666\nand a second line")
    return x * 2


def wrong_batch_size(x: Any) -> Any:
    return x[:-1] * 2 if (x == 666).any() else x * 2


def model_of(backend: Scripted, max_batch_size: int = 8, delay_ms: float = 0.0) -> Model:
    announcement = ModelAnnouncement(
        name="m", version=1, state="AVAILABLE", signatures=dict(backend.signatures), max_batch_size=max_batch_size
    )
    batching = Batching(max_batch_size=max_batch_size, max_queue_delay_ms=delay_ms)
    return Model(announcement, batching, backend, preparation.load(Path(), None))


@contextmanager
def serving(broker: Broker, model: Model, name: str = "w", quarantine: Quarantine | None = None) -> Iterator[Instance]:
    """An instance in a thread, drained at the end."""
    consumer, clock = broker.consumer(QUEUE, f"{name}-0"), broker.worker().clock
    instance = Instance(model, consumer, worker=name, clock=clock, lease_ms=200, quarantine=quarantine)
    thread = threading.Thread(target=instance.run)
    thread.start()
    try:
        yield instance
    finally:
        instance.drain()
        thread.join(30)
        assert not thread.is_alive()


def request_of(value: Any, timeout_s: float = 10.0, largest: int = 8) -> InferenceRequest:
    array = np.array(value, np.float32)
    return InferenceRequest(
        model="m",
        version=1,
        signature="serving_default",
        inputs={"x": Tensor.from_numpy(array)},
        rows=len(array) if largest else 1,
        max_batch_size=largest,
        timeout_s=timeout_s,
        trace="trace",
    )


def text_request(*texts: str, timeout_s: float = 10.0) -> InferenceRequest:
    inputs = {"x": Tensor("BYTES", (len(texts),), encode_strings(texts))}
    return replace(request_of([[0.0]], timeout_s), inputs=inputs, rows=len(texts))


def ask(broker: Broker, *requests: InferenceRequest, api: str = "api") -> list[InferenceResponse | BaseException]:
    """The answers to requests that are submitted together, errors among them."""

    async def run() -> list[InferenceResponse | BaseException]:
        # No worker is announced here, so none is missed.
        producer = Producer(broker.producer(api), limits=Limits(1000, 10**8), grace_s=60)
        await producer.start()
        while not producer.is_connected:
            await asyncio.sleep(0.001)
        answers = await asyncio.gather(*map(producer.submit, requests), return_exceptions=True)
        await producer.stop()
        return answers

    return asyncio.run(run())


@asynccontextmanager
async def connected(broker: Broker) -> AsyncIterator[ProducerLink]:
    """A link of an API process, with its reply stream made and its clock set."""
    link = broker.producer("left")
    await link.heartbeat()
    yield link
    await link.close()


def block_of(link: ProducerLink, request: InferenceRequest, counts: Sequence[int]) -> Append:
    """A block whose rows are shared out to items of so many rows each, numbered from 0."""
    now_ms = link.clock.now_ms()
    deadline_ms = int(now_ms + request.timeout_s * 1000)
    block = RequestBlock(
        reply_to=link.reply_to,
        model="m",
        version=1,
        signature="serving_default",
        sent_ms=now_ms,
        items=tuple(RequestItem(number, "trace", rows, deadline_ms) for number, rows in enumerate(counts)),
        tensors=request.inputs,
    )
    return Append(QUEUE, request.priority, ((request.rows, codec.encode_request(block)),))


def put(broker: Broker, *requests: InferenceRequest) -> None:
    """Put requests on the queue, a block each, for whose answers nobody waits."""

    async def run() -> None:
        async with connected(broker) as link:
            for request in requests:
                block = block_of(link, request, [request.rows])
                (held,) = await link.append([block], Limits(10**6, 10**9))
                assert not held.is_refused

    asyncio.run(run())


def is_empty(broker: Broker) -> bool:
    """Whether all that was put on the queue is finished."""

    async def run() -> bool:
        async with connected(broker) as link:
            (held,) = await link.append([Append(QUEUE, "normal", ((1, b""),))], Limits(0, 0))
        return held.rows == 0

    return asyncio.run(run())


def shown(answer: InferenceResponse | BaseException) -> Any:
    return answer.outputs["y"].to_numpy().tolist() if isinstance(answer, InferenceResponse) else type(answer)
