"""What a model's class says of itself: its tensors, and how its rows run.

    class Model:
        inputs = {"x": ("FP32", (-1, 4))}        # or by the annotations of `predict`
        outputs = {"scores": ("FP32", (-1, 3))}  # or by what it returns: a type, or a TypedDict of several
        max_batch_size = 32                      # rows in one call; without it one; 0: tensors that have no rows

A type is one of `str`, `bytes`, `int`, `float` and `bool` (one value a row), a `list` of one of these (a value for each
row), or `Annotated[np.ndarray, "FP32", (-1, 4)]`. Shapes begin with the rows, -1, unless `max_batch_size` is 0.
"""

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np

from millrace.artifacts.manifest import Batching
from millrace.protocol.errors import InvalidRequest
from millrace.protocol.tensors import BYTES, DTYPES, Signature, TensorSpec, datatype_of

_SCALARS: dict[Any, str] = {str: "STRING", bytes: BYTES, int: "INT64", float: "FP64", bool: "BOOL"}
_STRING = "STRING"  # BYTES that the code has as text
_ONLY_OUTPUT = "output"
_ASYNC_CONCURRENCY = 8
_NOT_TENSORS = ("it must be a datatype and a shape", '("FP32", (-1, 4))', 'Annotated[np.ndarray, "FP32", (-1, 4)]')


class DeclarationError(Exception):
    """The class does not say what it must; the text says what."""


@dataclass(frozen=True, slots=True)
class Field:
    """One tensor as the code has it: an `array`, a `list` of its values, or the one value of a `scalar`.

    Where `is_text` its strings are `str` in the code's hands, else `bytes`.
    """

    spec: TensorSpec
    form: Literal["array", "list", "scalar"] = "array"
    is_text: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """What a class declares. `concurrency` is how many calls it stands at once, `labels` are the names of classes."""

    inputs: tuple[Field, ...]
    outputs: tuple[Field, ...]
    batching: Batching
    concurrency: int
    labels: tuple[str, ...] = ()

    @property
    def signature(self) -> Signature:
        """What callers are told."""
        return Signature(
            inputs=tuple(field.spec for field in self.inputs), outputs=tuple(field.spec for field in self.outputs)
        )

    @property
    def is_row_by_row(self) -> bool:
        """Whether each call has one row."""
        return self.batching.max_batch_size == 1


def read(cls: type[Any]) -> Declaration:
    """What the class declares. Raises `DeclarationError`."""
    most = _number(cls, "max_batch_size", 1, least=0)
    is_async = inspect.iscoroutinefunction(cls.predict)
    hints = _hints(cls.predict)
    inputs = _inputs(cls, hints, has_rows=most > 0)
    outputs = _outputs(cls, hints.get("return"), has_rows=most > 0)
    if most > 1 and (single := [field.spec.name for field in (*inputs, *outputs) if field.form == "scalar"]):
        raise DeclarationError(
            f"{single[0]!r} is one value, but with max_batch_size {most} there is one for each row: declare a list"
        )
    delay_ms = getattr(cls, "max_queue_delay_ms", 0)
    if isinstance(delay_ms, bool) or not isinstance(delay_ms, int | float) or delay_ms < 0:
        raise DeclarationError(f"max_queue_delay_ms must be a number of milliseconds, got {delay_ms!r}")
    labels = getattr(cls, "labels", ())
    if isinstance(labels, str) or not all(isinstance(label, str) for label in labels):
        raise DeclarationError(f"labels must be a tuple of texts, got {labels!r}")
    return Declaration(
        inputs=inputs,
        outputs=outputs,
        batching=Batching(max_batch_size=most, max_queue_delay_ms=float(delay_ms)),
        concurrency=_number(cls, "concurrency", _ASYNC_CONCURRENCY if is_async else 1, least=1),
        labels=tuple(labels),
    )


