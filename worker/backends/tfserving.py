"""A model on a remote TensorFlow Serving, over gRPC: the version's folder holds `tfserving.json` in place of a model.

    {"address": "serving.example:8500", "model": "digits", "label": "stable", "timeout_ms": 5000}

It is as available as the remote model is: see `TensorFlowServingBackend.fault`.
"""

import math
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import msgspec
from google.protobuf.message import DecodeError

from millrace import rpc
from millrace.protocol.errors import (
    DeadlineExceeded,
    InvalidRequest,
    MillraceError,
    ModelFailed,
    NotSupported,
    Unavailable,
)
from millrace.protocol.tensors import DEFAULT_SIGNATURE, Signature, Tensor
from millrace.rpc import tensorprotos, wire
from worker.backends.base import Arrays, Device, LoadError
from worker.backends.savedmodel import signature_defs
from worker.backends.savedmodel.signature_defs import Announced
from worker.backends.texts import place, public
from worker.running.current import current

FILE_NAME = "tfserving.json"
_PREDICTION = "/tensorflow.serving.PredictionService"
_STATUS = "/tensorflow.serving.ModelService/GetModelStatus"
_LOOK_S = 1.0
_LOOK_TIMEOUT_S = 3.0
_LOAD_TIMEOUT_S = 10.0
_KEY, _VALUE = 1, 2  # of every map's entries


def _message(name: str) -> Any:
    return rpc.message(f"tensorflow.serving.{name}")


_PredictRequest = _message("PredictRequest")
_PredictResponse = _message("PredictResponse")
_StatusResponse = _message("GetModelStatusResponse")
_INPUTS = wire.number_of(_PredictRequest, "inputs")


