"""Requests that stand for more than they look: refused by counting, with the limit in the words."""

import json
from typing import Any

import pytest

from millrace import rpc
from millrace.protocol.errors import InvalidRequest, PayloadTooLarge
from millrace.protocol.messages import ModelAnnouncement
from millrace.protocol.tensors import Signature, TensorSpec
from millrace.rpc import wire
from serving.models.registry import ServedModel
from serving.protocols.limits import QUICK_BYTES, QUICK_TEXT_BYTES, QUICK_VALUES, NotQuick, ReadLimits
from serving.protocols.oip import messages as infer_messages
from serving.protocols.oip import rest as oip
from serving.protocols.tfs import messages as tfs_messages
from serving.protocols.tfs import rest as tfs
from serving.protocols.verb import Body, Verb

ANY = ReadLimits(max_rows=100)
QUICK = ReadLimits(max_rows=100, max_quick=QUICK_VALUES)


def _model(datatype: str, *shape: int) -> ServedModel:
    spec = TensorSpec(name="x", datatype=datatype, shape=shape)
    signature = Signature(inputs=(spec,), outputs=(TensorSpec(name="y", datatype="FP32", shape=(-1, -1)),))
    signatures = {"serving_default": signature}
    return ServedModel(
        ModelAnnouncement(name="m", version=1, state="AVAILABLE", signatures=signatures, max_batch_size=8)
    )


TEXTS, ROWS, NUMBERS = _model("BYTES", -1), _model("BYTES", -1, -1), _model("FP32", -1, -1)


def _predict(dtype: int, shape: list[int], **fields: Any) -> bytes:
    message = tfs_messages.PredictRequest()
    message.model_spec.name = "m"
    message.inputs["x"].CopyFrom(rpc.message("tensorflow.TensorProto")(dtype=dtype, **fields))
    for size in shape:
        message.inputs["x"].tensor_shape.dim.add(size=size)
    data: bytes = message.SerializeToString()
    return data


def _infer(datatype: str, shape: list[int], **contents: Any) -> bytes:
    message = infer_messages.InferRequest(model_name="m")
    tensor = message.inputs.add(name="x", datatype=datatype, shape=shape)
    for name, values in contents.items():
        getattr(tensor.contents, name).extend(values)
    data: bytes = message.SerializeToString()
    return data


def _examples(count: int) -> bytes:
    return b"".join(wire.field(2, *wire.field(1, b"\x0a\x00" * count)))


def _described(shape: list[int], size: int) -> bytes:
    item = {"name": "x", "datatype": "BYTES", "shape": shape, "parameters": {"binary_data_size": size}}
    return json.dumps({"inputs": [item]}).encode()


OUTPUTS = {"inputs": [], "outputs": [{"name": f"y{i}"} for i in range(2000)]}
PARAMETERS = {"inputs": [], "parameters": {f"p{i}": i for i in range(2000)}}


@pytest.mark.parametrize(
    ("verb", "model", "data", "text"),
    [
        (tfs.PREDICT, TEXTS, b'{"instances":[' + b'"",' * 5000 + b'""]}', "strings in JSON, which is the limit"),
        (tfs.PREDICT, TEXTS, json.dumps({"instances": ["a"] * 101}).encode(), "batch-size must be <= 100"),
        (tfs.PREDICT, TEXTS, json.dumps({"inputs": {"x": ["a"] * 101}}).encode(), "batch-size must be <= 100"),
        (tfs.CLASSIFY, NUMBERS, json.dumps({"examples": [{}] * 101}).encode(), "batch-size must be <= 100"),
        (oip.INFER, TEXTS, json.dumps(OUTPUTS).encode(), "more than 1024 outputs"),
        (oip.INFER, TEXTS, json.dumps(PARAMETERS).encode(), "more than 1024 parameters"),
        (oip.INFER, TEXTS, json.dumps({"inputs": [[]] * 2000}).encode(), "more than 1024 inputs"),
        (infer_messages.INFER, NUMBERS, _infer("FP32", [1] * 20_000), "more than 320 'shape'"),
        (infer_messages.INFER, NUMBERS, _infer("FP32", [1] * 40), "dimensions in the shape of input 'x'"),
        (infer_messages.INFER, NUMBERS, _infer("FP32", [1, 1]) + b"\x32\x00" * 9000, "more than 1024 'outputs'"),
        (infer_messages.INFER, NUMBERS, _infer("FP32", [1, 1]) + b"\x32\x00" * 2000, "more than 1024 outputs"),
        (tfs_messages.PREDICT, TEXTS, _predict(7, [1_040_000]), "batch-size must be <= 100"),
        (tfs_messages.PREDICT, NUMBERS, _predict(7, [1, 1_040_000]), "data-type is 'BYTES'"),
        (tfs_messages.PREDICT, NUMBERS, _predict(1, [1] * 40), "40 dimensions, at most 32"),
        (tfs_messages.CLASSIFY, NUMBERS, _examples(101), "batch-size must be <= 100"),
        (tfs_messages.CLASSIFY, NUMBERS, _examples(20_000), "more than 100 'examples'"),
    ],
)
def test_what_is_too_much_is_counted_and_named(verb: Verb, model: ServedModel, data: bytes, text: str) -> None:
    with pytest.raises((InvalidRequest, PayloadTooLarge)) as caught:
        verb.parse(Body(data), model, ANY)
    assert text in str(caught.value)


