"""What is said of an exported model whose answers are right, nearly right, or wrong, by what its outputs are for."""

from typing import Any

import numpy as np
import pytest

from training import parity
from training.outputs import Kind

BATCHES = [{"x": np.ones((rows, 2), np.float32)} for rows in (1, 3)]


def _answering(**outputs: Any) -> parity.Run:
    return lambda batch: {name: np.repeat(np.array([row]), len(batch["x"]), axis=0) for name, row in outputs.items()}


def _missed(wanted: Any, found: Any, *, exact: bool, kind: Kind | None = None) -> str:
    """What is wrong with one output, of one batch."""
    kinds = {} if kind is None else {"o": kind}
    batch = {"x": np.zeros((len(wanted), 1))}
    measured = parity.measure("F", lambda _: {"o": wanted}, lambda _: {"o": found}, [batch], kinds)
    return measured.missed(exact=exact)


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


def test_an_answer_that_depends_on_its_batch_is_refused() -> None:
    def leaking(batch: parity.Arrays) -> dict[str, Any]:
        return {"p": np.full((len(batch["x"]), 2), 0.5) * (len(batch["x"]) == 1)}

    with pytest.raises(parity.ParityError, match=r"differs from the trained model by 0\.5"):
        parity.compare("ONNX", _answering(p=[0.5, 0.5]), leaking, BATCHES)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        pytest.param([[np.nan, 1.0]], [[np.nan, 1.0]], id="NaN where the model has NaN"),
        pytest.param([[np.inf, -np.inf]], [[np.inf, -np.inf]], id="infinity likewise"),
        pytest.param([[5000.0]], [[5000.0005]], id="one unit in the last place of 5,000"),
        pytest.param([[5000.0], [0.0]], [[5000.0], [0.001]], id="what is left where 5,000 and 5,000 cancel"),
    ],
)
def test_rounding_and_equal_ends_of_the_scale_are_no_differences(wanted: Any, found: Any) -> None:
    assert _missed(np.array(wanted), np.array(found), exact=True) == ""


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        pytest.param([[np.inf]], [[-np.inf]], id="the other infinity"),
        pytest.param([[np.nan]], [[1.0]], id="a number for NaN"),
        pytest.param([[1e-5], [2e-5]], [[2e-5], [1e-5]], id="small numbers in each other's place"),
        pytest.param([[True, True]], [[False, False]], id="booleans"),
        pytest.param(
            np.zeros((1, 4, 4), int), np.arange(16).reshape(1, 4, 4) % 4, id="a map that is right in column 0"
        ),
        pytest.param(np.zeros((500, 1), int), np.arange(500)[:, None] // 499, id="one of 500 whole numbers"),
    ],
)
def test_wrong_answers_are_refused(wanted: Any, found: Any) -> None:
    assert "output 'o'" in _missed(np.array(wanted), np.array(found), exact=True)


def test_one_text_of_a_thousand_is_refused() -> None:
    wanted = np.array([b"yes"] * 1000, object)
    found = wanted.copy()
    found[7] = b"no"

    assert "99.90% of the values" in _missed(wanted, found, exact=True)


@pytest.mark.parametrize("shape", [(3,), (0, 2), ()])
def test_whole_numbers_of_any_shape_are_compared(shape: tuple[int, ...]) -> None:
    batch = {"x": np.zeros((1, 2))}
    found = parity.measure("F", lambda _: {"o": np.zeros(shape, int)}, lambda _: {"o": np.zeros(shape, int)}, [batch])

    assert found.missed(exact=True) == ""


def test_ids_beside_falling_scores_may_change_places_now_and_then() -> None:
    ids = np.tile([4, 2], (500, 1))
    scores = np.tile([0.9, 0.8], (500, 1))
    swapped = ids.copy()
    swapped[0] = [2, 4]
    batch = {"x": np.zeros((500, 1))}

    def measured(other: Any) -> parity.Measured:
        return parity.measure("F", lambda _: {"ids": ids, "p": scores}, lambda _: {"ids": other, "p": scores}, [batch])

    assert measured(swapped).missed(exact=True) == ""
    assert "0.00% of the values" in measured(ids[:, ::-1]).missed(exact=True)


RANDOM = np.random.default_rng(0)
COLUMNS = RANDOM.normal(size=(200, 2)) * [300, 1] + [1000, 20]  # a large coordinate and a small one


def test_numbers_of_rounded_weights_are_judged_by_each_columns_spread() -> None:
    near = COLUMNS + RANDOM.normal(size=COLUMNS.shape) * [3, 0.01]
    far_in_the_small_column = COLUMNS + np.array([0, 0.5])

    assert _missed(COLUMNS, near, exact=False) == ""
    assert "of the data's spread" in _missed(COLUMNS, far_in_the_small_column, exact=False)
    assert "differs" in _missed(COLUMNS, near, exact=True)


