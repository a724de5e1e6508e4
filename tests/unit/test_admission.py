"""What is refused before it is queued, and in which words."""

import time
from typing import Any

import numpy as np
import pytest

from millrace.protocol.errors import InvalidRequest, PayloadTooLarge
from millrace.protocol.messages import ModelAnnouncement
from millrace.protocol.tensors import Signature, Tensor, TensorSpec
from serving.models.registry import ServedModel
from serving.queueing.admission import Inference, admit, check

X = TensorSpec(name="x", datatype="FP32", shape=(-1, 2), media="image")
TEXT = TensorSpec(name="text", datatype="BYTES", shape=(-1,), optional=True, max_bytes=5)
OUT = TensorSpec(name="y", datatype="FP32", shape=(-1,))


def _admit(inputs: dict[str, Any], max_batch_size: int = 8, *, has_whole_requests: bool = False) -> Any:
    signature = Signature(inputs=(X, TEXT), outputs=(OUT,))
    announcement = ModelAnnouncement(
        name="m",
        version=1,
        state="AVAILABLE",
        signatures={"serving_default": signature},
        max_batch_size=max_batch_size,
        has_whole_requests=has_whole_requests,
    )
    tensors = {name: Tensor.from_numpy(np.array(value)) for name, value in inputs.items()}
    inference = Inference(ServedModel(announcement), "serving_default", tensors)
    return admit(inference, trace="t", deadline=time.perf_counter() + 1, max_queue_rows=4)


def _floats(*shape: int) -> Any:
    return np.zeros(shape, np.float32)


def test_a_valid_request_counts_its_rows_and_the_time_it_has_left() -> None:
    request = _admit({"x": _floats(3, 2), "text": [b"a", b"b", b"c"]})
    assert (request.rows, request.max_batch_size) == (3, 8)
    assert 0 < request.timeout_s <= 1


def test_a_request_that_is_not_cut_has_at_most_the_rows_of_a_batch() -> None:
    assert _admit({"x": _floats(3, 2)}, 3, has_whole_requests=True).is_whole
    assert not _admit({"x": _floats(4, 2)}, 3).is_whole
    with pytest.raises(PayloadTooLarge, match="batch-size must be <= 3 for 'm', got 4"):
        _admit({"x": _floats(4, 2)}, 3, has_whole_requests=True)


def test_a_file_is_taken_in_place_of_numbers() -> None:
    assert _admit({"x": [b"a whole file", b"another"]}).rows == 2


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, r"expected number of inputs between 1 and 2 but got 0 inputs for model 'm'.*missing .*\['x'\]"),
        ({"x": _floats(1, 2), "z": [1]}, "unexpected inference input 'z' for model 'm'"),
        (
            {"x": np.zeros((1, 2), np.int32)},
            "data-type is 'INT32', but model 'm' expects 'FP32' or, for image files, BYTES",
        ),
        ({"x": _floats(1, 3)}, r"unexpected shape for input 'x' for model 'm'. Expected \[-1,2\], got \[1,3\]"),
        ({"x": _floats(2)}, r"Expected \[-1,2\], got \[2\]"),
        ({"x": _floats(0, 2)}, r"input 'x' of model 'm' is empty: its shape is \[0,2\]"),
        ({"x": _floats(2, 2), "text": [b"a"]}, r"different numbers of rows: \[1, 2\]"),
        ({"x": _floats(1, 2), "text": [b"sixsix"]}, "takes at most 5 bytes an element, got 6"),
    ],
)
def test_what_does_not_fit_the_signature_is_refused(inputs: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        _admit(inputs)


def test_more_rows_than_the_queue_can_ever_hold_are_too_many() -> None:
    with pytest.raises(PayloadTooLarge, match="inference request batch-size must be <= 4 for 'm', got 5"):
        _admit({"x": _floats(5, 2)})


def test_without_batching_the_first_dimension_counts_nothing() -> None:
    assert _admit({"x": _floats(4, 2)}, max_batch_size=0).rows == 1


def _check_shape(spec: TensorSpec, *shape: int, max_batch_size: int = 0) -> int:
    """How many rows a request of one tensor of that shape has."""
    announcement = ModelAnnouncement(
        name="m",
        version=1,
        state="AVAILABLE",
        signatures={"serving_default": Signature(inputs=(spec,), outputs=(OUT,))},
        max_batch_size=max_batch_size,
    )
    tensors = {spec.name: Tensor.from_numpy(_floats(*shape))}
    return check(Inference(ServedModel(announcement), "serving_default", tensors), 100)


@pytest.mark.parametrize("max_batch_size", [0, 8])
def test_an_axis_may_be_empty(max_batch_size: int) -> None:
    cache = TensorSpec(name="x", datatype="FP32", shape=(-1, 2, -1, 4))
    assert _check_shape(cache, 1, 2, 0, 4, max_batch_size=max_batch_size) == 1


def test_a_scalar_and_a_tensor_without_rows_are_requests_of_unbatched_models() -> None:
    assert _check_shape(TensorSpec(name="x", datatype="FP32", shape=())) == 1
    assert _check_shape(TensorSpec(name="x", datatype="FP32", shape=(-1, 2)), 0, 2) == 1


@pytest.mark.parametrize("shape", [(), (3,), (2, 0, 5)])
def test_a_tensor_of_unknown_rank_has_any_shape(shape: tuple[int, ...]) -> None:
    assert _check_shape(TensorSpec(name="x", datatype="FP32", shape=(), unknown_rank=True), *shape) == 1


def test_a_model_without_inputs_has_requests_all_the_same() -> None:
    signature = Signature(inputs=(), outputs=(OUT,))
    announcement = ModelAnnouncement(name="m", version=1, state="AVAILABLE", signatures={"serving_default": signature})
    assert check(Inference(ServedModel(announcement), "serving_default", {}), 100) == 1
