"""Say which formats a trained model can be exported to, what stands in the way of the others, and what to do about it.

MODEL is what `millrace export` takes. Every format is tried, into a folder that is thrown away; whether its answers are
those of the trained model is for the export itself to measure.
"""

import argparse
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.export_command import prepare_tensorflow, source_arguments, source_of

PROG = "millrace doctor"

# What to do about an operator, by how its name begins; the first that fits.
_ADVICE = {
    "Cudnn": "build the layer with use_cudnn=False and copy its weights",
    "String|Regex|StaticRegex|Lookup|Substr|Unicode|Ragged|AsString|Strings": (
        "texts stay in TensorFlow: let the model take word ids, and turn texts into ids outside of it, by a vocabulary"
        " that is packed with the model (the step `tokenize` of a manifest)"
    ),
    "Decode|EncodeJpeg|EncodePng": "let the model take pixels, and decode files outside of it",
    "TensorList": "give the recurrent layer a fixed number of rows: keras.Input(batch_shape=(1, None, size))",
    "Loop|Scan": (
        "a recurrent layer that is written as a loop: an LSTM with its usual activations and without a mask is one"
        " operator in every format"
    ),
    "Random|Stateless|Multinomial": "leave random numbers out of the graph that is served: call it with training=False",
}
_ANY = "compute the same from simpler operators, or leave that layer out of the exported model"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What was found of one format: `blocker` is empty where it can be written."""

    format: str
    title: str
    blocker: str = ""
    advice: str = ""
    notes: tuple[str, ...] = ()


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns 0 where every format can be written, else 1."""
    parser = argparse.ArgumentParser(
        prog=PROG,
        description=__doc__,
        epilog="examples:\n  millrace doctor mine.keras\n  millrace doctor digits",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source_arguments(parser)
    arguments = parser.parse_args(argv)
    prepare_tensorflow()
    from training.export.model import ExportError

    try:
        found = list(diagnose(source_of(arguments).open()))
    except (ExportError, OSError) as error:
        print(f"{PROG}: {error}", file=sys.stderr)
        return 1
    for line in told(found):
        print(line)
    return 1 if any(finding.blocker for finding in found) else 0


def told(findings: Iterable[Finding]) -> Iterator[str]:
    """The findings as lines for people."""
    for finding in findings:
        yield f"{'blocked' if finding.blocker else 'works  '}  {finding.title} ({finding.format})"
        if finding.blocker:
            yield f"         {finding.blocker}"
            yield f"         what to do: {finding.advice}"
        yield from (f"         note: {note}" for note in finding.notes)


def diagnose(trained: Any) -> Iterator[Finding]:
    """Try every format of a `Trained` model."""
    from training.export.formats import FORMATS
    from training.export.model import ExportError

    with tempfile.TemporaryDirectory() as scratch:
        for name, form in FORMATS.items():
            folder = Path(scratch) / name
            folder.mkdir()
            notes = tuple(_notes(name, trained))
            try:
                form.write(trained, folder / form.file)
            except ExportError as error:
                blocker = f"{error}{_layers(str(error), trained.exports.keras_model)}"
                yield Finding(format=name, title=form.title, blocker=blocker, advice=_advice(str(error)), notes=notes)
            else:
                yield Finding(format=name, title=form.title, notes=notes)


def _advice(reason: str) -> str:
    operators = re.findall(r"\b([A-Z]\w+) \(", reason) + re.findall(r"operator (\w+)", reason)
    if "calibrated through a loop" in reason:
        return "use tflite-dynamic, or LSTM layers without a mask, which need no loop"
    for begins, advice in _ADVICE.items():
        if any(re.match(begins, operator) for operator in operators) or re.search(rf"\b({begins})\w*", reason):
            return advice
    return _ANY


def _layers(reason: str, model: Any) -> str:
    """The Keras layers that the nodes named in the reason are in."""
    if model is None:
        return ""
    parts = {part for path in re.findall(r"[\w./-]+/[\w./-]+", reason) for part in path.split("/")}
    found = [
        layer.name
        for layer in model._flatten_layers(include_self=False)
        if any(re.fullmatch(rf"{re.escape(layer.name)}(_\d+)?", part) for part in parts)
    ]
    named = ", ".join(f"'{name}'" for name in dict.fromkeys(found))
    return f"; in layer {named}" if named else ""


def _notes(name: str, trained: Any) -> Iterator[str]:
    """What works, but not as one might expect."""
    specs = trained.exports.function.input_signature
    fixed = [spec.name for spec in specs if spec.shape.rank and spec.shape[0] is not None]
    if fixed and name in ("savedmodel", "onnx"):
        yield f"the first dimension of {', '.join(fixed)} is fixed, so requests cannot be batched"
    if name.startswith("tflite") and trained.exports.lite_function is not None:
        yield "takes one row at a time, since it has recurrent layers"
        yield from _unfused(trained.exports.keras_model)
    if name == "tflite-int8" and trained.exports.lite_function is not None:
        yield "LSTMs lose most of their precision in full int8, so it will miss its bound; take tflite-dynamic"
    if name == "tflite-int8":
        yield "give typical inputs with --representative; numbers drawn at random set the wrong ranges"
    if name == "coreml":
        yield "its numbers can be checked on macOS only"


def _unfused(model: Any) -> Iterator[str]:
    """Recurrent layers that TFLite has no operator for."""
    import keras

    from training.export import fused_lstm
    from training.export.keras_model import recurrent_layers

    for layer in recurrent_layers(model) if model is not None else ():
        reason = "TFLite has an operator for LSTM only"
        if isinstance(layer, keras.layers.LSTM):
            reason = fused_lstm.obstacle(layer)
        if reason:
            yield f"layer '{layer.name}' stays a loop (WHILE), which is slower: {reason}"


if __name__ == "__main__":
    sys.exit(main())
