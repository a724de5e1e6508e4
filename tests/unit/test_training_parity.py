from typing import Any

import numpy as np
import pytest

from training import parity

BATCHES = [{"x": np.ones((rows, 2), np.float32)} for rows in (1, 3)]


def _answering(**outputs: Any) -> parity.Run:
    return lambda batch: {name: np.repeat(np.array([row]), len(batch["x"]), axis=0) for name, row in outputs.items()}


def test_equal_answers_agree() -> None:
    run = _answering(probabilities=[0.25, 0.75])

    found = parity.compare("ONNX", run, run, BATCHES)

    assert (found.max_abs_difference, found.top1_agreement, found.examples) == (0.0, 1.0, 4)


def test_the_largest_difference_is_reported() -> None:
    found = parity.compare("ONNX", _answering(p=[0.5, 0.5]), _answering(p=[0.5 + 5e-5, 0.5 - 2e-5]), BATCHES)

    assert found.max_abs_difference == pytest.approx(5e-5)


@pytest.mark.parametrize(
    ("exported", "message"),
    [
        pytest.param({"p": [0.25, 0.7502]}, "TFLite: output 'p' differs .* by 0.0002", id="a float too far away"),
        pytest.param({"p": [0.25, np.nan]}, "TFLite: output 'p' differs .* by nan", id="not a number"),
        pytest.param({"p": [0.25, 0.75, 0.0]}, r"TFLite: output 'p' is float64 \(1, 3\)", id="another shape"),
        pytest.param({"p": [0, 1]}, "TFLite: output 'p' is int64", id="another type"),
        pytest.param({"q": [0.25, 0.75]}, r"TFLite: the outputs are \['q'\], expected \['p'\]", id="another name"),
    ],
)
def test_a_different_answer_is_refused_naming_the_format(exported: dict[str, Any], message: str) -> None:
    with pytest.raises(parity.ParityError, match=message):
        parity.compare("TFLite", _answering(p=[0.25, 0.75]), _answering(**exported), BATCHES)


def test_other_ids_are_refused_even_where_the_floats_agree() -> None:
    with pytest.raises(parity.ParityError, match=r"SavedModel: only 0\.0% of the rows"):
        parity.compare(
            "SavedModel", _answering(ids=[4, 2], p=[0.9, 0.8]), _answering(ids=[7, 2], p=[0.9, 0.8]), BATCHES
        )


def test_an_answer_that_depends_on_its_batch_is_refused() -> None:
    def leaking(batch: parity.Arrays) -> dict[str, Any]:
        return {"p": np.full((len(batch["x"]), 2), 0.5) * (len(batch["x"]) == 1)}

    with pytest.raises(parity.ParityError, match=r"differs from the trained model by 0\.5"):
        parity.compare("ONNX", _answering(p=[0.5, 0.5]), leaking, BATCHES)
