"""TensorFlow Serving's leniency: tensors that lack their last axes of size 1 are taken, and answered without them."""

import json

import numpy as np
import pytest

from millrace.protocol.messages import ModelAnnouncement
from millrace.protocol.tensors import Signature, Tensor, TensorSpec
from millrace.rpc import tensorprotos
from serving.models.registry import ServedModel
from serving.protocols.limits import ReadLimits
from serving.protocols.tfs import messages, rest
from serving.protocols.tfs.messages import message_class
from serving.protocols.tfs.shapes import fitted_shape
from serving.protocols.verb import Body

X, Y = TensorSpec(name="x", datatype="FP32", shape=(-1, 1)), TensorSpec(name="y", datatype="FP32", shape=(-1, 1))
HALF = ServedModel(
    ModelAnnouncement(
        name="half_plus_two",
        version=1,
        state="AVAILABLE",
        signatures={"serving_default": Signature(inputs=(X,), outputs=(Y,))},
        max_batch_size=8,
    )
)
ANSWER = {"y": Tensor.from_numpy(np.array([[2.5], [3.0], [4.5]], np.float32))}


@pytest.mark.parametrize(
    ("body", "shape", "answer"),
    [
        ({"instances": [1.0, 2.0, 5.0]}, (3, 1), {"predictions": [2.5, 3.0, 4.5]}),
        ({"inputs": [1.0, 2.0, 5.0]}, (3, 1), {"outputs": [2.5, 3.0, 4.5]}),
        ({"instances": [[1.0], [2.0], [5.0]]}, (3, 1), {"predictions": [[2.5], [3.0], [4.5]]}),
    ],
)
def test_half_plus_two_answers_as_its_page_says(body: object, shape: tuple[int, ...], answer: object) -> None:
    inference, form = rest.parse_predict(json.dumps(body).encode(), HALF)
    assert inference.inputs["x"].shape == shape
    assert json.loads(rest.render_predict(ANSWER, form).body) == answer


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_grpc_is_as_lenient(shape: tuple[int, ...]) -> None:
    request = messages.PredictRequest()
    request.model_spec.name = "half_plus_two"
    tensor = Tensor.from_numpy(np.ones(shape, np.float32))
    request.inputs["x"].MergeFromString(b"".join(tensorprotos.to_wire(tensor, as_content=True)))
    inference, form = messages.PREDICT.parse(Body(request.SerializeToString()), HALF, ReadLimits())
    assert inference.inputs["x"].shape == (3, 1)
    answer = message_class("PredictResponse").FromString(messages.PREDICT.render(HALF, ANSWER, form, ReadLimits()).body)
    assert tensorprotos.to_tensor(answer.outputs["y"], "y").shape == shape


@pytest.mark.parametrize(
    ("shape", "declared", "fitted"),
    [
        ((3,), (-1, 1, 1), (3, 1, 1)),
        ((5, 28, 28), (-1, 28, 28, 1), (5, 28, 28, 1)),
        ((3,), (-1, 4), (3,)),  # which 4 of them are a row, nobody knows
        ((28, 28), (-1, 28, 28, 1), (28, 28)),
        ((), (-1, 1), ()),
        ((3, 1), (-1,), (3, 1)),
    ],
)
def test_only_what_can_mean_one_thing_is_fitted(
    shape: tuple[int, ...], declared: tuple[int, ...], fitted: tuple[int, ...]
) -> None:
    assert fitted_shape(shape, TensorSpec(name="x", datatype="FP32", shape=declared)) == fitted


def test_an_output_that_never_had_the_axis_keeps_its_shape() -> None:
    _, form = rest.parse_predict(b'{"instances": [1.0, 2.0]}', HALF)
    scores = {"y": Tensor.from_numpy(np.ones((2, 3), np.float32))}
    assert json.loads(rest.render_predict(scores, form).body) == {"predictions": [[1.0] * 3] * 2}
