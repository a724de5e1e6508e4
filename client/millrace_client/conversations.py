"""What the client can ask, as conversations that know no network: see `exchange` for how they are driven."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar

import numpy as np

from millrace_client.errors import InvalidRequest, InvalidResponse, MillraceError, NotFound
from millrace_client.exchange import Conversation, Deadline, Response, RetryPolicy, exchange
from millrace_client.inputs import tensors_as_given, tensors_for
from millrace_client.models import ModelMetadata, ModelStatus
from millrace_client.prediction import Prediction, timings_of
from millrace_client.protocol import InferenceProtocol, InferenceRequest, Operation

METADATA_TTL_S = 60.0
DEFAULT_SIGNATURE = "serving_default"
SIMILAR_MODEL = "word2vec"

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class CallContext:
    """What all requests of one call share: its deadline and its request id."""

    deadline: Deadline
    request_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversations:
    """One method per operation. `cache` holds the metadata of (model, version, label) with the time it was read."""

    protocol: InferenceProtocol
    timeout_s: float
    retries: int
    clock: Callable[[], float]
    rng: Random
    cache: dict[tuple[str, str | None, str | None], tuple[float, ModelMetadata]] = field(default_factory=dict)

    def predict(
        self,
        model: str,
        inputs: object,
        version: int | str | None,
        label: str | None,
        signature: str | None,
        timeout_s: float | None,
    ) -> Conversation[Prediction]:
        """The model's answer to `inputs`; its metadata is asked for first where it is not known."""
        if version is not None and label is not None:
            raise InvalidRequest("a version and a label cannot both be asked for")
        context, wanted = self._context(timeout_s), _version(version)
        metadata = yield from self._known_metadata(model, wanted, label, context)
        try:
            call = _call(model, wanted, label, signature, inputs, metadata)
            outputs = metadata.outputs if call.signature is None else ()
            response, answer = yield from self._ask(self.protocol.predict(call, outputs), context)
        except (InvalidRequest, NotFound):
            self.cache.pop((model, wanted, label), None)  # what was known of the model may be out of date
            raise
        return Prediction(
            model=model,
            version=answer.version or wanted,
            outputs=answer.outputs,
            labels=metadata.labels,
            request_id=response.headers.get("x-request-id", context.request_id),
            timings=timings_of(response.headers.get("server-timing", "")),
        )

    def similar(
        self, positive: str | Sequence[str], negative: str | Sequence[str], k: int, model: str
    ) -> Conversation[list[tuple[str, float]]]:
        """The `k` words nearest to the sum of the positive less the negative words, nearest first."""
        plus, minus = _words(positive), _words(negative)
        inputs = {
            "tokens": [plus + minus],
            "weights": np.array([[1.0] * len(plus) + [-1.0] * len(minus)], np.float32),
        }
        prediction = yield from self.predict(model, inputs, None, None, None, None)
        try:
            words, similarities = prediction.outputs["neighbors"][0], prediction.outputs["similarities"][0]
        except (KeyError, IndexError):
            raise InvalidRequest(
                f"model {model!r} has no word neighbours: it answers {list(prediction.outputs)}"
            ) from None
        asked = {word.casefold() for word in plus + minus}
        pairs = zip(words.tolist(), similarities.tolist(), strict=True)
        return [(word, similarity) for word, similarity in pairs if word.casefold() not in asked][:k]

    def metadata(self, model: str, version: int | str | None, label: str | None) -> Conversation[ModelMetadata]:
        """What the server says of the model now."""
        return (yield from self._metadata(model, _version(version), label, self._context(None)))

    def models(self) -> Conversation[list[ModelStatus]]:
        """The server's list of models."""
        _, statuses = yield from self._ask(self.protocol.models(), self._context(None))
        return statuses

    def is_ready(self, model: str | None, version: int | str | None) -> Conversation[bool]:
        """Whether the server, or the model, says that it is ready; asked once, and every failure is a no."""
        once = RetryPolicy(retries=0, rng=self.rng)
        try:
            _, ready = yield from self._ask(self.protocol.ready(model, _version(version)), self._context(None), once)
        except MillraceError:
            return False
        return ready

    def operate(self, operation: Operation[T], timeout_s: float | None = None) -> Conversation[T]:
        """What an operation of another protocol than that of models answers."""
        _, value = yield from self._ask(operation, self._context(timeout_s))
        return value

    def _context(self, timeout_s: float | None) -> CallContext:
        timeout_s = self.timeout_s if timeout_s is None else timeout_s
        deadline = Deadline(clock=self.clock, at_s=self.clock() + timeout_s, timeout_s=timeout_s)
        return CallContext(deadline=deadline, request_id=f"{self.rng.getrandbits(128):032x}")

    def _known_metadata(
        self, model: str, version: str | None, label: str | None, context: CallContext
    ) -> Conversation[ModelMetadata]:
        read_at_s, metadata = self.cache.get((model, version, label), (0.0, None))
        if metadata is None or self.clock() - read_at_s > METADATA_TTL_S:
            metadata = yield from self._metadata(model, version, label, context)
        return metadata

    def _metadata(
        self, model: str, version: str | None, label: str | None, context: CallContext
    ) -> Conversation[ModelMetadata]:
        number = version
        if label is not None:
            _, number = yield from self._ask(self.protocol.version_of(model, label), context)
        _, metadata = yield from self._ask(self.protocol.metadata(model, number), context)
        self.cache[model, version, label] = (self.clock(), metadata)
        return metadata

    def _ask(
        self, operation: Operation[T], context: CallContext, policy: RetryPolicy | None = None
    ) -> Conversation[tuple[Response, T]]:
        """The last response, and what they all mean."""
        policy = policy or RetryPolicy(retries=self.retries, rng=self.rng)
        responses = []
        for request in operation.requests:
            response = yield from exchange(
                request, deadline=context.deadline, policy=policy, request_id=context.request_id
            )
            responses.append(response)
        try:
            return response, operation.read(responses)
        except InvalidResponse as error:
            error.status = response.status
            error.request_id = response.headers.get("x-request-id", context.request_id)
            raise


def _call(
    model: str, version: str | None, label: str | None, signature: str | None, inputs: object, metadata: ModelMetadata
) -> InferenceRequest:
    """The metadata describe the default signature only, so with any other the inputs go by name and as given."""
    if signature in (None, DEFAULT_SIGNATURE):
        tensors = tensors_for(inputs, metadata)
        return InferenceRequest(model=model, version=version, label=label, signature=None, tensors=tensors)
    if not isinstance(inputs, dict):
        raise InvalidRequest(f"with signature {signature!r} the inputs have to be a dict by name")
    tensors = tensors_as_given(inputs)
    return InferenceRequest(model=model, version=version, label=label, signature=signature, tensors=tensors)


def _version(version: int | str | None) -> str | None:
    return None if version is None else str(version)


def _words(words: str | Sequence[str]) -> list[str]:
    return [words] if isinstance(words, str) else list(words)
