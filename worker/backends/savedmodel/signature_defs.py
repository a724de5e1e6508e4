"""TensorFlow's SignatureDefs as signatures: what callers may send and get, and what of it cannot be announced."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from millrace import rpc
from millrace.protocol.errors import NotSupported
from millrace.protocol.tensors import Signature, TensorSpec
from millrace.rpc import tensorprotos

_INTERNAL = "__saved_model"  # how the names of those begin that TensorFlow adds for itself
_METHODS_OF_EXAMPLES = ("tensorflow/serving/classify", "tensorflow/serving/regress")
_REFERENCE = 100  # added to a type's number where the tensor is a variable's reference
_TYPES = rpc.enum("tensorflow.DataType")
_NAMES = {number: name for name, number in _TYPES.items()}


@dataclass(frozen=True, slots=True)
class TensorFound:
    """One tensor of a model: TensorFlow's number of its type, and its shape, None where its rank is unknown.

    `shape` has -1 where any size fits. `takes_examples`: it is read as serialized `tensorflow.Example`s. `remark` ends
    a sentence on the tensor for whoever uses it, "" where there is nothing to say.
    """

    dtype: int
    shape: tuple[int, ...] | None
    takes_examples: bool = False
    remark: str = ""


LookUp = Callable[[Any], TensorFound]


@dataclass(frozen=True, slots=True)
class Announced:
    """The signatures that can be announced, and a sentence on each signature, input or output that cannot or differs.

    `refusals` are the sentences on whole signatures.
    """

    signatures: dict[str, Signature] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)

    def refuse(self, name: str, reason: str) -> None:
        """Leave a signature out."""
        self.refusals.append(f"Signature {name!r} is left out: {reason}.")
        self.notes.append(self.refusals[-1])


def announced(definitions: Mapping[str, Any], look_up: LookUp) -> Announced:
    """What of the SignatureDefs, by name, can be announced. `look_up` finds a TensorInfo's tensor, or raises
    `NotSupported`.

    A signature whose input cannot be sent is left out whole. An output that cannot be answered is left out alone, and
    its signature with it where none is left.
    """
    found = Announced()
    for name in sorted(definitions):
        if name.startswith(_INTERNAL):
            continue
        try:
            found.signatures[name] = _signature(name, definitions[name], look_up, found.notes)
        except NotSupported as error:
            found.refuse(name, str(error))
    return found


def as_said(info: Any) -> TensorFound:
    """The tensor as its TensorInfo describes it. Raises `NotSupported` for what is not one tensor."""
    if (encoding := info.WhichOneof("encoding")) != "name":
        raise NotSupported(f"is a {_composite(info, encoding)}, which is not one tensor")
    dtype = info.dtype - _REFERENCE if info.dtype > _REFERENCE else info.dtype
    is_known = info.HasField("tensor_shape") and not info.tensor_shape.unknown_rank
    return TensorFound(dtype, tuple(dim.size for dim in info.tensor_shape.dim) if is_known else None)


def _composite(info: Any, encoding: str | None) -> str:
    if encoding == "coo_sparse":
        return "SparseTensor"
    spec = getattr(info, "composite_tensor", None)
    return str(spec.type_spec.type_spec_class_name).removesuffix("Spec") if spec else "composite tensor"


def _signature(name: str, definition: Any, look_up: LookUp, notes: list[str]) -> Signature:
    inputs, outputs, lost, refused = [], [], [], []
    for alias, info in sorted(definition.inputs.items()):
        try:
            tensor = _for_examples(look_up(info), alias, definition)
            inputs.append(_spec(alias, info, tensor, optional=alias in definition.defaults))
        except NotSupported as error:
            raise NotSupported(f"its input {alias!r} {error}") from None
        notes += _remarks(name, "Input", alias, tensor)
    for alias, info in sorted(definition.outputs.items()):
        try:
            tensor = look_up(info)
            outputs.append(_spec(alias, info, tensor))
        except NotSupported as error:
            refused.append(f"its output {alias!r} {error}")
            lost.append(f"Output {alias!r} of signature {name!r} is left out: it {error}.")
            continue
        notes += _remarks(name, "Output", alias, tensor)
    if not outputs:
        raise NotSupported("; ".join(refused) or "it has no outputs")
    notes += lost
    method = definition.method_name
    return Signature(inputs=tuple(inputs), outputs=tuple(outputs), **({"method_name": method} if method else {}))


def _for_examples(tensor: TensorFound, alias: str, definition: Any) -> TensorFound:
    """A batch of serialized examples is a vector, also where the file does not say so."""
    is_theirs = tensor.takes_examples or (definition.method_name in _METHODS_OF_EXAMPLES and alias == "inputs")
    if tensor.shape is None and tensor.dtype == _TYPES["DT_STRING"] and is_theirs:
        return replace(tensor, shape=(-1,))
    return tensor


def _spec(alias: str, info: Any, tensor: TensorFound, *, optional: bool = False) -> TensorSpec:
    return TensorSpec(
        name=alias,
        datatype=_datatype(tensor.dtype),
        shape=tensor.shape or (),
        optional=optional,
        unknown_rank=tensor.shape is None,
        graph_name=info.name,
    )


def _datatype(number: int) -> str:
    try:
        return tensorprotos.datatype_of(number)
    except NotSupported:
        raise NotSupported(f"has the type {_NAMES.get(number, number)}, which is not carried") from None


def _remarks(signature: str, what: str, alias: str, tensor: TensorFound) -> list[str]:
    return [f"{what} {alias!r} of signature {signature!r} {tensor.remark}."] if tensor.remark else []
