"""TensorFlow SavedModels, by TensorFlow: those that TensorFlow Serving loads, of TensorFlow 1 and 2 alike."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

# TensorFlow reads this when it is imported. It writes its warnings to standard error by itself, with what callers sent
# in them; the exceptions say the same. An operator's own value stays.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import tensorflow as tf
from tensorflow.core.framework import types_pb2

from millrace.protocol.errors import NotSupported
from millrace.protocol.tensors import Signature
from worker.backends.base import Arrays, Device, LoadError
from worker.backends.savedmodel import devices as tf_devices
from worker.backends.savedmodel import extensions, signature_defs, state
from worker.backends.savedmodel import file as saved_model
from worker.backends.savedmodel.call import SignatureCall
from worker.backends.savedmodel.functions import FunctionCall, function_calls
from worker.backends.savedmodel.refusals import reason_of, refusal
from worker.backends.savedmodel.session import checkpoint, open_session, unset_variables
from worker.backends.savedmodel.signature_defs import Announced, TensorFound
from worker.backends.savedmodel.state import Operators
from worker.backends.texts import place, public

_PARSERS = ("ParseExample", "ParseExampleV2")  # which take serialized examples as their first input


class SavedModelBackend:
    """A loaded SavedModel; its signatures may be run from several threads."""

    platform = "tensorflow_savedmodel"
    fault = ""
    labels: Sequence[str] = ()
    axes: Mapping[str, Sequence[str]] = {}
    mixed_rows: Mapping[str, str] = {}

    def __init__(
        self, session: Any, calls: Mapping[str, SignatureCall | FunctionCall], found: Announced, keeps_state: str
    ) -> None:
        self._session = session
        self._calls = dict(calls)
        self.signatures: Mapping[str, Signature] = found.signatures
        self.notes: Sequence[str] = found.notes
        self.keeps_state = keeps_state

    def run(self, signature: str, inputs: Arrays) -> Arrays:
        """See `Backend`. Like TensorFlow Serving, blames the request where an operation blames its argument."""
        try:
            return self._calls[signature].run(inputs)
        except tf.errors.OpError as error:
            raise refusal(error) from error

    def close(self) -> None:
        """See `Backend`."""
        self._calls.clear()
        self._session.close()


def load(folder: Path, device: Device) -> SavedModelBackend:
    """The SavedModel in the folder. Raises `LoadError`."""
    tf_devices.prepare(device)
    _log_as_we_do()
    graph, notes = saved_model.read_graph(folder, for_gpu=device.kind == "cuda")
    session = _session(folder, graph, device)
    found = signature_defs.announced(graph.signature_def, lambda info: _find(session.graph, info))
    operators = Operators(graph.graph_def)
    calls = _functions(folder, session, graph, found, operators, device) or _calls(session, graph, found)
    if not calls:
        raise LoadError(_nothing_to_serve(folder, found))
    found.notes[:0] = notes
    return SavedModelBackend(session, calls, found, _state(operators, found))


def _session(folder: Path, graph: Any, device: Device) -> Any:
    try:
        try:
            return open_session(folder, graph, device)
        except tf.errors.NotFoundError as error:
            if not extensions.missing_operator(error):
                raise
            extensions.import_libraries()
            return open_session(folder, graph, device)
    except tf.errors.OpError as error:
        operator = extensions.missing_operator(error)
        reason = extensions.advice(operator) if operator else reason_of(error, folder)
        raise LoadError(f"{place(folder)}: {reason}") from error
    except Exception as error:  # a graph that is not well-formed, or a library that does not fit
        raise LoadError(f"{place(folder)}: {public(str(error), folder)}") from error


def _log_as_we_do() -> None:
    """Lead what TensorFlow's Python part logs to our handlers, in our form."""
    logger = tf.get_logger()
    logger.handlers.clear()
    logger.propagate = True


