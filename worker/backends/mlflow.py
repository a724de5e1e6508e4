"""MLflow's model folders: an `MLmodel` with the flavor `python_function`, by MLflow itself, with its signature.

A column is an input of shape [-1], so that a request has a value for each row; a tensor is an input as it is declared.
The model is given a DataFrame, or arrays, with all rows of a request or a batch. It is code, which must be allowed.
MLflow and pandas come with no extra of ours: whoever has such models installs them, in the versions that these need.
"""

import importlib
import logging
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from millrace.model import Models
from millrace.protocol.errors import InvalidRequest, ModelFailed
from millrace.protocol.tensors import BYTES, DEFAULT_SIGNATURE, Signature, TensorSpec, datatype_of
from worker.backends.base import Arrays, Device, LoadError, ends_the_program
from worker.backends.texts import place, public
from worker.python import requirements, source, values
from worker.python.declaration import Field
from worker.python.fitting import fitted

_log = logging.getLogger(__name__)
FILE = "MLmodel"
_DATATYPES = {
    "boolean": "BOOL",
    "integer": "INT32",
    "long": "INT64",
    "float": "FP32",
    "double": "FP64",
    "string": BYTES,
    "binary": BYTES,
}
_INPUT, _OUTPUT = "inputs", "predictions"  # what MLflow's own server calls what has no name
_BLAMES_CALLER = ("BAD_REQUEST", "INVALID_PARAMETER_VALUE")


class MlflowBackend:
    """A model that `mlflow.pyfunc` has loaded, one call at a time."""

    platform = "mlflow"
    fault = ""
    labels: Sequence[str] = ()
    mixed_rows: Mapping[str, str] = {}
    axes: Mapping[str, Sequence[str]] = {}
    keeps_state = ""

    def __init__(self, model: Any, signature: Any, notes: Sequence[str]) -> None:
        self._model = model
        self._one_call = threading.Lock()
        self._inputs = _fields("input", signature.inputs, _INPUT)
        self._outputs = _fields("output", signature.outputs, _OUTPUT)
        self._is_tensors = signature.inputs.is_tensor_spec()
        self._has_names = signature.inputs.has_input_names()
        specs = (tuple(field.spec for field in fields) for fields in (self._inputs, self._outputs))
        self.signatures = {DEFAULT_SIGNATURE: Signature(inputs=next(specs), outputs=next(specs))}
        self.notes = notes

    def run(self, signature: str, inputs: Arrays) -> Arrays:  # noqa: ARG002 - such a model has one signature
        """See `Backend`."""
        given = self._given(values.given(self._inputs, inputs))
        try:
            with self._one_call:
                answer = self._model.predict(given)
        except Exception as error:
            if getattr(error, "error_code", "") in _BLAMES_CALLER:
                raise InvalidRequest(public(str(error))) from error
            raise
        return {field.spec.name: self._tensor(field, answer) for field in self._outputs}

    def close(self) -> None:
        """See `Backend`."""
        self._model = None

    def _given(self, by_name: Mapping[str, Any]) -> Any:
        if self._is_tensors:
            return dict(by_name) if self._has_names else by_name[_INPUT]
        if not self._has_names and self._model.metadata._is_signature_from_type_hint():
            return by_name[_INPUT].tolist()
        columns = {name: array.tolist() if array.dtype.kind == "O" else array for name, array in by_name.items()}
        return importlib.import_module("pandas").DataFrame(columns if self._has_names else {0: columns[_INPUT]})

    def _tensor(self, field: Field, answer: Any) -> Any:
        spec = field.spec
        try:
            value = answer[spec.name] if len(self._outputs) > 1 or _has(answer, spec.name) else answer
            if spec.shape == (-1,):  # one column may come as a table of one
                value = np.asarray(value, object if spec.datatype == BYTES else None)
                value = value.reshape(-1) if value.ndim == 2 and value.shape[1] == 1 else value
            return fitted(value, spec.datatype, spec.shape)
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise ModelFailed(f"the model's output {spec.name!r} {error}") from error


def _has(answer: Any, name: str) -> bool:
    """Whether the answer is a dict, or a DataFrame, with that name in it."""
    return hasattr(answer, "keys") and name in answer


def load(folder: Path, device: Device, models: Models) -> MlflowBackend:  # noqa: ARG001 - it has no use for these
    """The model that `MLmodel` describes. Raises `LoadError`, which names what its requirements lack, too."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    sys.dont_write_bytecode = True  # beside the model, that would look like a change of the version
    where = place(folder, FILE)
    unmet = [each for each in requirements.unmet(folder) if not each.startswith("mlflow")]
    lacks = f"{requirements.FILE} asks for what the worker's Python has not: {'; '.join(unmet)}" if unmet else ""
    try:
        pyfunc = importlib.import_module("mlflow.pyfunc")
        described = importlib.import_module("mlflow.models").Model.load(str(folder))
        if "python_function" not in described.flavors:
            raise LoadError(f"{where} has no flavor python_function, only {', '.join(described.flavors)}")
        signature = _checked(described.signature, where)
        return MlflowBackend(pyfunc.load_model(str(folder)), signature, _notes(signature, lacks))
    except BaseException as error:
        if isinstance(error, LoadError) or ends_the_program(error):
            raise
        _log.exception("an MLflow model failed to load")
        reason = source.told(error, folder)
        raise LoadError(f"{where}: {reason}" + (f"; its {lacks}" if lacks else "")) from error


def _notes(signature: Any, lacks: str) -> list[str]:
    notes = [f"Its {lacks}."] if lacks else []
    if signature.params:
        names = ", ".join(param.name for param in signature.params)
        notes.append(f"The parameters of its signature cannot be given, and have their defaults: {names}.")
    return notes


def _checked(signature: Any, where: str) -> Any:
    for what in ("inputs", "outputs"):
        if signature is None or not getattr(signature, what):
            raise LoadError(f"{where} has no signature with {what}: save it with signature=infer_signature(x, y)")
    return signature


def _fields(what: str, schema: Any, unnamed: str) -> tuple[Field, ...]:
    specs = list(schema)
    if len(specs) > 1 and not all(spec.name for spec in specs):
        raise LoadError(f"{FILE}: an {what} of its signature has no name")
    return tuple(_field(what, spec, str(spec.name or unnamed)) for spec in specs)


def _field(what: str, spec: Any, name: str) -> Field:
    optional = not getattr(spec, "required", True)
    if hasattr(spec, "shape"):
        datatype, shape, is_text = datatype_of(np.dtype(spec.type)), tuple(spec.shape), False
    else:
        kind = getattr(spec.type, "name", str(spec.type))
        if kind not in _DATATYPES:
            raise LoadError(f"{FILE}: {what} {name!r} is of type {spec.type}, for which there is no tensor")
        datatype, shape, is_text = _DATATYPES[kind], (-1,), kind == "string"
    return Field(TensorSpec(name=name, datatype=datatype, shape=shape, optional=optional), is_text=is_text)
