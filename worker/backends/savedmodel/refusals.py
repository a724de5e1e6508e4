"""Errors of TensorFlow's operations, as callers get them: whose fault it is, and the whole reason."""

import re
from pathlib import Path
from typing import Any

import tensorflow as tf

from millrace.protocol.errors import InvalidRequest, MillraceError, ModelFailed
from worker.backends.texts import public

# What operations raise for arguments that they cannot take, which are the caller's.
_OF_ARGUMENTS = (tf.errors.InvalidArgumentError, tf.errors.OutOfRangeError, tf.errors.DataLossError)
# InvalidArgument, too, but of a graph that cannot run whatever it is given.
_OF_GRAPHS = re.compile(
    r"No OpKernel was registered|Op type not registered|Cannot assign a device|[Cc]ould not satisfy.*device"
    r"|Could not find callback|not found in (function )?library"
)
_NODE = re.compile(r"\{\{(function_)?node [^}]*\}\} ?")
_ROOT = re.compile(r"\(\d+\) ?[A-Za-z_ ]+: ")
_AROUND = re.compile(
    r"Graph execution error:|Detected at node .*|<stack traces unavailable>|\[Op:.*\]|\[\[.*\]\]"
    r"|\d+ root error\(s\) found\.|\d+ successful operations\.|\d+ derived errors ignored\.|Hint: .*"
)


def refusal(error: Any) -> MillraceError:
    """What a run that ended in this error means to its caller.

    Like TensorFlow Serving, it blames the request where an operation blames its argument.
    """
    reason = reason_of(error)
    if isinstance(error, _OF_ARGUMENTS) and not _OF_GRAPHS.search(reason):
        return InvalidRequest(reason)
    if isinstance(error, tf.errors.NotFoundError) and "No such file" in reason:  # files are there that the model needs
        return InvalidRequest(reason)
    return ModelFailed(f"TensorFlow: {reason}")


def reason_of(error: Any, folder: Path | None = None) -> str:
    """All that the operations say, on one line and each thing once, without the names of nodes."""
    reasons: dict[str, None] = {}
    for line in error.message.splitlines():
        text = _ROOT.sub("", _AROUND.sub("", _NODE.sub("", line)).strip(), count=1)
        if text:
            reasons[text] = None
    return public(" ".join(reasons), folder) or type(error).__name__
