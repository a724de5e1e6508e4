"""The two clients: they drive the same conversations, one with blocking calls, one with asyncio."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from millrace_client.conversations import SIMILAR_MODEL, Conversations
from millrace_client.errors import ConnectionFailed, DeadlineExceeded, InvalidResponse, MillraceError
from millrace_client.exchange import Conversation, Response, Send, Wait
from millrace_client.models import ModelMetadata, ModelStatus
from millrace_client.prediction import Prediction

DEFAULT_URL = "http://127.0.0.1:8000"
DEFAULT_TIMEOUT_S = 30.0
DEFAULT_RETRIES = 3
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=100)
_HEADERS = {"Accept": "application/json", "User-Agent": "millrace-client"}

T = TypeVar("T")


class Client:
    """Asks one server; may be shared by threads; close it, or use it in a `with`.

        with Client("http://127.0.0.1:8000") as client:
            client.predict("digits", Path("seven.png")).best()

    `timeout_s` bounds a whole call with all its attempts and waits, and travels to the server as its deadline.
    `retries` is how many more attempts follow one that was refused (429, 503) or found no connection: after what the
    answer's Retry-After says, else after a random, doubling time, never past the deadline. A prediction changes nothing
    on the server, so an attempt whose connection broke is repeated too. Every method raises the errors of
    `millrace_client.errors`. `transport` takes the place of the network; `clock` (s), `sleep` (s) and `rng` of time and
    chance. Raises `ValueError` for a URL that is not http or https.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retries: int = DEFAULT_RETRIES,
        transport: httpx.BaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        rng: random.Random | None = None,
    ) -> None:
        self.url = _checked(url)
        self._ask = Conversations(timeout_s=timeout_s, retries=retries, clock=clock, rng=rng or random.SystemRandom())
        self._clock, self._sleep = clock, sleep
        self._http = httpx.Client(headers=_HEADERS, limits=_LIMITS, transport=transport, trust_env=_is_remote(self.url))

    def predict(
        self,
        model: str,
        inputs: object,
        *,
        version: int | str | None = None,
        signature: str | None = None,
        timeout_s: float | None = None,
    ) -> Prediction:
        """The model's answer to `inputs`: one value for a model with one required input, or a dict by input name.

        A value is an array, nested lists, a number, text (`str`), or an encoded file (`bytes`, or a `pathlib.Path` that
        is read), or a list of such. One example without the row dimension becomes one row: when that is so, by the
        shapes in the model's metadata, is the table in `millrace_client.inputs`. The metadata are asked for before the
        first prediction and again after 60 s or a refused request. With another signature than the default,
        which the metadata do not describe, `inputs` is a dict and goes as given.
        """
        return self._run(self._ask.predict(model, inputs, version, signature, timeout_s))

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

    def metadata(self, model: str, *, version: int | str | None = None) -> ModelMetadata:
        """The model's inputs, outputs and labels, as the server gives them now."""
        return self._run(self._ask.metadata(model, version))

    def is_ready(self, model: str | None = None, *, version: int | str | None = None) -> bool:
        """Whether the server, or that model, answers that it is ready. One attempt; False where nothing answers."""
        return self._run(self._ask.is_ready(model, version))

    def close(self) -> None:
        """Close the connections; the client cannot be used afterwards."""
        self._http.close()

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
        until_s = self._clock() + step.timeout_s
        try:
            with self._http.stream(**_arguments(self.url, step)) as response:
                body = b"".join(self._within(response.iter_bytes(), until_s, step.timeout_s))
        except httpx.RequestError as error:
            raise _error_of(error, self.url, step) from error
        return _response(response, body)

    def _within(self, chunks: Iterator[bytes], until_s: float, timeout_s: float) -> Iterator[bytes]:
        """The chunks while there is time: httpx bounds the wait for each one, not that for all."""
        for chunk in chunks:
            if self._clock() > until_s:
                raise _timed_out(self.url, timeout_s)
            yield chunk


class AsyncClient:
    """The same for asyncio: as `Client`, with every method awaited; one client serves any number of tasks of one loop.

    async with AsyncClient() as client:
        answers = await asyncio.gather(*(client.predict("digits", image) for image in images))
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retries: int = DEFAULT_RETRIES,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        rng: random.Random | None = None,
    ) -> None:
        self.url = _checked(url)
        self._ask = Conversations(timeout_s=timeout_s, retries=retries, clock=clock, rng=rng or random.SystemRandom())
        self._sleep = sleep
        self._http = httpx.AsyncClient(
            headers=_HEADERS, limits=_LIMITS, transport=transport, trust_env=_is_remote(self.url)
        )

    async def predict(
        self,
        model: str,
        inputs: object,
        *,
        version: int | str | None = None,
        signature: str | None = None,
        timeout_s: float | None = None,
    ) -> Prediction:
        """As `Client.predict`."""
        return await self._run(self._ask.predict(model, inputs, version, signature, timeout_s))

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

    async def metadata(self, model: str, *, version: int | str | None = None) -> ModelMetadata:
        """As `Client.metadata`."""
        return await self._run(self._ask.metadata(model, version))

    async def is_ready(self, model: str | None = None, *, version: int | str | None = None) -> bool:
        """As `Client.is_ready`."""
        return await self._run(self._ask.is_ready(model, version))

    async def close(self) -> None:
        """Close the connections; the client cannot be used afterwards."""
        await self._http.aclose()

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
        try:
            async with asyncio.timeout(step.timeout_s):
                response = await self._http.request(**_arguments(self.url, step))
        except TimeoutError:
            raise _timed_out(self.url, step.timeout_s) from None
        except httpx.RequestError as error:
            raise _error_of(error, self.url, step) from error
        return _response(response, response.content)


def _checked(url: str) -> str:
    parsed = httpx.URL(url)
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ValueError(f"{url!r} is not the URL of a server: it has to begin with http:// or https://")
    return url.rstrip("/")


def _is_remote(url: str) -> bool:
    """A server on this machine is never asked through the proxy that the environment names."""
    return httpx.URL(url).host not in _LOOPBACK


def _arguments(url: str, step: Send) -> dict[str, Any]:
    request = step.request
    return {
        "method": request.method,
        "url": url + request.path,
        "content": request.body,
        "headers": dict(request.headers),
        "timeout": step.timeout_s,
    }


def _response(response: httpx.Response, body: bytes) -> Response:
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Response(status=response.status_code, headers=headers, body=body)


def _error_of(error: httpx.RequestError, url: str, step: Send) -> MillraceError:
    if isinstance(error, httpx.TimeoutException):
        return _timed_out(url, step.timeout_s)
    if isinstance(error, httpx.DecodingError):
        return InvalidResponse(f"the answer of {url} cannot be decompressed: {error}")
    if isinstance(error, httpx.ConnectError):
        return ConnectionFailed(f"cannot reach {url}: {error}")
    return ConnectionFailed(f"the connection to {url} was lost: {error or type(error).__name__}")


def _timed_out(url: str, timeout_s: float) -> DeadlineExceeded:
    return DeadlineExceeded(f"no answer from {url} within {timeout_s:.3g} s")
