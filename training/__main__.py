"""`python -m training MODEL`, also called `millrace train MODEL`: train a model and publish it.

MODEL is one of the models below or the path of a script of your own. A script has a `NAME`, a frozen dataclass
`Settings` whose fields become flags (`epochs` and `seed` among them), and a function
`train(settings, folder, target, run)`. Only the chosen script is imported, and TensorFlow with it.
"""

import argparse
import dataclasses
import importlib
import importlib.util
import math
import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from millrace.artifacts.repository import ModelRepository, RepositoryError
from training.course import PRECISIONS

_PUBLISHED = ("savedmodel", "onnx", "tflite")
MODELS = {
    "digits": ("training.digits", "handwritten digits: a convolutional network on MNIST"),
    "digits-mlp": ("training.mlp", "the same with dense layers, to compare with"),
    "digits-student": ("training.distill", "the same in 30 KB, taught by `digits`"),
    "sentiment": ("training.sentiment", "is a film review positive? an LSTM on IMDB"),
    "word2vec": ("training.word2vec", "word vectors: skip-gram or CBOW with negative sampling on Wikipedia"),
}
COMMANDS = {
    "compare-classical": ("training.classical", "digits read by classical methods and by ours: a table and a plot"),
    "assets": ("training.assets", "the published models in every format, as files for phones and web pages"),
    "scores": ("training.scores", "measure the published models on the test sets, against what is promised"),
}


def main(argv: list[str] | None = None) -> int:
    """Run the command; without a model it prints the help.

    Returns 0, 1 when the error was printed, 130 when it was interrupted.
    """
    arguments = sys.argv[1:] if argv is None else argv
    chosen = arguments[0] if arguments else ""
    if chosen in COMMANDS:
        module: Any = importlib.import_module(COMMANDS[chosen][0])
        code: int = module.main(arguments[1:])
        return code
    if chosen not in MODELS and not chosen.endswith(".py"):
        _overview().parse_args(arguments)
        _overview().print_help()
        return 0
    return _train(chosen, arguments[1:])


def _overview() -> argparse.ArgumentParser:
    def listed(found: dict[str, tuple[str, str]]) -> str:
        return "".join(f"  {name:<18} {about}\n" for name, (_, about) in found.items())

    parser = argparse.ArgumentParser(
        prog="millrace train",
        usage="%(prog)s MODEL [options]",
        description="Train a model, export it as SavedModel, ONNX and TFLite, and publish it.",
        epilog=f"models:\n{listed(MODELS)}  PATH.py            a script of your own; see docs/howto/train.md\n\n"
        f"other commands:\n{listed(COMMANDS)}\nEach has options of its own: millrace train digits --help\n\n"
        "examples:\n  millrace train digits\n  millrace train sentiment --version 2 --epochs 3 --out models\n\n"
        "`python -m training` is the same command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", nargs="?", choices=[*MODELS, *COMMANDS], help=argparse.SUPPRESS)
    return parser


def _train(chosen: str, arguments: Sequence[str]) -> int:
    prog = f"python -m training {chosen}"
    try:
        script = _script(chosen)
    except OSError as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return 1
    from training import checkpoints, data, export, parity
    from training.cluster import Cluster, ClusterError
    from training.course import Course, CourseError
    from training.runs import Run

    options = vars(_parser(prog, script).parse_args(arguments))
    settings = script.Settings(**{field.name: options[field.name] for field in dataclasses.fields(script.Settings)})
    place = options["runs"] / script.NAME / str(options["version"])
    target = export.Target(
        repository=ModelRepository(options["out"]),
        version=options["version"],
        replace=options["replace"],
        kept=place,
        may_lack=options["may_lack"],
    )
    folder = data.DataFolder(options["data_dir"], accept_other=options["accept_other_data"], own=options["data"])
    course = Course(**{field.name: options[field.name] for field in dataclasses.fields(Course)})
    try:
        target.check(script.NAME)
        import keras

        cluster = Cluster(options["cluster"], options["task"])
        keras.utils.set_random_seed(settings.seed)
        run = Run(place, settings, folder.hashes, resume=options["resume"], cluster=cluster, course=course)
        script.train(settings, folder, target, run)
    except (
        checkpoints.CheckpointError,
        ClusterError,
        CourseError,
        data.DataError,
        export.ExportError,
        parity.ParityError,
        RepositoryError,
    ) as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\n{prog}: interrupted; with --resume it goes on after the last finished epoch", file=sys.stderr)
        return 130
    return 0


