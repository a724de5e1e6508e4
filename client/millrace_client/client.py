"""The two clients: they drive the same conversations, one with blocking calls, one with asyncio."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import httpx2

from millrace_client import control
from millrace_client.conversations import SIMILAR_MODEL, Conversations
from millrace_client.credentials import Credentials
from millrace_client.endpoint import Endpoint, endpoint, grpc_part
from millrace_client.errors import InvalidRequest, MillraceError
from millrace_client.exchange import Conversation, Response, Send, Wait
from millrace_client.httpwire import AsyncHttpWire, HttpWire
from millrace_client.jobrequests import JobRequests
from millrace_client.jobs import AsyncJobs, Jobs
from millrace_client.models import ModelMetadata, ModelStatus
from millrace_client.prediction import Prediction
from millrace_client.protocol import Operation, Transport

DEFAULT_TIMEOUT_S = 30.0
DEFAULT_RETRIES = 3

T = TypeVar("T")


class Client:
    """Asks one server; may be shared by threads; close it, or use it in a `with`.

        with Client("http://127.0.0.1:8000") as client:
            client.predict("digits", Path("seven.png")).best()

    `transport` is "json" (HTTP), "binary" (HTTP, with tensors as bytes) or "grpc"; without one the URL says it, which
    begins with http://, https://, grpc:// or grpcs://. All of them answer the same and raise the same. Without a URL,
    the environment variable MILLRACE_URL names the server; else it is http://127.0.0.1:8000, or for grpc
    grpc://127.0.0.1:8001.
    `timeout_s` bounds a whole call with all its attempts and waits, and travels to the server as its deadline.
    `retries` is how many more attempts follow one that was refused (429, 503) or found no connection: after what the
    answer's Retry-After says, else after a random, doubling time, never past the deadline. A prediction changes nothing
    on the server, so an attempt whose connection broke is repeated too. Every method raises the errors of
    `millrace_client.errors`.

    `api_key` goes with each request. `ca_file` (PEM) has the authorities that are trusted in the place of the system's,
    `certificate` is the client's own: a PEM file, or one and its key's. What is left out, the environment may say:
    MILLRACE_API_KEY or MILLRACE_API_KEY_FILE, MILLRACE_CA_FILE, MILLRACE_CLIENT_CERT and MILLRACE_CLIENT_KEY.

    `network` takes the place of the one under HTTP; `clock` (s), `sleep` (s) and `rng` that of time and chance. Raises
    `ValueError` for a URL and a transport that do not go together and for files that cannot be used,
    `ModuleNotFoundError` for grpc without the extra: `pip install './client[grpc]'` in Millrace's checkout.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        transport: Transport | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retries: int = DEFAULT_RETRIES,
        api_key: str | None = None,
        ca_file: str | Path | None = None,
        certificate: str | Path | tuple[str | Path, str | Path] | None = None,
        network: httpx2.BaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        rng: random.Random | None = None,
    ) -> None:
        found = endpoint(url, transport)
        own = Credentials.of(api_key, ca_file, certificate)
        self.url, self.transport = found.url, found.transport
        self._ask = _conversations(found, timeout_s=timeout_s, retries=retries, clock=clock, rng=rng)
        self._sleep = sleep
        self._wire: _Wire = (
            grpc_part("grpcwire").GrpcWire(self.url, own)
            if self.transport == "grpc"
            else HttpWire(self.url, network, clock, own)
        )

    def predict(
        self,
        model: str,
        inputs: object,
        *,
        version: int | str | None = None,
        label: str | None = None,
        signature: str | None = None,
        timeout_s: float | None = None,
    ) -> Prediction:
        """The model's answer to `inputs`: one value for a model with one required input, or a dict by input name.

        A value is an array, nested lists, a number, text (`str`), or an encoded file (`bytes`, or a `pathlib.Path` that
        is read), or a list of such. One example without the row dimension becomes one row: when that is so, by the
        shapes in the model's metadata, is the table in `millrace_client.inputs`. The metadata are asked for before the
        first prediction and again after 60 s or a refused request. With another signature than the default,
        which the metadata do not describe, `inputs` is a dict and goes as given. `label` asks the version that has that
        label on the server; at most one of it and `version` may be named.
        """
        return self._run(self._ask.predict(model, inputs, version, label, signature, timeout_s))

    def similar(
        self,
        positive: str | Sequence[str],
        negative: str | Sequence[str] = (),
        *,
        k: int = 10,
        model: str = SIMILAR_MODEL,
    ) -> list[tuple[str, float]]:
        """The words nearest to the sum of the positive less the negative ones, as (word, similarity), nearest first.

        At most `k`, and no more than the model answers; the given words are never among them.
        """
        return self._run(self._ask.similar(positive, negative, k, model))

    def models(self) -> list[ModelStatus]:
        """The server's models with the state of each version."""
        return self._run(self._ask.models())

    def metadata(self, model: str, *, version: int | str | None = None, label: str | None = None) -> ModelMetadata:
        """The model's inputs, outputs and labels, as the server gives them now."""
        return self._run(self._ask.metadata(model, version, label))

    def is_ready(self, model: str | None = None, *, version: int | str | None = None) -> bool:
        """Whether the server, or that model, answers that it is ready. One attempt; False where nothing answers."""
        return self._run(self._ask.is_ready(model, version))

    def traffic(self, model: str) -> dict[str, Any]:
        """Which versions of the model get which requests. Over HTTP alone, as the two that follow."""
        return self._run(self._ask.operate(_over_http(self.transport, control.traffic(model))))

    def set_traffic(self, model: str, document: Mapping[str, Any]) -> dict[str, Any]:
        """Say which versions get which requests: `weights`, `shadow`; what holds then."""
        return self._run(self._ask.operate(_over_http(self.transport, control.set_traffic(model, document))))

    def metrics(self) -> str:
        """The server's metrics, in Prometheus' format."""
        return self._run(self._ask.operate(_over_http(self.transport, control.metrics())))

    @property
    def jobs(self) -> Jobs:
        """The server's background jobs. Raises `InvalidRequest` over gRPC, which has none."""
        return Jobs(_job_requests(self._ask, self.transport), self._run)

    def close(self) -> None:
        """Close the connections; the client cannot be used afterwards."""
        self._wire.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, conversation: Conversation[T]) -> T:
        try:
            step = next(conversation)
            while True:
                try:
                    response = self._perform(step)
                except MillraceError as error:
                    step = conversation.throw(error)
                else:
                    step = conversation.send(response)
        except StopIteration as end:
            result: T = end.value
            return result

    def _perform(self, step: Send | Wait) -> Response | None:
        if isinstance(step, Wait):
            self._sleep(step.seconds)
            return None
        return self._wire.send(step)


