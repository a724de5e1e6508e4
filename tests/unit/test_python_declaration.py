"""What a model's class declares, by annotations or attributes, and what is wrong with a declaration."""

from typing import Annotated, Any, ClassVar, TypedDict

import numpy as np
import numpy.typing as npt
import pytest

from worker.python.declaration import DeclarationError, read

_Array = Annotated[np.ndarray, "FP32", (-1, 4)]


class _Several(TypedDict):
    label: str
    scores: Annotated[npt.NDArray[np.float32], np.float32, (-1, 3)]


class _RowByRow:
    def predict(self, text: str, count: int = 3, raw: bytes | None = None) -> _Several:
        raise NotImplementedError


class _Batched:
    max_batch_size = 16
    max_queue_delay_ms = 2

    @staticmethod
    def predict(x: _Array, texts: list[str]) -> list[float]:
        raise NotImplementedError


class _Whole:
    max_batch_size = 0
    concurrency = 4

    def predict(self, a: float, b: Annotated[list[int], "INT8", (2, -1)]) -> bool:
        raise NotImplementedError


class _ByAttributes:
    inputs: ClassVar[Any] = {"input-1": ("FP32", [-1, 2]), "text": ("STRING", [-1])}
    outputs: ClassVar[Any] = {"y": (np.int64, (-1,)), "z": str}

    async def predict(self, **inputs: Any) -> dict[str, Any]:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("cls", "inputs", "outputs", "batching", "concurrency"),
    [
        (
            _RowByRow,
            [
                ("text", "BYTES", (-1,), False, "scalar", True),
                ("count", "INT64", (-1,), True, "scalar", False),
                ("raw", "BYTES", (-1,), True, "scalar", False),
            ],
            [("label", "BYTES", (-1,)), ("scores", "FP32", (-1, 3))],
            (1, 0.0),
            1,
        ),
        (
            _Batched,
            [("x", "FP32", (-1, 4), False, "array", False), ("texts", "BYTES", (-1,), False, "list", True)],
            [("output", "FP64", (-1,))],
            (16, 2.0),
            1,
        ),
        (
            _Whole,
            [("a", "FP64", (), False, "scalar", False), ("b", "INT8", (2, -1), False, "list", False)],
            [("output", "BOOL", ())],
            (0, 0.0),
            4,
        ),
        (
            _ByAttributes,
            [("input-1", "FP32", (-1, 2), False, "array", False), ("text", "BYTES", (-1,), False, "array", True)],
            [("y", "INT64", (-1,)), ("z", "BYTES", (-1,))],
            (1, 0.0),
            8,
        ),
    ],
)
def test_tensors_and_rows_are_declared(
    cls: type[Any], inputs: Any, outputs: Any, batching: tuple[int, float], concurrency: int
) -> None:
    found = read(cls)
    fields = [
        (field.spec.name, field.spec.datatype, field.spec.shape, field.spec.optional, field.form, field.is_text)
        for field in found.inputs
    ]
    assert fields == inputs
    assert [(spec.name, spec.datatype, spec.shape) for spec in found.signature.outputs] == outputs
    assert (found.batching.max_batch_size, found.batching.max_queue_delay_ms) == batching
    assert found.concurrency == concurrency


def _cls(annotations: dict[str, Any], /, defaults: tuple[Any, ...] = (), **attributes: Any) -> type[Any]:
    parameters = ", ".join(["self", *(name for name in annotations if name != "return")])
    scope: dict[str, Any] = {}
    exec(f"def predict({parameters}): ...", scope)
    predict = scope["predict"]
    predict.__annotations__ = annotations
    return type("Model", (), {"predict": predict, **attributes})


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (_cls({}), "predict has no inputs"),
        (_cls({"x": _Array}), "predict has no outputs"),
        (_cls({"x": _Array, "return": dict[str, Any]}), "predict has no outputs"),
        (
            _cls({"x": None, "return": str}, inputs={"x": None}),
            "input 'x': it must be a datatype and a shape.* nothing",
        ),
        (_cls({"x": npt.NDArray[np.float32], "return": str}), "input 'x': it must be a datatype and a shape"),
        (_cls({"x": Annotated[np.ndarray, "FLOAT", (-1,)], "return": str}), "no datatype 'FLOAT'; there are BOOL"),
        (_cls({"x": Annotated[np.ndarray, complex, (-1,)], "return": str}), "there is no datatype"),
        (_cls({"x": Annotated[np.ndarray, "FP32", (-1, "n")], "return": str}), "is no shape"),
        (
            _cls({"x": Annotated[np.ndarray, "FP32", (4,)], "return": str}),
            r"'x' has the shape \[4\].*max_batch_size = 0",
        ),
        (_cls({"x": _Array, "return": str}, max_batch_size=8), "'output' is one value, but with max_batch_size 8"),
        (_cls({"x": _Array, "return": str}, max_batch_size=-1), "max_batch_size must be a whole number from 0 on"),
        (_cls({"x": _Array, "return": str}, max_batch_size=True), "max_batch_size must be a whole number"),
        (_cls({"x": _Array, "return": str}, concurrency=0), "concurrency must be a whole number from 1 on"),
        (_cls({"x": _Array, "return": str}, max_queue_delay_ms="1"), "max_queue_delay_ms must be a number"),
        (_cls({"x": _Array, "return": str}, labels="abc"), "labels must be a tuple of texts"),
        (_cls({"x": _Array, "return": str}, inputs={"y": str}), "declares 'y', which is no parameter of predict"),
        (_cls({"x": str, "y": str, "return": str}, inputs={"x": str}), "predict needs 'y', which `inputs` does not"),
        (_cls({"x": "Nowhere", "return": str}), "annotations of predict cannot be read: name 'Nowhere'"),
        (_cls({"x": str, "return": str}, outputs={"": str}), "'' cannot be the name of an output"),
    ],
)
def test_what_a_declaration_lacks_is_said(cls: type[Any], message: str) -> None:
    with pytest.raises(DeclarationError, match=message):
        read(cls)
