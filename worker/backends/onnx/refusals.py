"""What ONNX Runtime's errors mean, in its words, and what to do about a file that it does not load."""

import re
from importlib.util import find_spec
from pathlib import Path

import onnxruntime

from millrace.protocol.errors import InvalidRequest, MillraceError, ModelFailed
from worker.backends.onnx.file import OnnxFile
from worker.backends.texts import place, public

EXTENSIONS = "onnxruntime_extensions"  # the module of a package that has the operators of these domains
EXTENSIONS_DOMAINS = {"ai.onnx.contrib", "com.microsoft.extensions"}
# The domains whose operators ONNX Runtime has; nodes of others are somebody's own, or another program's.
_KNOWN_DOMAINS = re.compile(r"|ai\.onnx(\.(ml|preview.*|training.*))?|com\.microsoft.*|com\.ms\.internal.*")
_RESOURCES = re.compile(r"alloc|out of memory|bad_alloc|cuda|cublas|cudnn", re.IGNORECASE)
_AROUND = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")
_LOADING = re.compile(r"^Load model from .*? failed:")
_NODE = re.compile(r"^Non-zero status code returned while running (\w+) node\. Name:'.*?' Status Message: ?")
# Where in its source the runtime found it: the file, the line and the function.
_PLACE = re.compile(r"\S+\.(?:cc|h|cpp|hpp|cu|cuh):\d+ [^()]*\([^()]*\)(?: const)?(?: \[[^\]]*\])? ?")
_NEWER = f"Install a newer onnxruntime (this is {onnxruntime.__version__})"
_ADVICE = (
    ("Unsupported model IR version", f"{_NEWER}, or lower the file's `ir_version` with the onnx package."),
    ("official released onnx opset", f"{_NEWER}, or export the model with a lower opset."),
    (
        "No Op registered for|is not a registered function|Unrecognized attribute",
        f"{_NEWER} if the operator is new, or export the model without it.",
    ),
    (
        "Could not find an implementation|Failed to find kernel",
        "This ONNX Runtime has no kernel of that operator in that version (the number in brackets) for the model's "
        "data types: convert the model to another opset, or to FP32.",
    ),
    (
        "Failed to construct locale",
        "The model changes the case of letters by that locale: install it where the worker runs (Debian: the package "
        "`locales`, and its line in /etc/locale.gen).",
    ),
    ("[Pp]rotobuf parsing failed|No graph was found", "The file is damaged, incomplete or no ONNX model."),
)
_GIT_LFS = b"version https://git-lfs"


def of_run(text: str) -> MillraceError:
    """What a run's error means: an operator that refuses what it is given blames the request's data."""
    reason = public(_PLACE.sub("", _NODE.sub(r"\1: ", _AROUND.sub("", text))))
    return ModelFailed(f"ONNX Runtime: {reason}") if _RESOURCES.search(text) else InvalidRequest(reason)


def of_load(text: str, path: Path, found: OnnxFile) -> str:
    """Why the model's file is not loaded, and what to do."""
    folder = path.parent
    reason = public(_PLACE.sub("", _LOADING.sub("", _AROUND.sub("", text))), folder).rstrip(".")
    return f"{place(folder, path.name)}: {reason}. {_advice(text, path, found)}".rstrip()


def unknown_operators(found: OnnxFile) -> dict[str, list[str]]:
    """The operators that neither ONNX Runtime nor the file defines, by domain."""
    unknown = dict[str, list[str]]()
    for domain, operator in sorted(found.operators - found.functions):
        if domain in EXTENSIONS_DOMAINS or not _KNOWN_DOMAINS.fullmatch(domain):
            unknown.setdefault(domain, []).append(operator)
    return unknown


def _advice(text: str, path: Path, found: OnnxFile) -> str:
    if unknown := unknown_operators(found):
        return _advice_on_domains(unknown)
    if "rotobuf" in text and path.read_bytes()[: len(_GIT_LFS)] == _GIT_LFS:
        return "The file is a pointer of Git LFS: get the model itself with `git lfs pull`."
    return next((advice for pattern, advice in _ADVICE if re.search(pattern, text)), "")


def _advice_on_domains(unknown: dict[str, list[str]]) -> str:
    named = "; ".join(f"{', '.join(operators)} of the domain {domain!r}" for domain, operators in unknown.items())
    advice = "export the model without them"
    if EXTENSIONS_DOMAINS & unknown.keys() and not find_spec(EXTENSIONS):
        advice = "install the package onnxruntime-extensions beside the worker, which has many of them"
    return f"The model has operators that ONNX Runtime lacks: {named}; {advice}."
