"""Columns of files as inputs of models, and outputs as columns: row by row where rows differ."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from jobs.evaluation import Counts, added, chances_of, class_of
from jobs.inputs import Inputs, mapping_of
from jobs.kinds import find, names
from jobs.labels import best_columns, scores_of
from jobs.outputs import output_columns
from jobs.parts import MOST_PARTS, cut
from jobs.report import markdown, report_of
from jobs.rows import Answer
from millrace.jobs.documents import ScoreDocument
from millrace.protocol.errors import InvalidRequest
from millrace.protocol.tensors import Signature, Tensor, TensorSpec


def spec(name: str, datatype: str, *shape: int) -> TensorSpec:
    return TensorSpec(name=name, datatype=datatype, shape=shape)


def signature(*inputs: TensorSpec) -> Signature:
    return Signature(inputs=inputs, outputs=(spec("y", "FP32", -1, 2),))


def blocks_of(
    column: pa.Array, wanted: TensorSpec, most: int = 100
) -> tuple[list[tuple[list[int], Any]], dict[int, str]]:
    """The rows and the values of each block, and the rows' errors."""
    errors: dict[int, str] = {}
    made = Inputs(signature(wanted), {wanted.name: "c"}, most).blocks(pa.record_batch({"c": column}), errors)
    return [(list(block.rows), block.tensors[wanted.name].to_numpy().tolist()) for block in made], errors


@pytest.mark.parametrize(
    ("column", "wanted", "values"),
    [
        (pa.array([1, 2]), spec("x", "FP32", -1), [1.0, 2.0]),
        (pa.array([1.0, 2.0]), spec("x", "INT64", -1, 1), [[1], [2]]),
        (pa.array(["1", " 2"]), spec("x", "INT64", -1), [1, 2]),
        (pa.array(["1.5", "1e3"]), spec("x", "FP32", -1), [1.5, 1000.0]),
        (pa.array(["[1,2]", "[3,4]"]), spec("x", "FP32", -1, 2), [[1, 2], [3, 4]]),
        (pa.array([[1, 2], [3, 4]]), spec("x", "FP32", -1, -1), [[1, 2], [3, 4]]),
        (pa.array([[1, 2, 3, 4]]), spec("x", "UINT8", -1, 2, 2), [[[1, 2], [3, 4]]]),
        (pa.array([[1, 2, 3, 4]], pa.list_(pa.int32(), 4)), spec("x", "INT32", -1, 2, 2), [[[1, 2], [3, 4]]]),
        (pa.array([True, False]), spec("x", "BOOL", -1), [True, False]),
        (pa.array(["a", "ü"]), spec("x", "BYTES", -1), [b"a", "ü".encode()]),
        (pa.array([b"\xff"]), spec("x", "BYTES", -1, 1), [[b"\xff"]]),
        (pa.array(["1", "[2]"]), spec("x", "BYTES", -1), [b"1", b"[2]"]),
        (pa.array([["a", "b"]]), spec("x", "BYTES", -1, 2), [[b"a", b"b"]]),
    ],
)
def test_a_column_feeds_an_input(column: pa.Array, wanted: TensorSpec, values: Any) -> None:
    assert blocks_of(column, wanted) == ([(list(range(len(column))), values)], {})


@pytest.mark.parametrize(
    ("column", "wanted", "bad"),
    [
        (pa.array([1, None, 3]), spec("x", "FP32", -1), {1: "is empty"}),
        (pa.array([1, 300, 2]), spec("x", "UINT8", -1), {1: "does not fit UINT8"}),
        (pa.array([1.0, 1.5]), spec("x", "INT64", -1), {1: "does not fit INT64"}),
        (pa.array([-1, 1]), spec("x", "UINT64", -1), {0: "does not fit UINT64"}),
        (pa.array([1.0, 1e300]), spec("x", "FP32", -1), {1: "does not fit FP32"}),
        (pa.array(["1", "one", ""]), spec("x", "FP32", -1), {1: "'one' is no number", 2: "is empty"}),
        (
            pa.array(["[1,2]", "[1]", "[1"]),
            spec("x", "FP32", -1, 2),
            {1: "has the shape [1] in place of [2]", 2: "JSON"},
        ),
        (pa.array([["a"], ["b", "c"]]), spec("x", "BYTES", -1, 1), {1: "has the shape [2] in place of [1]"}),
        (pa.array([1, 2]), spec("x", "BYTES", -1), {0: "is not a text", 1: "is not a text"}),
    ],
)
def test_rows_that_do_not_fit_have_errors_and_the_others_go_on(
    column: pa.Array, wanted: TensorSpec, bad: dict[int, str]
) -> None:
    blocks, errors = blocks_of(column, wanted)
    assert errors.keys() == bad.keys()
    assert all(errors[row].startswith("column 'c': ") and text in errors[row] for row, text in bad.items())
    assert [row for rows, _ in blocks for row in rows] == [row for row in range(len(column)) if row not in bad]


def test_rows_of_different_shapes_go_in_different_blocks_in_their_order() -> None:
    blocks, errors = blocks_of(pa.array([[1, 2], [3, 4], [5], [6, 7]]), spec("x", "INT64", -1, -1))
    assert errors == {}
    assert blocks == [([0, 1], [[1, 2], [3, 4]]), ([2], [[5]]), ([3], [[6, 7]])]


