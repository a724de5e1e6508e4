"""The ways to call a TFLite model: its signatures, or one that is made from its tensors.

As TensorFlow Serving does: a file without signatures gets `serving_default`, whose inputs and outputs are called as the
tensors are, without what follows a colon. Signatures in the file's metadata, as old converters wrote them, count too.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from millrace.protocol.errors import InvalidRequest
from millrace.protocol.tensors import DEFAULT_SIGNATURE, Signature, TensorSpec, datatype_of
from worker.backends.base import Arrays, LoadError
from worker.backends.tflite.file import TensorFlowSignature, TfliteFile

_Details = dict[str, Any]  # of a tensor, as LiteRT tells them


@dataclass(frozen=True, slots=True)
class Call:
    """One way to call an interpreter. `names` are what callers call its tensors, by the tensors' own names."""

    signature: Signature
    run: Callable[[Arrays], Arrays]
    names: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Calls:
    """The calls by signature. `notes` say what is left out or made."""

    by_signature: Mapping[str, Call]
    notes: tuple[str, ...]


def calls(interpreter: Any, file: TfliteFile) -> Calls:
    """What the interpreter can be called for. Raises `LoadError` where there is nothing."""
    found, notes = dict[str, Call](), []
    for name, make in _makers(interpreter, file).items():
        try:
            found[name] = make()
        except (InvalidRequest, ValueError) as error:
            notes.append(f"Signature '{name}' is left out: {error}.")
    if not found:
        raise LoadError(" ".join(notes) or "the model has no inputs and outputs")
    if DEFAULT_SIGNATURE not in found and len(found) == 1:
        (name, call), *_ = found.items()
        found[DEFAULT_SIGNATURE] = call
        notes.append(f"Signature '{name}' is the only one, so it answers as '{DEFAULT_SIGNATURE}', too.")
    return Calls(found, tuple(notes))


def quantization_notes(call: Call) -> list[str]:
    """What the integers of quantized tensors mean."""
    specs = (*call.signature.inputs, *call.signature.outputs)
    return [f"Tensor '{spec.name}' is quantized: its real values are {_real(spec)}." for spec in specs if spec.scale]


def _real(spec: TensorSpec) -> str:
    return f"{spec.scale:g} x " + (f"(value {-spec.zero_point:+d})" if spec.zero_point else "value")


def _makers(interpreter: Any, file: TfliteFile) -> dict[str, Callable[[], Call]]:
    """What makes each call; it raises `ValueError` or `InvalidRequest` for a tensor that callers cannot have."""
    if names := list(interpreter.get_signature_list()):
        return {name: partial(_by_runner, interpreter, name) for name in names}
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    if signatures := file.tensorflow_signatures():
        return {name: partial(_by_alias, interpreter, one, inputs, outputs) for name, one in signatures.items()}
    named = _named(inputs, "input"), _named(outputs, "output")
    return {DEFAULT_SIGNATURE: partial(_by_tensors, interpreter, *named)}


def _by_runner(interpreter: Any, name: str) -> Call:
    runner = interpreter.get_signature_runner(name)

    def run(arrays: Arrays) -> Arrays:
        return dict(runner(**_given(arrays)))

    return _call(runner.get_input_details(), runner.get_output_details(), run)


def _by_alias(
    interpreter: Any, signature: TensorFlowSignature, inputs: list[_Details], outputs: list[_Details]
) -> Call:
    return _by_tensors(interpreter, _aliased(signature.inputs, inputs), _aliased(signature.outputs, outputs))


def _by_tensors(interpreter: Any, inputs: Mapping[str, _Details], outputs: Mapping[str, _Details]) -> Call:
    def run(arrays: Arrays) -> Arrays:
        if arrays.keys() != inputs.keys():
            raise InvalidRequest(f"the inputs are {', '.join(inputs)}, got {', '.join(arrays)}")
        arrays = _given(arrays)
        for name, array in arrays.items():
            interpreter.resize_tensor_input(inputs[name]["index"], array.shape)
        interpreter.allocate_tensors()
        for name, array in arrays.items():
            interpreter.set_tensor(inputs[name]["index"], array)
        interpreter.invoke()
        return {name: interpreter.get_tensor(details["index"]) for name, details in outputs.items()}

    return _call(inputs, outputs, run)


def _given(arrays: Arrays) -> Arrays:
    """The arrays as LiteRT takes them. Of a lone string among objects it would take the address in memory."""
    lone = {name: array for name, array in arrays.items() if not array.ndim and array.dtype == object}
    if not lone:
        return arrays
    for name, array in lone.items():
        if not array.item():
            raise InvalidRequest(f"input '{name}' is a scalar, and LiteRT takes no empty string as one")
    return arrays | {name: np.array(array.item()) for name, array in lone.items()}


def _call(inputs: Mapping[str, _Details], outputs: Mapping[str, _Details], run: Callable[[Arrays], Arrays]) -> Call:
    signature = Signature(
        inputs=tuple(_spec(name, details) for name, details in inputs.items()),
        outputs=tuple(_spec(name, details) for name, details in outputs.items()),
    )
    names = {details["name"]: name for name, details in (*inputs.items(), *outputs.items())}
    return Call(signature, run, names)


def _spec(name: str, details: _Details) -> TensorSpec:
    shape = tuple(int(size) for size in details["shape_signature"])
    scale, zero_point = details["quantization"]
    return TensorSpec(
        name=name,
        datatype=datatype_of(np.dtype(details["dtype"])),
        shape=shape,
        graph_name=details["name"],
        scale=float(scale),
        zero_point=int(zero_point),
    )


def _aliased(aliases: Mapping[str, str], tensors: Iterable[_Details]) -> dict[str, _Details]:
    """Tensors by what a signature calls them. Old converters cut a name at its colon."""
    by_name = {details["name"]: details for details in tensors}
    found = {}
    for alias, name in aliases.items():
        details = by_name.get(name) or by_name.get(name.partition(":")[0])
        if details is None:
            raise ValueError(f"it names a tensor {name!r} that the file lacks")
        found[alias] = details
    return found


def _named(tensors: list[_Details], kind: str) -> dict[str, _Details]:
    """Tensors by their names up to the colon; by their whole names, or with a number, where two would be the same."""
    short = [details["name"].partition(":")[0] for details in tensors]
    named = dict[str, _Details]()
    for i, (name, details) in enumerate(zip(short, tensors, strict=True)):
        wanted = (name if short.count(name) == 1 else details["name"]) or f"{kind}_{i}"
        named[wanted if wanted not in named else f"{wanted}_{i}"] = details
    return named