class AsyncClient:
    """The same for asyncio: as `Client`, with every method awaited; one client serves any number of tasks of one loop.

    async with AsyncClient() as client:
        answers = await asyncio.gather(*(client.predict("digits", image) for image in images))
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        transport: Transport | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retries: int = DEFAULT_RETRIES,
        api_key: str | None = None,
        ca_file: str | Path | None = None,
        certificate: str | Path | tuple[str | Path, str | Path] | None = None,
        network: httpx2.AsyncBaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        rng: random.Random | None = None,
    ) -> None:
        found = endpoint(url, transport)
        own = Credentials.of(api_key, ca_file, certificate)
        self.url, self.transport = found.url, found.transport
        self._ask = _conversations(found, timeout_s=timeout_s, retries=retries, clock=clock, rng=rng)
        self._sleep = sleep
        self._wire: _AsyncWire = (
            grpc_part("grpcwire").AsyncGrpcWire(self.url, own)
            if self.transport == "grpc"
            else AsyncHttpWire(self.url, network, own)
        )

    async def predict(
        self,
        model: str,
        inputs: object,
        *,
        version: int | str | None = None,
        label: str | None = None,
        signature: str | None = None,
        timeout_s: float | None = None,
    ) -> Prediction:
        """As `Client.predict`."""
        return await self._run(self._ask.predict(model, inputs, version, label, signature, timeout_s))

    async def similar(
        self,
        positive: str | Sequence[str],
        negative: str | Sequence[str] = (),
        *,
        k: int = 10,
        model: str = SIMILAR_MODEL,
    ) -> list[tuple[str, float]]:
        """As `Client.similar`."""
        return await self._run(self._ask.similar(positive, negative, k, model))

    async def models(self) -> list[ModelStatus]:
        """As `Client.models`."""
        return await self._run(self._ask.models())

    async def metadata(
        self, model: str, *, version: int | str | None = None, label: str | None = None
    ) -> ModelMetadata:
        """As `Client.metadata`."""
        return await self._run(self._ask.metadata(model, version, label))

    async def is_ready(self, model: str | None = None, *, version: int | str | None = None) -> bool:
        """As `Client.is_ready`."""
        return await self._run(self._ask.is_ready(model, version))

    async def traffic(self, model: str) -> dict[str, Any]:
        """As `Client.traffic`."""
        return await self._run(self._ask.operate(_over_http(self.transport, control.traffic(model))))

    async def set_traffic(self, model: str, document: Mapping[str, Any]) -> dict[str, Any]:
        """As `Client.set_traffic`."""
        return await self._run(self._ask.operate(_over_http(self.transport, control.set_traffic(model, document))))

    async def metrics(self) -> str:
        """As `Client.metrics`."""
        return await self._run(self._ask.operate(_over_http(self.transport, control.metrics())))

    @property
    def jobs(self) -> AsyncJobs:
        """As `Client.jobs`."""
        return AsyncJobs(_job_requests(self._ask, self.transport), self._run)

    async def close(self) -> None:
        """Close the connections; the client cannot be used afterwards."""
        await self._wire.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _run(self, conversation: Conversation[T]) -> T:
        try:
            step = next(conversation)
            while True:
                try:
                    response = await self._perform(step)
                except MillraceError as error:
                    step = conversation.throw(error)
                else:
                    step = conversation.send(response)
        except StopIteration as end:
            result: T = end.value
            return result

    async def _perform(self, step: Send | Wait) -> Response | None:
        if isinstance(step, Wait):
            await self._sleep(step.seconds)
            return None
        return await self._wire.send(step)


class _Wire(Protocol):
    """What carries a request: raises a `MillraceError` where no answer came."""

    def send(self, step: Send) -> Response: ...
    def close(self) -> None: ...


class _AsyncWire(Protocol):
    async def send(self, step: Send) -> Response: ...
    async def close(self) -> None: ...


def _over_http(transport: Transport, operation: Operation[T]) -> Operation[T]:
    if transport == "grpc":
        raise InvalidRequest("this is asked over HTTP: the client's URL has to begin with http:// or https://")
    return operation


def _job_requests(ask: Conversations, transport: Transport) -> JobRequests:
    if transport == "grpc":
        raise InvalidRequest("jobs are submitted over HTTP: the client's URL has to begin with http:// or https://")
    return JobRequests(ask)


def _conversations(
    found: Endpoint, *, timeout_s: float, retries: int, clock: Callable[[], float], rng: random.Random | None
) -> Conversations:
    rng = rng or random.SystemRandom()
    return Conversations(protocol=found.protocol(), timeout_s=timeout_s, retries=retries, clock=clock, rng=rng)