def test_blocks_have_as_many_rows_as_the_model_takes() -> None:
    blocks, _ = blocks_of(pa.array(range(7)), spec("x", "INT64", -1), most=3)
    assert [rows for rows, _ in blocks] == [[0, 1, 2], [3, 4, 5], [6]]


@pytest.mark.parametrize(
    ("given", "columns", "found"),
    [
        ({}, ["x", "id"], {"x": "x"}),
        ({}, ["text"], {"x": "text"}),
        ({"column": "t"}, ["t", "x"], {"x": "t"}),
        ({"columns": {"x": "b"}}, ["a", "b"], {"x": "b"}),
    ],
)
def test_columns_find_their_inputs(given: dict[str, Any], columns: list[str], found: dict[str, str]) -> None:
    document = ScoreDocument(model="m", **given)
    assert mapping_of(document, signature(spec("x", "FP32", -1)), columns) == found


def test_a_model_with_several_inputs_needs_a_column_for_each() -> None:
    two = signature(spec("a", "FP32", -1), spec("b", "FP32", -1))
    with pytest.raises(InvalidRequest, match="columns: the model's input 'b' has no column; the file has a, c"):
        mapping_of(ScoreDocument(model="m"), two, ["a", "c"])
    with pytest.raises(InvalidRequest, match="column: the model has several inputs"):
        mapping_of(ScoreDocument(model="m", column="a"), two, ["a"])


def answer(rows: list[int], values: Any) -> Answer:
    return Answer(rows, {"y": Tensor.from_numpy(np.array(values, np.float32))})


def test_outputs_stand_in_the_rows_places_and_refused_rows_have_none() -> None:
    answers = [answer([0, 2], [[1, 2], [3, 4]]), Answer([1], None, "no"), answer([4], [[5, 6]])]
    found = output_columns(signature(spec("x", "FP32", -1)), answers, 5, {"y": "scores"})
    assert found["scores"].to_pylist() == [[1, 2], None, [3, 4], None, [5, 6]]
    assert output_columns(signature(spec("x", "FP32", -1)), [], 1, {"y": "y"})["y"].to_pylist() == [None]


def test_labels_and_the_best_k_stand_beside() -> None:
    answers = [answer([1, 0], [[0.1, 0.9], [0.5, 0.5]])]
    found = best_columns(answers, "y", ["cat", "dog"], 3, has_label=True, top_k=2)
    assert found["label"].to_pylist() == ["cat", "dog", None]
    assert found["top_labels"].to_pylist() == [["cat", "dog"], ["dog", "cat"], None]
    assert scores_of(signature(), ["y"], ["cat", "dog"]) == "y"


def test_a_job_has_a_bounded_number_of_parts() -> None:
    parts = cut(10**15, 1)
    assert len(parts) == MOST_PARTS
    assert sum(part.count for part in parts) == 10**15


def test_rows_are_cut_into_parts_that_cover_them() -> None:
    assert [(part.first, part.count) for part in cut(250, 100)] == [(0, 100), (100, 100), (200, 50)]
    assert [(part.first, part.count) for part in cut(0, 100)] == [(0, 0)]


def test_an_evaluation_counts_what_it_says() -> None:
    first, second = Counts(pairs={}), Counts(pairs={})
    first.add(0, 0, chances_of(np.array([0.8, 0.2])))
    first.add(1, 0, chances_of(np.array([0.3, 0.7])))
    second.add(2, 1, chances_of(np.array([0.05, 0.95])))
    second.add(3, 0, chances_of(np.array([0.1, 0.9])))
    report = report_of(added([first, second], 1), ["cat", "dog"], 2, model="m", version=3, errors=0)
    assert (report.rows, report.accuracy) == (4, 0.5)
    assert report.confusion == ((1, 2), (0, 1))
    assert [(each.label, each.rows) for each in report.classes] == [("cat", 3), ("dog", 1)]
    assert [report.classes[0].precision, report.classes[0].recall] == pytest.approx([1.0, 1 / 3])
    assert [(each.row, each.right, each.answered) for each in report.worst] == [(4, "cat", "dog")]
    assert report.calibration_error == pytest.approx((0.2 + 0.7 + 2 * abs((0.95 + 0.9) / 2 - 0.5)) / 4)
    assert "| cat | 3 | 1.0000 | 0.3333 | 0.5000 |" in markdown(report)


def test_scores_become_chances() -> None:
    assert chances_of(np.array([0.25])).tolist() == [0.75, 0.25]
    assert chances_of(np.array([0.0, 0.0])).tolist() == [0.5, 0.5]
    with pytest.raises(InvalidRequest):
        chances_of(np.array([np.nan, 1]))


@pytest.mark.parametrize(("value", "found"), [("dog", 1), ("1", 1), (0, 0), (1.0, 1)])
def test_a_right_answer_is_a_label_or_a_number(value: Any, found: int) -> None:
    assert class_of(value, {"cat": 0, "dog": 1}, 2) == found


@pytest.mark.parametrize("value", ["cow", None, 2, -1, 0.5])
def test_a_right_answer_that_is_no_class_is_an_error(value: Any) -> None:
    with pytest.raises(InvalidRequest):
        class_of(value, {"cat": 0, "dog": 1}, 2)


def test_kinds_are_found_by_their_files() -> None:
    assert names() == ["evaluate", "export", "score"]
    assert [find(name).name for name in names()] == names()
    with pytest.raises(InvalidRequest, match="kind: this jobs program has no kind 'base'"):
        find("base")
