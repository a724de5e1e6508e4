"""The OpenAPI document of the whole HTTP API, made of the table of operations below and the types in `bodies.py`.

A test holds the table to the routes of the application; another asks the running stack everything that the document
allows, and some that it forbids, and knows each answer from it.
"""

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple, get_args, get_origin

import msgspec

import millrace
from millrace.jobs.documents import EvaluateDocument, ExportDocument, ScoreDocument
from millrace.protocol.errors import MillraceError
from serving.monitoring.stack import Stack
from serving.web import openapi_jobs, schemas

_REFERENCE = "#/components/schemas/{name}"
_EVERYWHERE = (400, 401, 403, 408, 413, 431, 500, 501, 503, 504)  # what the server itself answers, whatever the request
_AGAIN = (429, 503)  # those with Retry-After
# Statuses that no error of the tree stands for: the head of the request was never read.
_OF_THE_HEAD = {
    408: "The head of the request did not arrive in time.",
    431: "The head of the request is too large.",
}
_UNTYPED = {dict: "object", list: "array"}
_Schema = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path.

    `takes` are the JSON bodies that it takes, any one of them, such as `example`, where a bundled model answers
    one; `answers` the types of its JSON answers by status; `statuses` the errors it has beyond those that any
    request can meet. One that `is_binary` takes and answers JSON followed by tensors too; one that `takes_files` takes
    an image, or a form of files, too, one that `takes_upload` a form with the JSON and a file; one whose body
    `may_be_empty` needs none; one with a `media` type answers that instead of JSON. `parameters` are named in
    `_PARAMETERS`, beside those of the path.
    """

    method: str
    path: str
    tag: str
    summary: str
    takes: tuple[type, ...] = ()
    answers: dict[int, tuple[type, ...]] = field(default_factory=dict)
    example: Any = None
    statuses: tuple[int, ...] = ()
    is_binary: bool = False
    takes_files: bool = False
    takes_upload: bool = False
    may_be_empty: bool = False
    media: str = ""
    parameters: tuple[str, ...] = ()


_TFS, _OIP, _OWN, _JOBS = "TensorFlow Serving", "Open Inference Protocol", "Millrace", "Background jobs"
_TEXT = "a wonderful film"  # for the model `sentiment`


def _operations() -> Iterator[Operation]:
    model, version, label = "/models/{model}", "/versions/{version}", "/labels/{label}"
    for spec in (f"/v1{model}", f"/v1{model}{version}", f"/v1{model}{label}"):
        yield Operation(
            method="POST",
            path=f"{spec}:predict",
            tag=_TFS,
            summary="Run a model.",
            takes=(schemas.Rows, schemas.Columns),
            example={"instances": [_TEXT]},
            answers={200: (schemas.Predictions, schemas.Outputs)},
            statuses=(404, 415, 429),
            takes_files=True,
        )
        for verb, answer in (("classify", schemas.Classifications), ("regress", schemas.Regressions)):
            yield Operation(
                method="POST",
                path=f"{spec}:{verb}",
                tag=_TFS,
                summary=f"Run a model on examples, to {verb} them.",
                takes=(schemas.Examples,),
                example={"examples": [{"text": _TEXT}]} if verb == "classify" else None,
                answers={200: (answer,)},
                statuses=(404, 415, 429),
                takes_files=True,
            )
        yield Operation(
            method="GET",
            path=spec,
            tag=_TFS,
            summary="The state of each version of a model.",
            answers={200: (schemas.ModelStatus,)},
            statuses=(404,),
        )
        yield Operation(
            method="GET",
            path=f"{spec}/metadata",
            tag=_TFS,
            summary="The signatures of a model.",
            answers={200: (schemas.Metadata,)},
            statuses=(404,),
        )
    yield Operation(
        method="GET",
        path="/v1/models",
        tag=_TFS,
        summary="Every model with its versions; TensorFlow Serving has no such list.",
        answers={200: (schemas.ModelList,)},
    )
    yield Operation(
        method="GET",
        path="/v2",
        tag=_OIP,
        summary="Name, version and extensions of the server.",
        answers={200: (schemas.ServerMetadata,)},
    )
    yield Operation(
        method="GET",
        path="/v2/health/live",
        tag=_OIP,
        summary="Whether the server runs.",
        answers={200: (schemas.Live,)},
    )
    yield Operation(
        method="GET",
        path="/v2/health/ready",
        tag=_OIP,
        summary="Whether the server can answer.",
        answers={200: (schemas.Ready,), 503: (schemas.Ready, schemas.Error)},
    )
    for spec in (f"/v2{model}", f"/v2{model}{version}"):
        yield Operation(
            method="GET",
            path=spec,
            tag=_OIP,
            summary="A model's inputs and outputs.",
            answers={200: (schemas.ModelMetadata,)},
            statuses=(404,),
        )
        yield Operation(
            method="GET",
            path=f"{spec}/ready",
            tag=_OIP,
            summary="Whether a model can answer.",
            answers={200: (schemas.ModelReady,), 503: (schemas.ModelReady, schemas.Error)},
            statuses=(404,),
        )
        yield Operation(
            method="POST",
            path=f"{spec}/infer",
            tag=_OIP,
            summary="Run a model.",
            takes=(schemas.InferRequest,),
            example={"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": [_TEXT]}]},
            answers={200: (schemas.InferResponse,)},
            statuses=(404, 415, 429),
            is_binary=True,
            takes_files=True,
        )
        yield Operation(
            method="GET",
            path=f"{spec}/config",
            tag=_OIP,
            summary="A model's configuration, as Triton has it.",
            answers={200: (schemas.ModelConfig,)},
            statuses=(404,),
        )
        yield Operation(
            method="GET",
            path=f"{spec}/stats",
            tag=_OIP,
            summary="A model's statistics, as Triton has them.",
            answers={200: (schemas.Statistics,)},
            statuses=(404,),
        )
    yield Operation(
        method="GET",
        path="/v2/models/stats",
        tag=_OIP,
        summary="The statistics of all models.",
        answers={200: (schemas.Statistics,)},
    )
    for kind in ("system", "cuda"):
        yield Operation(
            method="GET",
            path=f"/v2/{kind}sharedmemory/status",
            tag=_OIP,
            summary="The regions of shared memory that are registered: none, as it is not supported.",
            answers={200: (list,)},
        )
    yield from _repository_operations()
    yield from _traffic_operations()
    yield from _job_operations()
    yield Operation(
        method="GET",
        path="/",
        tag=_OWN,
        summary="The server and its models.",
        answers={200: (schemas.Index,)},
        media="text/html",
    )
    yield from _page_operations()
    yield Operation(
        method="GET",
        path="/metrics",
        tag=_OWN,
        summary="The metrics of this process, for Prometheus.",
        media="text/plain",
    )
    yield Operation(
        method="GET",
        path="/monitoring/prometheus/metrics",
        tag=_TFS,
        summary="The metrics of this process under TensorFlow Serving's names.",
        media="text/plain",
    )
    yield Operation(method="GET", path="/openapi.json", tag=_OWN, summary="This document.", answers={200: (dict,)})
    yield Operation(
        method="GET", path="/docs", tag=_OWN, summary="This document, for people to read.", media="text/html"
    )


def _page_operations() -> Iterator[Operation]:
    version = "/v1/models/{model}/versions/{version}"
    yield Operation(
        method="GET",
        path="/v1/stack",
        tag=_OWN,
        summary="Workers, counters and slow requests now; as server-sent events if `Accept` asks for them.",
        answers={200: (Stack,)},
        media="text/event-stream",
    )
    yield Operation(
        method="GET",
        path="/v1/access",
        tag=_OWN,
        summary="What this caller may do.",
        answers={200: (schemas.Access,)},
    )
    yield Operation(
        method="GET",
        path=f"{version}/card",
        tag=_OWN,
        summary="The card of a version: scores, limits, data, sizes, plots.",
        answers={200: (schemas.Card,)},
        statuses=(404,),
    )
    yield Operation(
        method="GET",
        path=f"{version}/plots/{{plot}}",
        tag=_OWN,
        summary="A plot of a version, by its name in the card.",
        statuses=(404,),
        media="image/png",
    )
    yield Operation(
        method="GET",
        path="/page/{file}",
        tag=_OWN,
        summary="A file of the page that browsers get at /.",
        statuses=(404,),
        media="text/javascript",
    )

    yield Operation(
        method="GET",
        path="/page/assets/{file}",
        tag=_OWN,
        summary="A file of onnxruntime-web, where the server has it.",
        statuses=(404,),
        media="text/javascript",
    )
    yield Operation(
        method="GET",
        path=f"{version}/files/{{file}}",
        tag=_OWN,
        summary="`model.onnx` or `vocabulary.txt` of a version, where the page runs models in the browser.",
        statuses=(404,),
        media="application/octet-stream",
    )


def _repository_operations() -> Iterator[Operation]:
    yield Operation(
        method="POST",
        path="/v2/repository/index",
        tag=_OIP,
        summary="Every version of every model, and why those that are not ready are not.",
        takes=(schemas.IndexRequest,),
        example={"ready": False},
        answers={200: (list[schemas.IndexEntry],)},
        may_be_empty=True,
    )
    for verb, body in (("load", schemas.LoadRequest), ("unload", schemas.UnloadRequest)):
        yield Operation(
            method="POST",
            path=f"/v2/repository/models/{{model}}/{verb}",
            tag=_OIP,
            summary=f"{verb.capitalize()} a model, and wait until the workers have done it.",
            takes=(body,),
            statuses=(403,),
            may_be_empty=True,
        )


def _traffic_operations() -> Iterator[Operation]:
    model = "/v1/models/{model}"
    for method, path, summary, takes, example in (
        ("GET", "/traffic", "What is wanted of a model at run time.", (), None),
        (
            *("PUT", "/traffic", "Share out requests by weight, and copy some to a shadow; {} takes both back."),
            *((schemas.Traffic,), {"weights": {"1": 100}}),
        ),
        ("PUT", "/labels/{label}", "Let a label stand for a version.", (schemas.LabelledVersion,), {"version": 1}),
        ("DELETE", "/labels/{label}", "Take back a label that was set at run time.", (), None),
        (
            *("PUT", "/policy", "Say which versions are loaded, and wait until the workers have done it."),
            *((schemas.Policy,), {"latest": {"num_versions": 2}}),
        ),
        ("DELETE", "/policy", "Let the model's files say again which versions are loaded.", (), None),
    ):
        yield Operation(
            method=method,
            path=model + path,
            tag=_OWN,
            summary=summary,
            takes=takes,
            example=example,
            answers={200: (schemas.ModelTraffic,)},
            statuses=(404,) if method == "GET" else (403, 404),
        )


def _job_operations() -> Iterator[Operation]:
    jobs, job = "/v1/jobs", "/v1/jobs/{job}"
    for method, path, summary in (
        ("POST", jobs, "Submit a background job, with its file or without."),
        ("PUT", job, "The same under an id of the caller's own: it is made once, however often it is submitted."),
    ):
        yield Operation(
            method=method,
            path=path,
            tag=_JOBS,
            summary=summary,
            takes=(ScoreDocument, EvaluateDocument, ExportDocument),
            example={"kind": "score", "model": "sentiment", "column": "text", "input": "reviews.csv"},
            answers={202: (schemas.Job,)},
            statuses=(403, 409, 415, 429, 507) if method == "PUT" else (403, 415, 429, 507),
            takes_upload=True,
        )
    for path, summary, answer, parameters in (
        (jobs, "Jobs, the newest first.", schemas.JobList, ("job_limit", "job_state")),
        (job, "A job: its state and its progress.", schemas.Job, ()),
        (f"{job}/logs", "The last lines of a job's log.", schemas.JobLog, ()),
    ):
        missing = () if path == jobs else (404,)
        yield Operation(
            method="GET",
            path=path,
            tag=_JOBS,
            summary=summary,
            answers={200: (answer,)},
            statuses=missing,
            parameters=parameters,
        )
    yield Operation(
        method="GET",
        path=f"{job}/events",
        tag=_JOBS,
        summary="The job at every change, as server-sent events, until it ends.",
        statuses=(404,),
        media="text/event-stream",
    )
    yield Operation(
        method="GET",
        path=f"{job}/result",
        tag=_JOBS,
        summary="A file of the result.",
        statuses=(404, 409),
        media="application/octet-stream",
        parameters=("job_output",),
    )
    changes: tuple[tuple[str, str, str, dict[int, tuple[type, ...]]], ...] = (
        ("POST", f"{job}/cancel", "Cancel a job; one that has ended stays as it is.", {200: (schemas.Job,)}),
        ("POST", f"{job}/retry", "Go on with a job that has failed or was canceled.", {202: (schemas.Job,)}),
        ("DELETE", job, "Cancel a job, or forget one that has ended.", {200: (schemas.Job,), 204: ()}),
    )
    for method, path, summary, answers in changes:
        yield Operation(method=method, path=path, tag=_JOBS, summary=summary, answers=answers, statuses=(403, 404, 409))


OPERATIONS = tuple(_operations())


class Group(NamedTuple):
    """A row of the documentation: one route by all of its paths, the shortest first."""

    tag: str
    method: str
    paths: tuple[str, ...]
    operation: dict[str, Any]

    @property
    def parameters(self) -> list[dict[str, str]]:
        """Those of all of its paths, each once."""
        methods = [document()["paths"][path][self.method.lower()] for path in self.paths]
        found = {each["$ref"]: each for operation in methods for each in operation["parameters"]}
        return list(found.values())


def groups() -> list[Group]:
    """The operations as the documentation shows them: with and without a version or a label in one row."""
    found: dict[tuple[str, str], Group] = {}
    for path, methods in document()["paths"].items():
        for method, operation in methods.items():
            key = method, _WHICH.sub("", path) if operation["tags"] != [_OWN] else path
            known = found.get(key) or Group(operation["tags"][0], method.upper(), (), operation)
            found[key] = known._replace(paths=(*known.paths, path))
    return list(found.values())


_WHICH = re.compile(r"(?<=\{model\})/(versions/\{version\}|labels/\{label\})(?=[/:]|$)")


@cache
def document() -> dict[str, Any]:
    """The OpenAPI 3.1 document."""
    types = {body for operation in OPERATIONS for body in operation.takes}
    types |= {body for operation in OPERATIONS for answers in operation.answers.values() for body in answers}
    named = {get_args(body)[0] if get_origin(body) is list else body for body in types}
    ordered = sorted(named - set(_UNTYPED) | {schemas.Error}, key=lambda body: body.__name__)
    _, found = msgspec.json.schema_components(ordered, ref_template=_REFERENCE)
    components = msgspec.json.decode(msgspec.json.encode(found))  # its defaults are tuples
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Millrace",
            "version": millrace.__version__,
            "summary": "Model serving over TensorFlow Serving's REST API and the Open Inference Protocol.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "tags": [{"name": name} for name in (_TFS, _OIP, _OWN, _JOBS)],
        "paths": paths,
        "components": {
            "schemas": components,
            "responses": {str(status): _refusal(status) for status in _documented_statuses()},
            "parameters": _PARAMETERS,
            "headers": _HEADERS,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
        "security": [{}, {"bearer": []}, {"header": []}],  # a key, where the server has a file of keys
    }


_PARAMETERS: dict[str, _Schema] = {
    **openapi_jobs.PARAMETERS,
    "model": {
        "name": "model",
        "in": "path",
        "required": True,
        "description": "The model's name.",
        "example": "sentiment",
        "schema": {"type": "string", "minLength": 1, "pattern": "^[^/:]+$"},
    },
    "version": {
        "name": "version",
        "in": "path",
        "required": True,
        "description": "The model's version.",
        "example": 1,
        "schema": {"type": "integer", "minimum": 0, "maximum": 2**63 - 1},
    },
    "label": {
        "name": "label",
        "in": "path",
        "required": True,
        "description": "A label that stands for a version, such as `stable`.",
        "example": "stable",
        "schema": {"type": "string", "minLength": 1, "pattern": "^[^/:]+$"},
    },
    "plot": {
        "name": "plot",
        "in": "path",
        "required": True,
        "description": "The name of a plot.",
        "example": "calibration.png",
        "schema": {"type": "string", "minLength": 1, "pattern": "^[^/]+$"},
    },
    "file": {
        "name": "file",
        "in": "path",
        "required": True,
        "description": "The name of a file of the page.",
        "example": "main.js",
        "schema": {"type": "string", "minLength": 1, "pattern": "^[^/]+$"},
    },
    "request_id": {
        "name": "X-Request-Id",
        "in": "header",
        "description": "Kept, logged and sent back where it is printable and at most 128 characters; else one is made.",
        "schema": {"type": "string"},
    },
    "request_timeout": {
        "name": "X-Request-Timeout-Ms",
        "in": "header",
        "description": "The deadline, from the request's arrival; never longer than the server's own.",
        "example": 30_000,
        "schema": {"type": "number", "exclusiveMinimum": 0},
    },
    "header_length": {
        "name": "Inference-Header-Content-Length",
        "in": "header",
        "description": "The length of the JSON that the tensors follow; 0 for a body of one input's elements alone.",
        "schema": {"type": "integer", "minimum": 0},
    },
}
_FILE: _Schema = {"type": "string", "format": "binary"}
_FILES: dict[str, _Schema] = {
    **{f"image/{kind}": {"schema": _FILE} for kind in ("jpeg", "png", "webp", "gif")},
    "multipart/form-data": {
        "schema": {
            "type": "object",
            "description": "A part for each row: files under any name, other inputs as JSON under their own.",
            "properties": {"image": {"type": "array", "items": _FILE}, "signature_name": {"type": "string"}},
            "additionalProperties": True,
        }
    },
}
_HEADERS: dict[str, _Schema] = {
    "request_id": {"description": "Finds the request in the server's log.", "schema": {"type": "string"}},
    "server_timing": {"description": "The parts of the time taken, in milliseconds.", "schema": {"type": "string"}},
    "retry_after": {
        "description": "Seconds until trying again makes sense.",
        "required": True,
        "schema": {"type": "integer", "minimum": 1},
    },
    "header_length": {
        "description": "The length of the JSON, where tensors follow it.",
        "schema": {"type": "integer", "minimum": 1},
    },
}


def _operation(operation: Operation) -> _Schema:
    is_hot = operation.method == "POST" and 429 in operation.statuses and not operation.takes_upload
    names = [name for name in ("model", "version", "label", "job", "plot", "file") if f"{{{name}}}" in operation.path]
    names += [*operation.parameters, "request_id"]
    names += ["request_timeout"] if is_hot else []
    names += ["header_length"] if operation.is_binary else []
    described: _Schema = {
        "tags": [operation.tag],
        "operationId": _identity(operation),
        "summary": operation.summary,
        "parameters": [{"$ref": f"#/components/parameters/{name}"} for name in names],
        "responses": {str(status): _answer(operation, status) for status in _statuses(operation)},
    }
    if operation.takes:
        content = {"application/json": {"schema": _any_of(operation.takes)}}
        if operation.example:
            content["application/json"]["example"] = operation.example
        content |= _binary(operation) | (_FILES if operation.takes_files else {})
        content |= openapi_jobs.form_with_file(_any_of(operation.takes)) if operation.takes_upload else {}
        described["requestBody"] = {"required": not operation.may_be_empty, "content": content}
    return described


def _identity(operation: Operation) -> str:
    """Such as `post_v1_models_model_predict`."""
    words = operation.path.replace("{", "").replace("}", "").replace(":", "/").replace(".", "/").split("/")
    return "_".join([operation.method.lower(), *filter(None, words)])


def _statuses(operation: Operation) -> list[int]:
    succeeds = () if any(status < 300 for status in operation.answers) else (200,)
    return sorted({*succeeds, *operation.answers, *operation.statuses, *_EVERYWHERE})


def _answer(operation: Operation, status: int) -> _Schema:
    if status in operation.answers and not operation.answers[status]:
        return _success(operation)
    if status in operation.answers:
        content = {"application/json": {"schema": _any_of(operation.answers[status])}}
        described = _refusal(status) if status >= 400 else _success(operation)
        if operation.media and status == 200:
            content[operation.media] = {"schema": {"type": "string"}}
        return described | {"content": content | (_binary(operation) if status == 200 else {})}
    if status == 200 and not operation.media:
        return _success(operation)
    if status == 200:
        return _success(operation) | {"content": {operation.media: {"schema": {"type": "string"}}}}
    return {"$ref": f"#/components/responses/{status}"}


def _success(operation: Operation) -> _Schema:
    names = {"X-Request-Id": "request_id", "Server-Timing": "server_timing"}
    if operation.is_binary:
        names["Inference-Header-Content-Length"] = "header_length"
    return {"description": operation.summary, "headers": _header_references(names)}


def _refusal(status: int) -> _Schema:
    names = {"Retry-After": "retry_after"} if status in _AGAIN else {}
    return {
        "description": _OF_THE_HEAD.get(status) or _meaning(status),
        "headers": _header_references(names | {"X-Request-Id": "request_id"}),
        "content": {"application/json": {"schema": _any_of((schemas.Error,))}},
    }


def _meaning(status: int) -> str:
    """What the errors of that status say of themselves."""
    texts = [inspect.getdoc(kind) or "" for kind in MillraceError.__subclasses__() if kind.status == status]
    return " ".join(text.partition("\n\n")[0].replace("\n", " ") for text in texts)


def _documented_statuses() -> list[int]:
    return sorted({status for operation in OPERATIONS for status in _statuses(operation) if status >= 400})


def _header_references(names: dict[str, str]) -> _Schema:
    return {name: {"$ref": f"#/components/headers/{key}"} for name, key in names.items()}


def _binary(operation: Operation) -> _Schema:
    if not operation.is_binary:
        return {}
    return {"application/octet-stream": {"schema": _FILE}}


def _any_of(types: tuple[type, ...]) -> _Schema:
    schemas = [_reference(body) for body in types]
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}


def _reference(body: type) -> _Schema:
    if get_origin(body) is list:
        return {"type": "array", "items": _reference(get_args(body)[0])}
    return {"type": _UNTYPED[body]} if body in _UNTYPED else {"$ref": _REFERENCE.format(name=body.__name__)}
