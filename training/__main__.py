"""`python -m training MODEL`, also called `millrace train MODEL`: train a model and publish it.

Only the chosen model's script is imported, and TensorFlow with it.
"""

import argparse
import dataclasses
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from millrace.artifacts.repository import ModelRepository, RepositoryError

MODELS = {
    "digits": "handwritten digits: a convolutional network on MNIST",
    "sentiment": "is a film review positive? an LSTM on IMDB",
    "word2vec": "word vectors: skip-gram with negative sampling on Wikipedia",
}


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns 0, or 1 when the error was printed. Without a model it prints the help."""
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] not in MODELS:
        _overview().parse_args(arguments)
        _overview().print_help()
        return 0
    return _train(arguments[0], arguments[1:])


def _overview() -> argparse.ArgumentParser:
    lines = "".join(f"  {name:<10} {about}\n" for name, about in MODELS.items())
    parser = argparse.ArgumentParser(
        prog="python -m training",
        description="Train a model, export it as SavedModel, ONNX and TFLite, and publish it.",
        epilog=f"models:\n{lines}\nEach has flags of its own: python -m training digits --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", nargs="?", choices=MODELS, help="what to train")
    return parser


def _train(name: str, arguments: Sequence[str]) -> int:
    script: Any = importlib.import_module(f"training.{name}")
    from training import data, export, parity

    parser = argparse.ArgumentParser(
        prog=f"python -m training {name}",
        description=script.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    place = parser.add_argument_group("data and publishing")
    place.add_argument("--data-dir", type=Path, default=Path(".data"), help="data files; missing ones are downloaded")
    place.add_argument("--accept-other-data", action="store_true", help="train on files whose SHA-256 is another one")
    place.add_argument("--out", type=Path, default=Path("models"), help="the model repository to publish in")
    place.add_argument("--version", type=int, default=1, help="the version to publish")
    place.add_argument("--replace", action="store_true", help="publish even where that version exists")
    hyper_parameters = parser.add_argument_group("hyper-parameters")
    for field in dataclasses.fields(script.Settings):
        flag = f"--{field.name.replace('_', '-')}"
        hyper_parameters.add_argument(flag, type=type(field.default), default=field.default, help=f"[{field.default}]")
    options = vars(parser.parse_args(arguments))
    settings = script.Settings(**{field.name: options[field.name] for field in dataclasses.fields(script.Settings)})
    target = export.Target(
        repository=ModelRepository(options["out"]), version=options["version"], replace=options["replace"]
    )
    folder = data.DataFolder(options["data_dir"], accept_other=options["accept_other_data"])
    try:
        target.check(name)
        script.train(settings, folder, target)
    except (data.DataError, export.ExportError, parity.ParityError, RepositoryError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
