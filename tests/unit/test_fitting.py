"""Values of Python code as tensors: exactly, or refused."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.protocol.tensors import DTYPES
from worker.python.fitting import fitted


@pytest.mark.parametrize(
    ("value", "datatype", "shape", "expected"),
    [
        ([1, 2], "FP32", (-1,), [1.0, 2.0]),
        ([[0.1]], "FP32", (-1, 1), [[np.float32(0.1)]]),
        (np.array([1.5], np.float64), "FP16", (1,), [1.5]),
        ([True, False], "INT8", (2,), [1, 0]),
        ([3, -4], "INT16", (2,), [3, -4]),
        (np.array([7], np.uint64), "INT64", (1,), [7]),
        ([math.inf, -math.inf], "FP32", (2,), [math.inf, -math.inf]),
        (5, "INT64", (), 5),
        ("é", "BYTES", (), "é".encode()),
        ([["a"], [b"\xff"]], "BYTES", (-1, 1), [[b"a"], [b"\xff"]]),
        (np.array(["ab", "c"]), "BYTES", (-1,), [b"ab", b"c"]),
        ([[1, 2, 3]], "INT32", None, [[1, 2, 3]]),
        (np.zeros((0, 4)), "FP32", (-1, 4), []),
    ],
)
def test_what_fits_is_taken(value: Any, datatype: str, shape: tuple[int, ...] | None, expected: Any) -> None:
    array = fitted(value, datatype, shape)
    assert array.dtype == DTYPES[datatype]
    assert array.tolist() == expected


@pytest.mark.parametrize(
    ("value", "datatype", "shape", "message"),
    [
        ([1.5], "INT64", (-1,), "is float64 in place of INT64"),
        ([300], "UINT8", (-1,), "numbers that UINT8 cannot hold"),
        ([-1], "UINT64", (-1,), "numbers that UINT64 cannot hold"),
        (np.array([2**63], np.uint64), "INT64", (-1,), "numbers that INT64 cannot hold"),
        ([1e300], "FP32", (-1,), "numbers that FP32 cannot hold"),
        ([100_000], "FP16", (-1,), "numbers that FP16 cannot hold"),
        ([2], "BOOL", (-1,), "is int64 in place of BOOL"),
        (["a"], "FP32", (-1,), "in place of FP32"),
        (None, "FP32", (), "is object in place of FP32"),
        ([1j], "FP64", (-1,), "is complex128"),
        ([[1], [2, 3]], "INT64", (-1, -1), "inhomogeneous"),
        ([1, 2], "INT64", (3,), r"has the shape \[2\] in place of \[3\]"),
        ([1, 2], "INT64", (-1, 2), r"has the shape \[2\] in place of \[-1, 2\]"),
        ([1], "BYTES", (-1,), "an element of type int, which is neither bytes nor text"),
        ("\ud800", "BYTES", (), "surrogates not allowed"),
    ],
)
def test_what_does_not_fit_is_refused(value: Any, datatype: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fitted(value, datatype, shape)


NUMBERS = sorted(name for name in DTYPES if name != "BYTES")


@given(st.integers(-(2**63), 2**64 - 1) | st.floats(), st.sampled_from(NUMBERS))
def test_a_number_is_kept_or_rounded_or_refused(number: float, datatype: str) -> None:
    try:
        array = fitted(np.array(number), datatype, ())
    except (ValueError, OverflowError):
        return
    found = array.item()
    if array.dtype.kind in "iub":
        assert found == number
    else:
        assert found == pytest.approx(number, rel=1e-2, abs=1e-4, nan_ok=True)