def _number(cls: type[Any], name: str, default: int, *, least: int) -> int:
    value = getattr(cls, name, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise DeclarationError(f"{name} must be a whole number from {least} on, got {value!r}")
    return value


def _hints(predict: Callable[..., Any]) -> Mapping[str, Any]:
    try:
        return typing.get_type_hints(predict, include_extras=True)
    except Exception as error:  # names that are not there, or whatever evaluating them leads to
        raise DeclarationError(f"the annotations of predict cannot be read: {error}") from error


def _inputs(cls: type[Any], hints: Mapping[str, Any], *, has_rows: bool) -> tuple[Field, ...]:
    is_bound = isinstance(inspect.getattr_static(cls, "predict"), staticmethod | classmethod)
    parameters = list(inspect.signature(cls.predict).parameters.values())[0 if is_bound else 1 :]  # without self
    named = {each.name: each for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)}
    takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters)
    declared = getattr(cls, "inputs", None)
    if declared is None:
        declared = {name: hints.get(name) for name in named}
    if not isinstance(declared, Mapping) or not declared:
        raise DeclarationError("predict has no inputs: declare them as its annotated parameters, or in `inputs`")
    for name in declared:
        if name not in named and not takes_any:
            raise DeclarationError(f"`inputs` declares {name!r}, which is no parameter of predict")
    if missing := [name for name, each in named.items() if name not in declared and each.default is each.empty]:
        raise DeclarationError(f"predict needs {missing[0]!r}, which `inputs` does not declare")
    return tuple(
        _field("input", name, kind, has_rows=has_rows, optional=name in named and not _is_required(named[name]))
        for name, kind in declared.items()
    )


def _is_required(parameter: inspect.Parameter) -> bool:
    return parameter.default is parameter.empty


def _outputs(cls: type[Any], returned: Any, *, has_rows: bool) -> tuple[Field, ...]:
    declared = getattr(cls, "outputs", None)
    if declared is None:
        declared = typing.get_type_hints(returned, include_extras=True) if typing.is_typeddict(returned) else returned
    if isinstance(declared, Mapping) and declared:
        return tuple(_field("output", name, kind, has_rows=has_rows) for name, kind in declared.items())
    if declared in (None, dict) or typing.get_origin(declared) is dict or isinstance(declared, Mapping):
        raise DeclarationError("predict has no outputs: annotate what it returns, or declare them in `outputs`")
    return (_field("output", _ONLY_OUTPUT, declared, has_rows=has_rows),)


def _field(what: str, name: Any, kind: Any, *, has_rows: bool, optional: bool = False) -> Field:
    if not isinstance(name, str) or not name:
        raise DeclarationError(f"{name!r} cannot be the name of an {what}")
    try:
        form, datatype, shape = _read(_without_none(kind), has_rows=has_rows)
    except DeclarationError as error:
        raise DeclarationError(f"{what} {name!r}: {error}") from None
    if has_rows and shape[:1] != (-1,):
        raise DeclarationError(
            f"{what} {name!r} has the shape {list(shape)}, but the first dimension counts rows and so must be -1; "
            "set max_batch_size = 0 for tensors without rows"
        )
    is_text = datatype == _STRING
    spec = TensorSpec(name=name, datatype=BYTES if is_text else datatype, shape=shape, optional=optional)
    return Field(spec, form, is_text)


def _without_none(kind: Any) -> Any:
    """The type of `T | None`."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        others = [each for each in typing.get_args(kind) if each is not type(None)]
        return others[0] if len(others) == 1 else kind
    return kind


def _read(kind: Any, *, has_rows: bool) -> tuple[Literal["array", "list", "scalar"], str, tuple[int, ...]]:
    """The form, the datatype and the shape that a declaration means."""
    if isinstance(kind, tuple | list) and len(kind) == 2:
        return "array", _datatype(kind[0]), _shape(kind[1])
    if typing.get_origin(kind) is Annotated:
        base, *parts = typing.get_args(kind)
        if len(parts) == 2:
            form: Literal["array", "list"] = "list" if base is list or typing.get_origin(base) is list else "array"
            return form, _datatype(parts[0]), _shape(parts[1])
    if typing.get_origin(kind) is list and (of := typing.get_args(kind)[0]) in _SCALARS:
        return "list", _SCALARS[of], (-1,)
    if isinstance(kind, type) and kind in _SCALARS:
        return "scalar", _SCALARS[kind], (-1,) if has_rows else ()
    problem, pair, annotated = _NOT_TENSORS
    got = "nothing" if kind is None else repr(kind)
    raise DeclarationError(f"{problem}, as {pair} or {annotated}, or str, bytes, int, float, bool or a list; got {got}")


def _datatype(given: Any) -> str:
    if isinstance(given, str) and (given in DTYPES or given == _STRING):
        return given
    if isinstance(given, type | np.dtype):
        try:
            return datatype_of(np.dtype(given))
        except (TypeError, InvalidRequest):
            pass
    raise DeclarationError(f"there is no datatype {given!r}; there are {', '.join(DTYPES)} and {_STRING}")


def _shape(given: Any) -> tuple[int, ...]:
    if isinstance(given, tuple | list) and all(type(size) is int and size >= -1 for size in given):
        return tuple(given)
    raise DeclarationError(f"{given!r} is no shape: it must be a tuple of sizes, with -1 where any size fits")