@pytest.mark.parametrize("shape", [[101], [5000], [1, 5000]])
def test_a_shape_is_refused_before_the_strings_behind_it_are_looked_at(shape: list[int]) -> None:
    no_strings = b"\xff" * 40_000
    document = _described(shape, len(no_strings))
    body = Body(document + no_strings, str(len(document)).encode())
    with pytest.raises((InvalidRequest, PayloadTooLarge), match=r"batch-size must be <= 100|unexpected shape"):
        oip.INFER.parse(body, TEXTS, QUICK)


@pytest.mark.parametrize(
    ("verb", "model", "data"),
    [
        (tfs.PREDICT, ROWS, json.dumps({"instances": [["a"] * 3000]}).encode()),
        (tfs.PREDICT, NUMBERS, b'{"instances":[[' + b"0.5," * 40_000 + b"1]]}"),
        (tfs.CLASSIFY, NUMBERS, json.dumps({"examples": [{"x": 1}] * 100, "context": {"a": 1, "b": 2}}).encode()),
        (infer_messages.INFER, ROWS, _infer("BYTES", [1, 3000], bytes_contents=[b""] * 3000)),
        (infer_messages.INFER, NUMBERS, _infer("FP32", [1, 30_000], fp32_contents=[0.0] * 30_000)),
        (tfs_messages.PREDICT, ROWS, _predict(7, [1, 1_000_000])),
        (tfs_messages.PREDICT, NUMBERS, _predict(1, [1, 1_000_000])),
    ],
)
def test_what_takes_long_is_left_to_others_and_means_the_same_there(
    verb: Verb, model: ServedModel, data: bytes
) -> None:
    with pytest.raises(NotQuick):
        verb.parse(Body(data), model, QUICK)
    inference, _ = verb.parse(Body(data), model, ANY)
    assert inference.inputs


def test_raw_tensors_over_grpc_are_not_copied() -> None:
    message = infer_messages.InferRequest(model_name="m", raw_input_contents=[bytes(4_000_000)])
    message.inputs.add(name="x", datatype="FP32", shape=[1, 1_000_000])
    data = message.SerializeToString()
    for _ in range(2):  # a message that is new, and one of a known form
        model, _, whole = infer_messages.read_request(data)
        assert model == "m"
        inference, _ = infer_messages.INFER.parse(Body(data, message=whole), NUMBERS, QUICK)
        tensor = inference.inputs["x"].data
        assert isinstance(tensor, memoryview)
        assert tensor.obj is data


def test_who_is_asked_is_known_without_reading_the_rest() -> None:
    message = infer_messages.InferRequest(model_name="m")
    message.inputs.add(name="x", datatype="BYTES", shape=[1, 3000]).contents.bytes_contents.extend([b"abcdef"] * 3000)
    assert infer_messages.read_request(message.SerializeToString()) == ("m", "", None)


@pytest.mark.parametrize("behind", [b"\x32\x00" * 9000, b"\x22\x00" * 9000, b"\x0a\x02mm" * 9000])
def test_fields_without_end_are_refused_before_it_is_known_who_is_asked(behind: bytes) -> None:
    with pytest.raises(PayloadTooLarge, match="more than 4096 fields in its message"):
        infer_messages.read_request(_infer("FP32", [1, 1]) + behind)


def test_long_texts_are_quick_to_read_and_as_many_bytes_of_numbers_are_not() -> None:
    limits = ReadLimits(max_quick=QUICK_VALUES)
    texts = json.dumps({"instances": ["a good film " * 1000] * 21}).encode()
    numbers = json.dumps({"instances": [[0.5] * 20_000]}).encode()
    assert len(texts) > len(numbers) > QUICK_BYTES
    limits.check_quick_json(texts, len(texts))
    limits.check_quick_json(numbers, 1000)
    for body in (numbers, b'["' + b"a" * QUICK_TEXT_BYTES + b'"]'):
        with pytest.raises(NotQuick):
            limits.check_quick_json(body, len(body))
