"""Every kind of model in the zoo, in every format: the share of those that TensorFlow itself runs in a graph."""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

import pytest

from tests.support import zoo_counts

pytest.importorskip("tensorflow")


@pytest.mark.parametrize(
    ("name", "targets"),
    [
        ("adapted_normalization", ("onnx",)),
        ("argmax_of_scores", ("onnx", "tflite")),
        ("mixed_float16_mlp", ("onnx", "tflite")),
        ("integer_lookup", ("onnx", "tflite")),
        ("string_lookup", ("onnx",)),
    ],
)
def test_a_blocked_kind_answers_like_the_model(name: str, targets: tuple[str, ...]) -> None:
    found = zoo_counts.counted(name, ("tensorflow", *targets))
    assert found == dict.fromkeys(("tensorflow", *targets), zoo_counts.FINE)


@pytest.mark.slow
def test_nearly_every_model_is_had_in_every_format() -> None:
    from tests.support import zoo

    assert len(zoo.ZOO) >= 120
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as processes:
        found = dict(zip(zoo.ZOO, processes.map(zoo_counts.counted, zoo.ZOO), strict=True))
    print(zoo_counts.table(found))  # noqa: T201 - the table is what one runs this for; see it with -s
    for target, least in (
        ("onnx", 0.95),
        ("tflite", 0.95),
        ("tflite-fp16", 0.95),
        ("tflite-compiled", 0.9),
        ("coreml", 0.8),
    ):
        assert zoo_counts.share(found, target) >= least, target
