"""Operations over HTTP: the Open Inference Protocol, and TensorFlow Serving's REST protocol for what that lacks."""

from millrace_client.encoding import encoding_for, json_of, model_path
from millrace_client.errors import InvalidResponse
from millrace_client.exchange import Request, Response
from millrace_client.models import ModelMetadata, ModelStatus, TensorSpec, metadata_from_json, statuses_from_json
from millrace_client.protocol import MALFORMED, InferenceRequest, InferenceResult, Operation


class RestProtocol:
    """See `protocol.InferenceProtocol`. `is_binary` sends tensors as bytes where it can."""

    def __init__(self, *, is_binary: bool) -> None:
        self._is_binary = is_binary

    def ready(self, model: str | None, version: str | None) -> Operation[bool]:
        """The status says it: an answer that is no success is raised before it is read."""
        path = "/v2/health/ready" if model is None else f"/v2{model_path(model, version)}/ready"
        return Operation((_get(path),), lambda _: True)

    def models(self) -> Operation[list[ModelStatus]]:
        """Our own list: neither protocol has one that says so much."""
        return Operation((_get("/v1/models"),), lambda responses: statuses_from_json(json_of(responses[0].body)))

    def metadata(self, model: str, version: str | None) -> Operation[ModelMetadata]:
        """As Open Inference has them."""
        request = _get(f"/v2{model_path(model, version)}")
        return Operation((request,), lambda responses: metadata_from_json(json_of(responses[0].body)))

    def version_of(self, model: str, label: str) -> Operation[str]:
        """From the status of the labelled version."""
        return Operation((_get(f"/v1{model_path(model, None, label)}"),), _version_in)

    def predict(self, call: InferenceRequest, outputs: tuple[TensorSpec, ...]) -> Operation[InferenceResult]:
        """In the form that can carry it."""
        encoding = encoding_for(call, is_binary=self._is_binary)
        return Operation((encoding.encode(call),), lambda responses: encoding.decode(responses[0], outputs))


def _get(path: str) -> Request:
    return Request(method="GET", path=path)


def _version_in(responses: list[Response]) -> str:
    try:
        return str(json_of(responses[0].body)["model_version_status"][0]["version"])
    except MALFORMED as error:
        raise InvalidResponse(f"the status of a version cannot be read: {error!r}") from None
