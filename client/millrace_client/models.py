"""What a server says of its models: their tensors, labels and the state of each version."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from millrace_client.errors import InvalidResponse

BYTES = "BYTES"

# Open Inference Protocol name -> numpy type; BF16 has none.
DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("u2"),
    "UINT32": np.dtype("u4"),
    "UINT64": np.dtype("u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("i2"),
    "INT32": np.dtype("i4"),
    "INT64": np.dtype("i8"),
    "FP16": np.dtype("f2"),
    "FP32": np.dtype("f4"),
    "FP64": np.dtype("f8"),
    BYTES: np.dtype("O"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """One input or output. `shape` has -1 where any size fits.

    `is_optional` inputs may be left out. `media` names the kind of encoded file ("image") that is taken in place of the
    declared datatype and shape; empty where none is.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    is_optional: bool = False
    media: str = ""

    def __str__(self) -> str:
        shape = f"{self.name} {self.datatype} [{','.join(map(str, self.shape))}]"
        return f"{shape} or {self.media} file" if self.media else shape


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelMetadata:
    """A model as its server describes it. `labels` and `description` are empty where the server does not say.

    `notes` are sentences about what of its files is left out or special, and about why its rows are not batched.
    """

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    labels: tuple[str, ...] = ()
    description: str = ""
    notes: tuple[str, ...] = ()

    @property
    def required_inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs that a request must have."""
        return tuple(spec for spec in self.inputs if not spec.is_optional)


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionStatus:
    """The state of one version; `AVAILABLE` is the one that answers."""

    version: str
    state: str
    error_message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStatus:
    """A model in the server's list, with the state of each of its versions."""

    name: str
    versions: tuple[VersionStatus, ...]
    description: str = ""
    labels: tuple[str, ...] = ()


def metadata_from_json(document: Any) -> ModelMetadata:
    """The answer of `GET /v2/models/<model>`. Raises `InvalidResponse` for something else."""
    try:
        parameters = document.get("parameters") or {}
        return ModelMetadata(
            name=str(document["name"]),
            versions=tuple(map(str, document.get("versions") or ())),
            platform=str(document.get("platform", "")),
            inputs=tuple(_tensor_spec(spec, parameters) for spec in document.get("inputs") or ()),
            outputs=tuple(_tensor_spec(spec, {}) for spec in document.get("outputs") or ()),
            labels=tuple(map(str, parameters.get("labels") or ())),
            description=str(parameters.get("description", "")),
            notes=tuple(map(str, parameters.get("notes") or ())),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InvalidResponse(f"the server's metadata cannot be read: {error!r}") from None


def statuses_from_json(document: Any) -> list[ModelStatus]:
    """The answer of `GET /v1/models`. Raises `InvalidResponse` for something else."""
    try:
        return [_model_status(model) for model in document["models"]]
    except (AttributeError, KeyError, TypeError) as error:
        raise InvalidResponse(f"the server's list of models cannot be read: {error!r}") from None


def _tensor_spec(spec: Mapping[str, Any], parameters: Mapping[str, Any]) -> TensorSpec:
    name = str(spec["name"])
    return TensorSpec(
        name=name,
        datatype=str(spec["datatype"]),
        shape=tuple(map(int, spec["shape"])),
        is_optional=name in (parameters.get("optional_inputs") or ()),
        media=str((parameters.get("media") or {}).get(name, "")),
    )


def _model_status(model: Mapping[str, Any]) -> ModelStatus:
    return ModelStatus(
        name=str(model["name"]),
        versions=tuple(_version_status(version) for version in model.get("versions") or ()),
        description=str(model.get("description") or ""),
        labels=tuple(map(str, model.get("labels") or ())),
    )


def _version_status(version: Mapping[str, Any]) -> VersionStatus:
    return VersionStatus(
        version=str(version["version"]),
        state=str(version.get("state", "UNKNOWN")),
        error_message=str(version.get("error_message") or ""),
    )
