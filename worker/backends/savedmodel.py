"""TensorFlow SavedModels, by TensorFlow: those that TensorFlow Serving loads, of TensorFlow 1 and 2 alike."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# TensorFlow reads this when it is imported. It writes its warnings to standard error by itself, with what callers sent
# in them; the exceptions say the same. An operator's own value stays.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import tensorflow as tf

from millrace.protocol.errors import NotSupported
from millrace.protocol.tensors import Signature
from worker.backends import savedmodelfile, savedmodelstate, signaturedefs
from worker.backends.base import Arrays, Device, LoadError
from worker.backends.savedmodelcall import SignatureCall
from worker.backends.savedmodelrefusals import reason_of, refusal
from worker.backends.savedmodelsession import open_session
from worker.backends.signaturedefs import Announced, TensorFound
from worker.backends.texts import place, public

_PARSERS = ("ParseExample", "ParseExampleV2")  # which take serialized examples as their first input


class SavedModelBackend:
    """A loaded SavedModel; its signatures may be run from several threads."""

    platform = "tensorflow_savedmodel"
    fault = ""
    labels: Sequence[str] = ()
    axes: Mapping[str, Sequence[str]] = {}
    keeps_state = ""

    def __init__(
        self, session: Any, calls: Mapping[str, SignatureCall], found: Announced, mixed_rows: Mapping[str, str]
    ) -> None:
        self._session = session
        self._calls = dict(calls)
        self.signatures: Mapping[str, Signature] = found.signatures
        self.notes: Sequence[str] = found.notes
        self.mixed_rows = mixed_rows

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
    if device.kind == "cuda" and not tf.config.list_physical_devices("GPU"):
        raise LoadError("CUDA was asked for, and TensorFlow found no usable GPU")
    _log_as_we_do()
    graph, notes = savedmodelfile.read_graph(folder, for_gpu=device.kind == "cuda")
    try:
        session = open_session(folder, graph, device)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise LoadError(f"{place(folder)}: {public(str(error), folder)}") from error
    except tf.errors.OpError as error:
        raise LoadError(f"{place(folder)}: {reason_of(error, folder)}") from error
    found = signaturedefs.announced(graph.signature_def, lambda info: _find(session.graph, info))
    calls = _calls(session, graph, found)
    if not calls:
        raise LoadError(_nothing_to_serve(folder, found))
    found.notes[:0] = notes
    return SavedModelBackend(session, calls, found, _judged(graph, found))


def _log_as_we_do() -> None:
    """Lead what TensorFlow's Python part logs to our handlers, in our form."""
    logger = tf.get_logger()
    logger.handlers.clear()
    logger.propagate = True


def _find(graph: Any, info: Any) -> TensorFound:
    """The tensor as the graph has it, which is what counts; its shape also as the file's signature describes it."""
    said = signaturedefs.as_said(info)
    try:
        tensor = graph.get_tensor_by_name(info.name)
    except (KeyError, ValueError):
        raise NotSupported(f"names the tensor {info.name!r}, which the graph lacks") from None
    has = None if tensor.shape.rank is None else tuple(-1 if size is None else size for size in tensor.shape)
    takes_examples = any(node.type in _PARSERS and node.inputs[0] is tensor for node in tensor.consumers())
    dtype = tensor.dtype.base_dtype.as_datatype_enum
    return TensorFound(dtype, _shape(said, has) if said.dtype == dtype else has, takes_examples)


def _shape(said: TensorFound, has: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """What the signature says, as far as the graph allows it."""
    if has is None or said.shape is None or len(said.shape) != len(has):
        return said.shape if has is None else has
    return tuple(one if other < 0 else other for one, other in zip(said.shape, has, strict=True))


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


def _judged(graph: Any, found: Announced) -> dict[str, str]:
    """Why rows must not run together, of the signatures that keep something from run to run; with notes on these."""
    operators, mixed = savedmodelstate.Operators(graph.graph_def), {}
    for name, signature in found.signatures.items():
        needed = operators.needed(
            [spec.graph_name for spec in signature.outputs], [spec.graph_name for spec in signature.inputs]
        )
        if written := savedmodelstate.writes(needed):
            mixed[name] = f"it changes variables or tables ({', '.join(written)})"
            found.notes.append(
                f"Signature {name!r} changes variables or tables ({', '.join(written)}): what one caller sends reaches "
                "the answers to others, as it does in TensorFlow Serving."
            )
        if savedmodelstate.calls_python(needed):
            found.notes.append(
                f"Signature {name!r} calls a Python function (tf.py_function), which the file does not hold: requests "
                "that get there fail."
            )
    return mixed