def test_every_output_is_judged_not_only_the_first() -> None:
    batch = {"x": np.zeros((1, 2))}
    wanted = {"kind": np.array([[0.9, 0.1]]), "price": np.array([[1000.0]])}
    found = {"kind": np.array([[0.8, 0.2]]), "price": np.array([[3.0]])}

    measured = parity.measure("F", lambda _: wanted, lambda _: found, [batch])

    assert "'price'" in measured.missed(exact=False)
    judged = {output.name: output for output in measured.judged(exact=False)}
    assert (judged["kind"].kind, judged["kind"].missed) == (Kind.CLASSES, "")
    assert judged["price"].kind is Kind.NUMBERS


def _distribution(rows: int) -> Any:
    first = np.linspace(0.6, 0.9, rows)
    return np.stack([first, 1 - first], axis=1)


@pytest.mark.parametrize(("flipped", "is_refused"), [(0, False), (1, False), (40, True)])
def test_classes_may_differ_as_far_as_chance_goes(flipped: int, is_refused: bool) -> None:
    wanted = _distribution(100)
    found = wanted.copy()
    found[:flipped] = found[:flipped, ::-1]

    assert ("of the answers" in _missed(wanted, found, exact=False)) is is_refused


def test_two_classes_that_the_model_hardly_tells_apart_are_no_decision() -> None:
    wanted = np.tile([0.501, 0.499], (100, 1))

    assert _missed(wanted, wanted[:, ::-1], exact=False) == ""


def test_labels_that_do_not_exclude_one_another_are_judged_one_by_one() -> None:
    wanted = np.tile([0.9, 0.8, 0.1], (200, 1))
    found = wanted.copy()
    found[:, 2] = 0.9  # which is not the largest, and yet wrong

    assert "of the answers" in _missed(wanted, found, exact=False)


def test_what_an_output_is_for_can_be_said() -> None:
    boxes = np.tile([0.2, 0.3, 0.1, 0.4], (100, 1)) + RANDOM.uniform(-0.1, 0.1, (100, 4))
    off = boxes + RANDOM.uniform(-0.02, 0.02, (100, 4))

    assert _missed(boxes, off, exact=False) == ""  # on the same side of one half
    assert "spread" in _missed(boxes, off, exact=False, kind=Kind.NUMBERS)


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        pytest.param(np.arange(40) % 2, 1 - np.arange(40) % 2, id="whole numbers"),
        pytest.param(np.arange(40.0)[:, None] % 2, 1 - np.arange(40.0)[:, None] % 2, id="floats"),
        pytest.param(np.eye(2)[np.arange(40) % 2], np.eye(2)[1 - np.arange(40) % 2], id="rows of floats"),
        pytest.param(np.array([b"a", b"b"] * 20, object), np.array([b"b", b"a"] * 20, object), id="texts"),
        pytest.param(np.arange(40) % 2 == 0, np.arange(40) % 2 == 1, id="booleans"),
    ],
)
def test_no_kind_that_is_said_lets_wrong_answers_pass(wanted: Any, found: Any, exact: bool, kind: Kind) -> None:
    assert _missed(wanted, found, exact=exact, kind=kind)
    assert not _missed(wanted, wanted, exact=exact, kind=kind)


def test_a_kind_for_an_output_that_is_not_there_is_refused() -> None:
    run = _answering(o=[1.0])
    with pytest.raises(parity.ParityError, match="there is no output p; there are o"):
        parity.measure("F", run, run, BATCHES, {"p": Kind.NUMBERS})


@pytest.mark.parametrize(
    ("count", "lost", "is_refused"), [(1, 1, False), (10, 1, False), (10, 4, True), (1000, 3, False), (1000, 20, True)]
)
def test_a_score_is_refused_for_a_loss_that_its_sample_can_show(count: int, lost: int, is_refused: bool) -> None:
    before = np.ones(count, bool)
    after = before.copy()
    after[:lost] = False

    assert ("points lower" in parity.score_missed(before, after)) is is_refused


@pytest.mark.parametrize(
    ("outputs", "labels", "score"),
    [
        pytest.param({"a": [[0.1, 7.0]], "p": [[0.2, 0.8]]}, [1], 1.0, id="a distribution before other numbers"),
        pytest.param({"scores": [[-1.0, 3.0, 2.0]]}, [1], 1.0, id="scores that sum up to nothing"),
        pytest.param({"p": [[0.7]]}, [1], 1.0, id="one probability"),
        pytest.param({"p": [[0.7, 0.2, 0.6]]}, [[1, 0, 0]], 2 / 3, id="several labels"),
        pytest.param({"ids": [[4, 2]], "p": [[0.9, 0.1]]}, [4], 1.0, id="ids"),
    ],
)
def test_labels_are_compared_with_the_output_that_can_have_them(outputs: Any, labels: Any, score: float) -> None:
    run = lambda _: {name: np.array(values) for name, values in outputs.items()}  # noqa: E731 - a model

    assert parity.score(run, [({"x": np.zeros((1, 1))}, np.array(labels))]) == pytest.approx(score)


def test_a_model_without_classes_cannot_be_scored() -> None:
    run = _answering(o=[1.0, 2.0])

    with pytest.raises(parity.ParityError, match="no output is a class"):
        parity.score(run, [({"x": np.zeros((1, 1))}, np.array([5]))])
