"""Questions over HTTP: the Open Inference Protocol, and TensorFlow Serving's REST protocol for what that lacks."""

from millrace_client.dialect import MALFORMED, Answer, Call, Question
from millrace_client.encoding import encoding_for, json_of, model_path
from millrace_client.errors import InvalidResponse
from millrace_client.exchange import Request, Response
from millrace_client.models import ModelMetadata, ModelStatus, TensorSpec, metadata_from_json, statuses_from_json


class RestDialect:
    """See `dialect.Dialect`. `is_binary` sends tensors as bytes where it can."""

    def __init__(self, *, is_binary: bool) -> None:
        self._is_binary = is_binary

    def ready(self, model: str | None, version: str | None) -> Question[bool]:
        """The status says it: an answer that is no success is raised before it is read."""
        path = "/v2/health/ready" if model is None else f"/v2{model_path(model, version)}/ready"
        return Question((_get(path),), lambda _: True)

    def models(self) -> Question[list[ModelStatus]]:
        """Our own list: neither protocol has one that says so much."""
        return Question((_get("/v1/models"),), lambda responses: statuses_from_json(json_of(responses[0].body)))

    def metadata(self, model: str, version: str | None) -> Question[ModelMetadata]:
        """As Open Inference has them."""
        request = _get(f"/v2{model_path(model, version)}")
        return Question((request,), lambda responses: metadata_from_json(json_of(responses[0].body)))

    def version_of(self, model: str, label: str) -> Question[str]:
        """From the status of the labelled version."""
        return Question((_get(f"/v1{model_path(model, None, label)}"),), _version_in)

    def predict(self, call: Call, outputs: tuple[TensorSpec, ...]) -> Question[Answer]:
        """In the form that can carry it."""
        encoding = encoding_for(call, is_binary=self._is_binary)
        return Question((encoding.encode(call),), lambda responses: encoding.decode(responses[0], outputs))


def _get(path: str) -> Request:
    return Request(method="GET", path=path)


def _version_in(responses: list[Response]) -> str:
    try:
        return str(json_of(responses[0].body)["model_version_status"][0]["version"])
    except MALFORMED as error:
        raise InvalidResponse(f"the status of a version cannot be read: {error!r}") from None
