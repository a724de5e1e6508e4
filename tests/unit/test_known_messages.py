"""Messages of inference that are like one before: what they say is what reading them says, and they cost no reading."""

from typing import Any

import hypothesis.strategies as st
import numpy as np
from hypothesis import given, settings

from millrace.protocol.errors import InvalidRequest, MillraceError
from serving.protocols.limits import ReadLimits
from serving.protocols.oip import messages
from serving.protocols.oip.known_messages import Described, KnownMessages
from serving.protocols.oip.rest import read_document
from serving.protocols.verb import Body
from tests.unit.test_limits import NUMBERS

LIMITS = ReadLimits()
RAW, IDENTITY = 7, 3


def request(values: Any, *, name: str = "x", identity: str = "", datatype: str = "FP32", **more: Any) -> bytes:
    message = messages.InferRequest(model_name="m", id=identity, **more)
    message.inputs.add(name=name, datatype=datatype, shape=values.shape)
    message.raw_input_contents.append(values.tobytes())
    written: bytes = message.SerializeToString()
    return written


def row(*values: float) -> Any:
    return np.array([values], np.float32)


def read(data: bytes, *, anew: bool = False) -> Any:
    """What a message asks for, or its error; `anew`, whether or not its form is known."""
    try:
        whole = None if anew else messages.read_request(data)[2]
        inference, wanted = messages.INFER.parse(Body(data, message=whole), NUMBERS, LIMITS)
    except MillraceError as error:
        return type(error), str(error)
    inputs = {name: (t.datatype, t.shape, bytes(t.data)) for name, t in inference.inputs.items()}
    return inputs, inference.timeout_ms, inference.priority, wanted


def test_a_message_of_a_known_form_says_what_reading_it_says() -> None:
    for values, identity in ((row(1, 2), "one"), (row(3, 4), "two"), (row(5, 6), "six")):
        data = request(values, identity=identity)
        assert read(data) == read(data, anew=True)
        assert read(data)[0]["x"][2] == values.tobytes()
        assert read(data)[3].identity == identity
    assert messages.read_request(request(row(7, 8), identity="ten"))[2].id == "ten"  # type: ignore[union-attr]


def test_a_known_form_is_found_without_reading_and_another_is_not() -> None:
    known = KnownMessages(RAW, IDENTITY)
    data = request(row(1, 2))
    assert known.find(data) is None
    known.remember(data, "m", "", read_document({}), [Described("x", "FP32", (1, 2), 2)])
    for same in (request(row(3, 4)), memoryview(request(row(5, 6)))):
        found = known.find(same)
        assert found
        assert [bytes(raw) for raw in found.raw] == [bytes(same[-8:])]
    for other in (request(row(1, 2), name="y"), request(row(1, 2).T), request(row(1, 2), datatype="INT3")):
        assert known.find(other) is None


def test_an_id_that_no_answer_can_carry_is_refused_as_ever() -> None:
    assert read(request(row(1, 2), identity="good"))[3].identity == "good"
    assert read(request(row(1, 2), identity="a\nb"))[0] is InvalidRequest
    broken = request(row(1, 2), identity="good").replace(b"good", b"go\xff\xff")
    assert read(broken) == read(broken, anew=True)
    assert read(broken)[0] is InvalidRequest


def test_what_is_remembered_is_bounded() -> None:
    known = KnownMessages(RAW, IDENTITY)
    for number in range(3000):
        data = request(row(*range(number % 700)), name=f"x{number}")
        known.remember(data, "m", "", read_document({}), [Described("x", "FP32", (1, number), number)])
    assert known.count <= 1024
    large = request(row(1), name="x" * 5000)
    known.remember(large, "m", "", read_document({}), [Described("x", "FP32", (1, 1), 1)])
    assert known.find(large) is None


@settings(deadline=None)
@given(st.data())
def test_a_message_that_was_tampered_with_is_read_as_ever(data: st.DataObject) -> None:
    whole = request(row(1, 2, 3), identity="abc", parameters={})
    read(whole)
    place = data.draw(st.integers(0, len(whole) - 1))
    changed = whole[:place] + bytes([data.draw(st.integers(0, 255))]) + whole[place + 1 :]
    assert read(changed) == read(changed, anew=True)
