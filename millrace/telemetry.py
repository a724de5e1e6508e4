"""Libraries that would report to their makers, or write into the user's home, are told not to before their import.

ONNX Runtime reads its variable when it is loaded: what its API says afterwards comes too late, a device id is on disk
and a host name was looked up by then. So each package that imports such a library, anywhere in it, calls `silence` in
its `__init__`, which Python runs before any module inside.
"""

import os
from collections.abc import MutableMapping

_VARIABLES = {
    "ORT_DISABLE_TELEMETRY": "1",  # ONNX Runtime from 1.29 on
    "KERAS_HOME": f"{os.devnull}/keras",  # no keras.json is written, nor a user's read: it changes models
}


def silence(environ: MutableMapping[str, str]) -> None:
    """Set the variables in the environment, which child processes inherit; one that is set already stays."""
    for name, value in _VARIABLES.items():
        environ.setdefault(name, value)