def _script(chosen: str) -> Any:
    """The module of that name or path. Raises `OSError` when there is no such file."""
    if chosen in MODELS:
        return importlib.import_module(MODELS[chosen][0])
    spec = importlib.util.spec_from_file_location(Path(chosen).stem, chosen)
    if spec is None or spec.loader is None:
        raise OSError(f"{chosen} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


def _parser(prog: str, script: Any) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description=script.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    place = parser.add_argument_group("data and publishing")
    place.add_argument(
        "--data-dir", type=Path, default=Path(".data"), help="data files; missing ones are downloaded [%(default)s]"
    )
    place.add_argument(
        "--data",
        type=Path,
        metavar="PATH",
        help="data of your own: a folder of images, or a .csv; see docs/howto/train.md",
    )
    place.add_argument("--accept-other-data", action="store_true", help="train on files whose SHA-256 is another one")
    place.add_argument(
        "--out", type=Path, default=Path("models"), help="the model repository to publish in [%(default)s]"
    )
    place.add_argument("--version", type=int, default=1, help="the version to publish [%(default)s]")
    place.add_argument("--replace", action="store_true", help="publish even where that version exists")
    place.add_argument(
        "--may-lack",
        type=_names,
        default=(),
        metavar="FORMATS",
        help="publish without those of savedmodel, onnx, tflite that cannot be had; the manifest says why",
    )
    course = parser.add_argument_group("the run")
    course.add_argument(
        "--runs", type=Path, default=Path(".runs"), help="checkpoints and TensorBoard logs go here [%(default)s]"
    )
    course.add_argument(
        "--resume", action="store_true", help="go on after the last finished epoch, also for more --epochs"
    )
    course.add_argument(
        "--patience",
        type=whole_number,
        default=0,
        help="stop after that many epochs without a better one; 0: never [0]",
    )
    course.add_argument(
        "--monitor", default="", metavar="METRIC", help="what says which epoch is better [the loss on held-out data]"
    )
    course.add_argument("--precision", choices=PRECISIONS, default="float32", help="of what is computed [%(default)s]")
    course.add_argument(
        "--callbacks",
        default="",
        metavar="PLACE",
        help="file.py:function or module:function that gives Keras callbacks",
    )
    course.add_argument("--mlflow", default="", metavar="URI", help="an MLflow server or folder that metrics go to")
    course.add_argument(
        "--cluster", type=_addresses, default=(), help="HOST:PORT of each process, the first is the chief"
    )
    course.add_argument("--task", type=int, default=0, help="which of them this process is, from 0 [%(default)s]")
    hyper_parameters = parser.add_argument_group("hyper-parameters")
    for field in dataclasses.fields(script.Settings):
        flag = f"--{field.name.replace('_', '-')}"
        default = field.default
        kind = counting_number if field.name in ("epochs", "batch_size") else _KINDS.get(type(default), type(default))
        choices = [*type(default)] if isinstance(default, StrEnum) else None
        hyper_parameters.add_argument(flag, type=kind, choices=choices, default=default, help=f"[{default}]")
    return parser


def counting_number(text: str) -> int:
    """A whole number, at least 1."""
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text}: at least 1 is needed")
    return value


def whole_number(text: str) -> int:
    """A whole number, at least 0."""
    if (value := int(text)) < 0:
        raise argparse.ArgumentTypeError(f"{text} is less than 0")
    return value


def number(text: str) -> float:
    """A number, at least 0."""
    if not 0 <= (value := float(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no number from 0")
    return value


_KINDS: dict[type, Callable[[str], Any]] = {int: whole_number, float: number, str: str}


def _addresses(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    for name in names:
        if name not in _PUBLISHED:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(_PUBLISHED)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
