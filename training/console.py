"""What the commands that run TensorFlow keep off a console: its log, its temporary folders, a pipe that is closed."""

import contextlib
import importlib
import logging
import os
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator

_LOGGERS = ("tensorflow", "absl", "tf2onnx", "coremltools")


def run(command: Callable[[], int]) -> int:
    """The command's exit status, with TensorFlow ready for it, on the CPU, and a folder for what its parts leave.

    Where nobody reads on (`| head`), the status is that of a program which the closed pipe ended.
    """
    before = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that folders are removed
    try:
        with _scratch():
            _prepare_tensorflow()
            code = command()
            sys.stdout.flush()
            return code
    except BrokenPipeError:
        with open(os.devnull, "w") as nowhere:  # noqa: PTH123 - a device, not a file
            os.dup2(nowhere.fileno(), sys.stdout.fileno())  # Python flushes once more at its end
        return 128 + signal.SIGPIPE
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """While the block runs, warnings and what the process writes to standard error are dropped.

    Converters write whole graphs there, and warn of their own parts; what fails is raised.
    """
    saved = os.dup(2)
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123 - a device, not a file
        os.dup2(nowhere.fileno(), 2)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def quiet_from_here() -> None:
    """Drop what the process writes to standard error from now on: libraries tell of their own ends."""
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123 - a device, not a file
        os.dup2(nowhere.fileno(), 2)


def _prepare_tensorflow() -> None:
    """Import it, off GPUs, so that no graph depends on one, and let it say what it says of the machine to nobody."""
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with quiet():
        importlib.import_module("tensorflow").zeros(())  # the first operator looks for devices
        importlib.import_module("tf2onnx")
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)


@contextlib.contextmanager
def _scratch() -> Iterator[None]:
    """A temporary folder that holds all others while the block runs; converters forget to remove theirs."""
    before, variable = tempfile.tempdir, os.environ.get("TMPDIR")
    with tempfile.TemporaryDirectory(prefix="millrace-", ignore_cleanup_errors=True) as folder:
        tempfile.tempdir = os.environ["TMPDIR"] = folder
        try:
            yield
        finally:
            tempfile.tempdir = before
            if variable is None:
                del os.environ["TMPDIR"]
            else:
                os.environ["TMPDIR"] = variable
