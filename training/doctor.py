"""Say which formats a trained model can be exported to, what stands in the way of the others, and what to do about it.

MODEL is what `millrace export` takes. Every format is exported, into a folder that is thrown away: what "works" was
written, was run in its own runtime, and answered as the model does.
"""

import argparse
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training import console
from training.export_command import opened, source_arguments

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
    "untracked": "make the table or variable an attribute of a layer of the model, so that it is saved with it",
    "Random|Stateless|Multinomial": "leave random numbers out of the graph that is served: call it with training=False",
}
_ANY = "compute the same from simpler operators, or leave that layer out of the exported model"


_FLEX = "; or add --allow-flex, for apps that have the Flex delegate (Android and iOS; no browser)"
_MISSES = "`millrace export --force` writes one that runs all the same"
_OPERATOR = re.compile(r"\b([A-Z]\w+) \((?:node )?([^()]*)\)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Obstacle:
    """One thing that stands in the way of a format, the layers that it is in, and what to do about it."""

    what: str
    layers: tuple[str, ...]
    advice: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What was found of one format: there are no `obstacles` where it was written and answers as the model does."""

    format: str
    title: str
    obstacles: tuple[Obstacle, ...] = ()
    notes: tuple[str, ...] = ()


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns 0 where every format works, else 1."""
    parser = argparse.ArgumentParser(
        prog=PROG,
        description=__doc__,
        epilog="examples:\n  millrace doctor mine.keras\n  millrace doctor digits",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source_arguments(parser)
    arguments = parser.parse_args(argv)
    return console.run(lambda: _answered(arguments))


def _answered(arguments: argparse.Namespace) -> int:
    from training.export.model import ExportError

    try:
        found = list(diagnose(opened(arguments)))
    except (ExportError, OSError) as error:
        print(f"{PROG}: {error}", file=sys.stderr)
        return 1
    for line in told(found):
        print(line)
    return 1 if any(finding.obstacles for finding in found) else 0


def told(findings: Sequence[Finding]) -> Iterator[str]:
    """The findings as lines for people; what is noted of several formats comes once, at the end."""
    for finding in findings:
        yield f"{'blocked' if finding.obstacles else 'works  '}  {finding.title} ({finding.format})"
        for obstacle in finding.obstacles:
            where = f"; in layer {', '.join(map(repr, obstacle.layers))}" if obstacle.layers else ""
            yield f"         {obstacle.what}{where}"
            yield f"         what to do: {obstacle.advice}"
    notes = dict.fromkeys(note for finding in findings for note in finding.notes)
    for note in notes:
        formats = [finding.format for finding in findings if note in finding.notes]
        yield f"note     {', '.join(formats) if len(formats) < len(findings) else 'all formats'}: {note}"


def diagnose(trained: Any) -> Iterator[Finding]:
    """Export a `Trained` model to every format, into a folder that is thrown away, and say what became of each."""
    from training.export import exporting
    from training.export.formats import FORMATS

    with tempfile.TemporaryDirectory() as scratch:
        found = exporting.tried(trained, list(FORMATS), Path(scratch), is_timed=False)
    for row in found.rows[1:]:
        obstacles = tuple(_obstacles(row, trained.exports.keras_model)) if row.missed else ()
        notes = (*_notes(row.format, trained), *_nan_notes(row))
        yield Finding(format=row.format, title=row.title, obstacles=obstacles, notes=notes)


def _obstacles(row: Any, model: Any) -> Iterator[Obstacle]:
    """Each operator that the reason names with the layers of its nodes, or the reason itself."""
    reason = row.missed
    if row.outputs or "its runtime fails" in reason:  # it was written
        yield Obstacle(what=reason, layers=(), advice=_if_written(row))
        return
    nodes: dict[str, list[str]] = {}
    for operator, node in _OPERATOR.findall(reason):
        nodes.setdefault(operator, []).append(node)
    if not nodes:
        yield Obstacle(what=reason, layers=_layers([reason], model), advice=_advice(reason))
    together: dict[tuple[tuple[str, ...], str], list[str]] = {}
    for operator, paths in nodes.items():
        place = _layers(paths, model), _advice(f"{operator} ({paths[0]}) {reason}")
        together.setdefault(place, []).append(f"{operator} ({paths[0]})")
    for (layers, advice), operators in together.items():
        what = reason.partition("; --allow-flex")[0] if len(nodes) == 1 else f"no operator for {', '.join(operators)}"
        yield Obstacle(what=what, layers=layers, advice=advice)


def _if_written(row: Any) -> str:
    from training.export.formats import CALIBRATED

    if row.format in CALIBRATED:
        return (
            "take tflite-dynamic, let --keep-float auto find the layers that spoil it, or give typical inputs with"
            f" --representative and real ones with --data; {_MISSES}"
        )
    if row.format in ("savedmodel", "onnx", "tflite"):
        return f"take another format, and see by --data whether real inputs show it too; {_MISSES}"
    return f"give real inputs, with labels, by --data; {_MISSES}"


def _advice(reason: str) -> str:
    if "--shape" in reason or "its size depends on the data" in reason:
        return "fix the sizes that are free by --shape, or give the model's Input a fixed shape"
    if "calibrated through a loop" in reason:
        return "use tflite-dynamic, or LSTM layers without a mask, which need no loop"
    first = re.match(r"[A-Z]\w+ \(", reason)
    other = _FLEX if "--allow-flex" in reason else ""
    for begins, advice in _ADVICE.items():
        if re.match(begins, reason) if first else re.search(rf"\b({begins})\w*", reason):
            return advice + other
    return _ANY + other


def _layers(reasons: Sequence[str], model: Any) -> tuple[str, ...]:
    """The Keras layers that the nodes named in the reasons are in."""
    if model is None:
        return ()
    paths = [path for reason in reasons for path in re.findall(r"[\w./-]+/[\w./-]+", reason)]
    parts = {part for path in paths for part in path.split("/")}
    found = [
        layer.name
        for layer in model._flatten_layers(include_self=False)
        if any(re.fullmatch(rf"{re.escape(layer.name)}(_\d+)?", part) for part in parts)
    ]
    return tuple(dict.fromkeys(found))


def _nan_notes(row: Any) -> Iterator[str]:
    for output in row.outputs:
        if output.nans:
            yield f"the model answers NaN to {output.nans} of {output.values} trial values in '{output.name}'"


def _notes(name: str, trained: Any) -> Iterator[str]:
    """What works, but not as one might expect."""
    from training.export.formats import CALIBRATED, FORMATS
    from training.export.keras_model import renamed

    model = trained.exports.keras_model
    for before, after in renamed(model).items() if model is not None else ():
        yield f"'{before}' is called '{after}', which every program can carry"
    specs = trained.exports.function.input_signature
    fixed = [spec.name for spec in specs if spec.shape.rank and spec.shape[0] is not None]
    if fixed and name in ("savedmodel", "onnx"):
        yield f"the first dimension of {', '.join(fixed)} is fixed, so requests cannot be batched"
    if name.startswith("tflite") and trained.exports.lite_function is not None and not FORMATS[name].is_fixed:
        yield "takes one row at a time, since it has recurrent layers"
        yield from _unfused(trained.exports.keras_model)
    if name in CALIBRATED and trained.exports.lite_function is not None:
        yield "LSTMs lose most of their precision in full int8; take tflite-dynamic"
    if name in CALIBRATED:
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
