"""Write a trained model in other formats, and compare the answers of each with those of the trained model.

MODEL is a published model's name or folder, a `.keras` file, or a SavedModel's folder. Each format is run in its own
runtime and compared with the trained model; one that differs too much is not published, unless --force says so. The
folder that is written is a version's: put it at <models>/<name>/<version> to serve it. Beside the formats it holds
parity.md, parity.json and parity.png.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from training import console
from training.outputs import Kind

PROG = "millrace export"


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns 0, or 1 when a format was not published or an error was printed."""
    arguments = _parser().parse_args(argv)
    return console.run(lambda: _answered(arguments))


def _answered(arguments: argparse.Namespace) -> int:
    from training import data
    from training.export.model import ExportError

    try:
        return _export(arguments)
    except BrokenPipeError:
        raise
    except (data.DataError, ExportError, OSError) as error:
        print(f"{PROG}: {error}", file=sys.stderr)
        return 1


def source_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that say which model is meant; `export` and `doctor` share them."""
    parser.add_argument(
        "model", metavar="MODEL", help="a published model's name or folder, a .keras file, a SavedModel"
    )
    parser.add_argument("--models", type=Path, default=Path("models"), help="where published models are [models]")
    parser.add_argument(
        "--signature", default="serving_default", help="which signature of a SavedModel is meant [%(default)s]"
    )
    parser.add_argument("--labels", type=Path, help="a file with one label a line, packed with the model")
    parser.add_argument("--code", type=Path, help="a Python file that registers the model's own Keras classes")
    parser.add_argument("--trust", action="store_true", help="run the Python code of Lambda layers in the model's file")
    parser.add_argument(
        "--data",
        metavar="DATA",
        help="examples to compare and score on, with their labels: .npz with the inputs by name and `labels`, .npy,"
        " .csv, a folder of images with a folder for each label, or module:function that returns a tf.data.Dataset",
    )
    parser.add_argument("--representative", metavar="DATA", help="typical inputs, in the same forms, for full int8")
    parser.add_argument(
        "--shape",
        type=_shape,
        action="append",
        default=[],
        metavar="NAME=SIZES",
        help="fix free sizes of an input, such as image=1,224,224,3; -1 leaves one free; once for each input",
    )
    parser.add_argument(
        "--keep-float",
        action="append",
        default=[],
        metavar="LAYER",
        help="full int8 keeps that layer in 32 bits; `auto` finds those that spoil it; may be given several times",
    )
    parser.add_argument(
        "--allow-flex",
        action="store_true",
        help="write operators that TFLite lacks as TensorFlow's, for apps with the Flex delegate; not compared",
    )
    parser.add_argument(
        "--outputs",
        type=_kinds,
        default={},
        metavar="NAME=KIND,...",
        help="what outputs are for, where it is guessed wrong: numbers, classes, labels, ids or exact",
    )


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    """An input's name and sizes, of a text such as `image=1,224,224,3`."""
    name, _, sizes = text.rpartition("=")
    try:
        shape = tuple(int(size) for size in sizes.split(","))
    except ValueError:
        shape = ()
    if not name or not shape:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=SIZE,SIZE,...")
    return name, shape


def _kinds(text: str) -> dict[str, Kind]:
    """The kinds of outputs by their names, of a list such as `kind=classes,price=numbers`."""
    found = {}
    for part in text.split(","):
        name, _, kind = part.rpartition("=")
        if not name or kind not in [*Kind]:
            raise argparse.ArgumentTypeError(f"{part!r} is not NAME=KIND; kinds are {', '.join(Kind)}")
        found[name] = Kind(kind)
    return found


def opened(arguments: argparse.Namespace) -> Any:
    """The `Trained` model that the flags name, with the data that they name. Raises `ExportError`."""
    from training.data import DataFolder
    from training.export import own_data, source
    from training.export.model import Choices

    trained = source_of(arguments).open()
    if getattr(arguments, "data_dir", None) is not None:
        folder = DataFolder(arguments.data_dir, accept_other=arguments.accept_other_data)
        trained = own_data.with_own_data(trained, folder, arguments.limit)
    limit = getattr(arguments, "limit", None)
    trained = source.with_data(trained, arguments.data, arguments.representative, limit)
    choices = Choices(keeps_float=arguments.keep_float, allows_flex=arguments.allow_flex)
    return replace(trained, kinds=arguments.outputs, choices=choices)


def source_of(arguments: argparse.Namespace) -> Any:
    """The `Source` that those flags name."""
    from training.export.source import Source

    return Source(
        model=arguments.model,
        models=arguments.models,
        signature=arguments.signature,
        labels=arguments.labels,
        code=arguments.code,
        trusts=arguments.trust,
        shapes=dict(arguments.shape),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROG,
        description=__doc__,
        epilog="examples:\n"
        "  millrace export mine.keras --out models/mine/1\n"
        "  millrace export digits --to tflite,tflite-int8 --data-dir .data --out exported/digits",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source_arguments(parser)
    parser.add_argument("--to", default="savedmodel,onnx,tflite", metavar="FORMATS", help=_formats_help())
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to write; it must not exist")
    parser.add_argument("--replace", action="store_true", help="write it even where it exists")
    parser.add_argument("--data-dir", type=Path, help="Millrace's data folder, for the models that come with it")
    parser.add_argument("--accept-other-data", action="store_true", help="take files whose SHA-256 is another one")
    parser.add_argument("--limit", type=int, help="score at most that many test examples [all]")
    parser.add_argument(
        "--force", action="store_true", help="publish formats that miss their bound; the manifest says so"
    )
    return parser


def _formats_help() -> str:
    return (
        "of savedmodel, onnx, tflite, tflite-fp16, tflite-dynamic, tflite-int8, tflite-int8-io, tflite-16x8,"
        " tflite-compiled, coreml; or all [savedmodel,onnx,tflite]"
    )


def _export(arguments: argparse.Namespace) -> int:
    import msgspec

    from millrace.artifacts import manifest
    from training.export import exporting, formats, report
    from training.export.model import ExportError

    wanted, out = formats.chosen(arguments.to), arguments.out
    if out.exists() and not arguments.replace:
        raise ExportError(f"{out} exists; choose another --out, or --replace it")
    given = source_of(arguments)
    if out.exists() and (folder := given.folder()) is not None and folder.samefile(out):
        raise ExportError(f"{out} is the model's own folder, whose files the export is made from; choose another --out")
    trained = opened(arguments)
    with exporting.placed(out) as staging:
        found = exporting.export(trained, wanted, staging, force=arguments.force)
        if trained.vocabulary is not None:
            trained.vocabulary.write(staging / "vocabulary.txt")
        if trained.description.labels:
            (staging / "labels.txt").write_text("".join(f"{label}\n" for label in trained.description.labels))
        version = int(out.name) if out.name.isdigit() else trained.description.version
        description = msgspec.structs.replace(
            trained.description,
            version=version,
            parity=exporting.parities(found),
            left_out=exporting.left_out(found),
        )
        manifest.write(staging, description)
    print(report.markdown(found))
    print(f"wrote {out}")
    missed = [row.missed for row in found.rows if not row.is_published]
    for reason in missed:
        print(f"{PROG}: not published: {reason}", file=sys.stderr)
    return 1 if missed else 0