class Tls(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Files of certificates in PEM form, relative to the version's folder.

    Without `authority` the system's are trusted; `certificate` and `key` are the worker's own, where it must show one.
    """

    authority: str = ""
    certificate: str = ""
    key: str = ""


class Remote(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `tfserving.json` says. Without `version` and `label` the newest version answers.

    `signature` is the one to offer, as the default; without it all are, by their names. `timeout_ms` bounds each call.
    """

    address: str
    model: str
    version: int | None = None
    label: str = ""
    signature: str = ""
    timeout_ms: int = 10_000
    tls: Tls | None = None

    def spec(self, signature: str = "") -> Any:
        """The ModelSpec that names it."""
        spec = _message("ModelSpec")(name=self.model, signature_name=signature)
        if self.version is not None:
            spec.version.value = self.version
        if self.label:
            spec.version_label = self.label
        return spec


class TensorFlowServingBackend:
    """A remote model. Its calls may be made from several threads."""

    platform = "tensorflow_serving"
    labels: Sequence[str] = ()
    mixed_rows: Mapping[str, str] = {}
    axes: Mapping[str, Sequence[str]] = {}
    keeps_state = ""
    passes_traces_on = True

    def __init__(
        self,
        remote: Remote,
        channel: grpc.Channel,
        names: Mapping[str, str],
        found: Announced,
        lacking: Collection[str] = (),
    ) -> None:
        """`names` says what the remote calls each signature; those `lacking` have outputs that cannot be carried."""
        self._remote = remote
        self._names = names
        self._predict = channel.unary_unary(f"{_PREDICTION}/Predict")
        self._status = channel.unary_unary(_STATUS)
        self._channel = channel  # which ends when nothing refers to it any more
        self._fault = ""
        self._next_look = 0.0
        self.signatures: Mapping[str, Signature] = {ours: found.signatures[theirs] for ours, theirs in names.items()}
        self.notes: Sequence[str] = found.notes
        self._filters = {
            ours: [spec.name for spec in self.signatures[ours].outputs] if theirs in lacking else []
            for ours, theirs in names.items()
        }

    def run(self, signature: str, inputs: Arrays) -> Arrays:
        """See `Backend`. Raises the `MillraceError` that the remote's status stands for.

        `ModelFailed` is for an answer that cannot be read.
        """
        head = _PredictRequest(
            model_spec=self._remote.spec(self._names[signature]), output_filter=self._filters[signature]
        )
        parts: list[bytes | memoryview] = [head.SerializeToString()]
        for name, array in inputs.items():
            tensor = tensorprotos.to_wire(Tensor.from_numpy(array), as_content=True)
            parts += wire.field(_INPUTS, *wire.field(_KEY, name.encode()), *wire.field(_VALUE, *tensor))
        try:
            answer = self._predict(b"".join(parts), timeout=self._remote.timeout_ms / 1000, metadata=_metadata())
        except grpc.RpcError as error:
            raise _refusal(self._remote, error) from error
        try:
            outputs = _PredictResponse.FromString(answer).outputs
            return {name: tensorprotos.to_tensor(proto, name).to_numpy() for name, proto in outputs.items()}
        except (DecodeError, InvalidRequest, NotSupported) as error:  # the remote's fault, and not the caller's
            raise ModelFailed(f"{_where(self._remote)} gave an answer that cannot be read: {error}") from error

    def close(self) -> None:
        """See `Backend`."""
        self._next_look = math.inf
        self._channel.close()

    @property
    def fault(self) -> str:
        """Why the remote model could not answer when it was last looked at, "" where it could; begins another look."""
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + _LOOK_TIMEOUT_S + _LOOK_S
            request = _message("GetModelStatusRequest")(model_spec=self._remote.spec())
            self._status.future(request.SerializeToString(), timeout=_LOOK_TIMEOUT_S).add_done_callback(self._looked)
        return self._fault

    def _looked(self, look: Any) -> None:
        if error := look.exception():
            self._fault = str(_refusal(self._remote, error))
        else:
            states = [version.state for version in _StatusResponse.FromString(look.result()).model_version_status]
            is_available = _message("ModelVersionStatus").AVAILABLE in states
            self._fault = "" if is_available else f"{_where(self._remote)} is not available there"
        self._next_look = time.monotonic() + _LOOK_S


def load(folder: Path, device: Device) -> TensorFlowServingBackend:
    """The model that `tfserving.json` names. Raises `LoadError`; trying again can help where the remote is away."""
    if device.kind == "cuda":
        raise LoadError("a remote model runs where TensorFlow Serving runs; start the worker with --device cpu")
    remote = _read(folder)
    channel = _channel(folder, remote)
    request = _message("GetModelMetadataRequest")(model_spec=remote.spec(), metadata_field=["signature_def"])
    try:
        answer = channel.unary_unary(f"{_PREDICTION}/GetModelMetadata")(
            request.SerializeToString(), timeout=_LOAD_TIMEOUT_S
        )
    except grpc.RpcError as error:
        raise LoadError(str(_refusal(remote, error)), can_retry=True) from error
    definitions = _message("SignatureDefMap")()
    _message("GetModelMetadataResponse").FromString(answer).metadata["signature_def"].Unpack(definitions)
    wanted = {name: of for name, of in definitions.signature_def.items() if remote.signature in ("", name)}
    found = signature_defs.announced(wanted, signature_defs.as_said)
    if not found.signatures:
        raise LoadError(_nothing_to_serve(remote, found, definitions.signature_def))
    names = {DEFAULT_SIGNATURE: remote.signature} if remote.signature else {name: name for name in found.signatures}
    lacking = {name for name, of in found.signatures.items() if len(of.outputs) < len(wanted[name].outputs)}
    return TensorFlowServingBackend(remote, channel, names, found, lacking)


def _metadata() -> tuple[tuple[str, str], ...]:
    """What goes along with a call: where its first request stands in a trace."""
    asked = current.get()
    return (("traceparent", asked.traceparent),) if asked and asked.traceparent else ()


def _nothing_to_serve(remote: Remote, found: Announced, names: Iterable[str]) -> str:
    wanted = f"signature {remote.signature!r}" if remote.signature else "signatures"
    if not found.refusals:
        return f"{_where(remote)} has no {wanted}; it has {sorted(names)}"
    return f"{_where(remote)} has no {wanted} that can be served: {' '.join(found.refusals)}"


def _read(folder: Path) -> Remote:
    path = place(folder, FILE_NAME)
    try:
        remote = msgspec.json.decode((folder / FILE_NAME).read_bytes(), type=Remote)
    except (OSError, ValueError, RecursionError) as error:  # no JSON, of another form, no UTF-8, or nested too deep
        raise LoadError(f"{path}: {public(str(error), folder)}") from error
    if remote.version is not None and remote.label:
        raise LoadError(f"{path}: version and label exclude each other")
    if not remote.address or not remote.model or remote.timeout_ms < 1:
        raise LoadError(f"{path}: address and model must not be empty, and timeout_ms must be above 0")
    return remote


def _channel(folder: Path, remote: Remote) -> grpc.Channel:
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    tls = remote.tls
    if tls is None:
        return grpc.insecure_channel(remote.address, options=options)
    try:
        files = [(folder / name).read_bytes() if name else None for name in (tls.authority, tls.key, tls.certificate)]
    except OSError as error:
        raise LoadError(f"{place(folder, FILE_NAME)}: {public(str(error), folder)}") from error
    return grpc.secure_channel(remote.address, grpc.ssl_channel_credentials(*files), options=options)


def _where(remote: Remote) -> str:
    return f"model {remote.model!r} at {remote.address}"


def _refusal(remote: Remote, error: Any) -> MillraceError:
    """What the remote's status means to a caller."""
    code, text = error.code(), f"{_where(remote)}: {error.details()}"
    if code == grpc.StatusCode.INVALID_ARGUMENT:
        return InvalidRequest(error.details())
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded(f"{_where(remote)} did not answer within {remote.timeout_ms} ms")
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED):
        return Unavailable(text)
    return ModelFailed(text)