def _find(graph: Any, info: Any) -> TensorFound:
    """The tensor as the graph has it, which is what counts; its shape also as the file's signature describes it."""
    said = signature_defs.as_said(info)
    try:
        tensor = graph.get_tensor_by_name(info.name)
    except (KeyError, ValueError):
        raise NotSupported(f"names the tensor {info.name!r}, which the graph lacks") from None
    has = None if tensor.shape.rank is None else tuple(-1 if size is None else size for size in tensor.shape)
    takes_examples = any(node.type in _PARSERS and node.inputs[0] is tensor for node in tensor.consumers())
    dtype = tensor.dtype.base_dtype.as_datatype_enum
    shape = _shape(said, has) if said.dtype == dtype else has
    if dtype == types_pb2.DT_BFLOAT16:
        return TensorFound(types_pb2.DT_FLOAT, shape, remark="is DT_BFLOAT16 and goes as FP32, which holds all of it")
    return TensorFound(dtype, shape, takes_examples)


def _shape(said: TensorFound, has: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """What the signature says, as far as the graph allows it."""
    if has is None or said.shape is None or len(said.shape) != len(has):
        return said.shape if has is None else has
    return tuple(one if other < 0 else other for one, other in zip(said.shape, has, strict=True))


def _functions(
    folder: Path, session: Any, graph: Any, found: Announced, operators: Operators, device: Device
) -> dict[str, FunctionCall]:
    """The signatures of a file that restores no variables into its graph, as `tf.saved_model.save` writes Keras 3's.

    None where the graph has all that it needs. Raises `LoadError` for a file without its folder of variables.
    """
    needed = {name for of in found.signatures.values() for name in operators.variables(*_ends(of))}
    unset = unset_variables(session, needed)
    if not unset:
        return {}
    if not (index := checkpoint(folder)).exists():
        where = place(folder, f"{index.parent.name}/{index.name}")
        raise LoadError(f"{where} is missing, so variable {unset[0]!r} has no value; a SavedModel is its whole folder")
    if not graph.HasField("object_graph_def"):  # of TensorFlow 1, which has no functions
        found.notes.append(f"Variable {unset[0]!r} gets no value when the model is loaded: requests that need it fail.")
        return {}
    try:
        calls = function_calls(folder, found.signatures, graph.signature_def, device)
    except Exception as error:  # whatever TensorFlow raises for objects that it cannot rebuild
        reason = public(str(error), folder)
        found.notes.append(f"Variable {unset[0]!r} gets no value, and requests that need it fail: {reason}.")
        return {}
    found.notes.append(
        f"Variable {unset[0]!r} gets no value in the file's graph, so the file's Python functions answer, which is "
        "slower. TensorFlow Serving cannot serve it; `model.export` of Keras 3 writes a file that it can."
    )
    return calls


def _calls(session: Any, graph: Any, found: Announced) -> dict[str, SignatureCall]:
    """The signatures that can run; those that cannot are taken out of what was found."""
    calls = {}
    for name, signature in list(found.signatures.items()):
        try:
            calls[name] = SignatureCall(session, signature, graph.signature_def[name].defaults)
        except tf.errors.OpError as error:
            del found.signatures[name]
            found.refuse(name, reason_of(error))
    return calls


def _nothing_to_serve(folder: Path, found: Announced) -> str:
    reasons = " ".join(found.refusals) or "it has none; export it with one."
    return f"{place(folder)}: the SavedModel has no signature that can be served: {reasons}"


def _state(operators: Operators, found: Announced) -> str:
    """What the signatures change that later runs read, "" for nothing; notes it, and which call Python."""
    written, python = {}, []
    for name, signature in found.signatures.items():
        needed = operators.needed(*_ends(signature))
        if writes := state.writes(needed):
            written[name] = ", ".join(writes)
        if state.calls_python(needed):
            python.append(name)
    if python:
        found.notes.append(
            f"Python functions, which no file holds, are called in {_named(python)}: requests that get there fail."
        )
    if not written:
        return ""
    found.notes.append(
        f"Variables or tables are changed in {_named(written)}: what one caller sends reaches the answers to others, "
        "as in TensorFlow Serving."
    )
    name, operations = next(iter(written.items()))
    return f"signature {name!r} changes variables or tables ({operations})"


def _ends(signature: Signature) -> tuple[list[str], list[str]]:
    """What the graph calls the outputs, and the inputs."""
    return [spec.graph_name for spec in signature.outputs], [spec.graph_name for spec in signature.inputs]


def _named(names: Iterable[str]) -> str:
    quoted = [repr(name) for name in names]
    return f"{'signature' if len(quoted) == 1 else 'signatures'} {', '.join(quoted)}"
