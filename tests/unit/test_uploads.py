"""Images alone and forms of files, as curl, browsers and libraries send them, become a model's inputs."""

import contextlib
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.protocol.errors import InvalidRequest, PayloadTooLarge
from millrace.protocol.messages import ModelAnnouncement
from millrace.protocol.tensors import Signature, Tensor, TensorSpec, decode_strings
from serving.models.registry import ServedModel
from serving.protocols import uploads
from serving.protocols.limits import NotQuick, ReadLimits
from serving.protocols.oip.rest import INFER, Wanted
from serving.protocols.tfs.rest import CLASSIFY, PREDICT
from serving.protocols.verb import Body

IMAGE = TensorSpec(name="data", datatype="FP32", shape=(-1, 3, 8, 8), media="image")
TEXT = TensorSpec(name="text", datatype="BYTES", shape=(-1,))
PAGE = TensorSpec(name="page", datatype="BYTES", shape=(-1, 1))
K = TensorSpec(name="k", datatype="INT64", shape=(-1, 2), optional=True)
SCORES = TensorSpec(name="scores", datatype="FP32", shape=(-1, 2))
FORM = b"multipart/form-data; boundary=xyz"
ANY = ReadLimits()


def served(*inputs: TensorSpec, max_batch_size: int = 8, **signatures: Signature) -> ServedModel:
    found = {"serving_default": Signature(inputs=inputs, outputs=(SCORES,))} | signatures
    return ServedModel(
        ModelAnnouncement(name="m", version=1, state="AVAILABLE", signatures=found, max_batch_size=max_batch_size)
    )


def form_of(*files: Any, **fields: str) -> Body:
    """As httpx writes it."""
    request = httpx.Request("POST", "http://m", files=files or None, data=fields)
    return Body(request.read(), content_type=request.headers["content-type"].encode())


def read(body: Body, model: ServedModel, limits: ReadLimits = ANY) -> dict[str, Tensor]:
    assert body.content_type
    return uploads.read(body, body.content_type, model, limits).inputs


def strings(tensor: Tensor) -> tuple[tuple[int, ...], list[bytes]]:
    return tensor.shape, decode_strings(tensor.data)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (b"image/jpeg", b"image/jpeg"),
        (b"IMAGE/PNG; q=1", b"IMAGE/PNG; q=1"),
        (FORM, FORM),
        (b"Multipart/Form-Data; boundary=x", b"Multipart/Form-Data; boundary=x"),
        (b"application/json", None),
        (b"application/x-www-form-urlencoded", None),
        (b"message/http", None),
        (b"multipart/mixed; boundary=x", None),
        (b"", None),
    ],
)
def test_a_body_of_files_is_known_by_its_type(given: bytes, expected: bytes | None) -> None:
    assert uploads.content_type({b"content-type": given}) == expected
    assert uploads.content_type({}) is None


@pytest.mark.parametrize(
    ("model", "name", "shape"),
    [
        (served(IMAGE), "data", (1,)),
        (served(IMAGE, K), "data", (1,)),
        (served(IMAGE, TEXT), "data", (1,)),
        (served(TEXT), "text", (1,)),
        (served(PAGE), "page", (1, 1)),
        (served(TensorSpec(name="s", datatype="BYTES", shape=()), max_batch_size=0), "s", ()),
    ],
)
def test_an_image_alone_is_one_row_of_the_input_for_files(
    model: ServedModel, name: str, shape: tuple[int, ...]
) -> None:
    inputs = read(Body(memoryview(b"\xff\xd8\xff"), content_type=b"image/jpeg"), model)
    assert {key: strings(tensor) for key, tensor in inputs.items()} == {name: (shape, [b"\xff\xd8\xff"])}


@pytest.mark.parametrize(
    "model", [served(K), served(TEXT, PAGE), served(TensorSpec(name="x", datatype="BYTES", shape=(-1, 2)))]
)
def test_a_model_without_an_input_for_files_says_so(model: ServedModel) -> None:
    with pytest.raises(InvalidRequest, match=r"takes no files; its inputs are '(k|text)'|2 strings a row"):
        read(Body(b"", content_type=b"image/png"), model)


def test_files_of_a_form_are_rows_in_their_order_whatever_they_are_called() -> None:
    body = form_of(("image", ("a.jpg", b"\r\none")), ("data", ("b.png", b"two\r\n")), ("file[]", b"--xyz"))
    assert strings(read(body, served(IMAGE))["data"]) == ((3,), [b"\r\none", b"two\r\n", b"--xyz"])


def test_a_form_gives_other_inputs_as_json_and_names_a_signature() -> None:
    other = Signature(inputs=(TEXT, K), outputs=(SCORES,))
    body = form_of(("text", b"good"), ("text", b"[1]"), signature_name="other")
    upload = uploads.read(body, body.content_type or b"", served(IMAGE, other=other), ANY)
    assert upload.signature == "other"
    assert strings(upload.inputs["text"]) == ((2,), [b"good", b"[1]"])
    numbers = read(form_of(("image", b"file"), k="[1, 2]"), served(IMAGE, K))["k"]
    assert numbers.to_numpy().tolist() == [[1, 2]]


@given(
    st.lists(
        st.tuples(st.text(st.characters(codec="utf-8", exclude_characters='"\\\r\n\0'), min_size=1), st.binary()),
        min_size=1,
        max_size=5,
    )
)
def test_whatever_is_in_a_form_comes_out_as_it_was(given: list[tuple[str, bytes]]) -> None:
    body = form_of(*[("data", (name, data)) for name, data in given])
    assert strings(read(body, served(IMAGE))["data"])[1] == [data for _, data in given]


def part(head: bytes = b'Content-Disposition: form-data; name="data"; filename="a"', data: bytes = b"x") -> bytes:
    return b"--xyz\r\n" + head + b"\r\n\r\n" + data + b"\r\n"


END = b"--xyz--\r\n"


def test_a_form_is_read_as_its_standards_have_it() -> None:
    head = b"content-type: image/png\r\nContent-disposition:form-data ;name=data"
    whole = b"a preamble\r\n" + part(head) + part(data=b"") + END + b"an epilogue"
    quoted = Body(whole, content_type=b'multipart/form-data; charset=utf-8; Boundary="xyz"')
    assert strings(read(quoted, served(IMAGE))["data"]) == ((2,), [b"x", b""])


@pytest.mark.parametrize(
    ("kind", "body", "reason"),
    [
        (b"multipart/form-data", part() + END, "has no boundary"),
        (FORM, part(), "its last boundary is missing"),
        (FORM, b"", "its last boundary is missing"),
        (FORM, part(b"Content-Type: image/png") + END, "no head that names it"),
        (FORM, b"--xyz\r\nContent-Disposition: form-data\r\n" + END, "no head that names it"),
        (FORM, part(b'Content-Disposition: form-data; name="a"; f="' + b"b" * 9000 + b'"') + END, "no head that"),
        (FORM, part(b'Content-Disposition: form-data; name="surprise"') + END, 'part "surprise" is no input of model'),
        (
            FORM,
            part(b'Content-Transfer-Encoding: base64\r\nContent-Disposition: x; name="data"') + END,
            "are sent as they",
        ),
        (FORM, part(b'Content-Disposition: form-data; name="k"', b"{") + END, "JSON Parse error"),
    ],
)
def test_a_form_that_cannot_be_read_is_refused(kind: bytes, body: bytes, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        read(Body(body, content_type=kind), served(IMAGE, K))


@given(st.binary(max_size=30), st.integers(0, 200), st.integers(0, 60))
def test_whatever_the_bytes_a_form_is_read_or_refused(spoilt: bytes, place: int, dropped: int) -> None:
    whole = part() * 2 + END
    body = Body(whole[:place] + spoilt + whole[place + dropped :], content_type=FORM)
    with contextlib.suppress(InvalidRequest):
        assert read(body, served(IMAGE)).keys() <= {"data"}


def test_parts_are_counted_before_they_are_read() -> None:
    with pytest.raises(PayloadTooLarge, match="more than 17 parts"):
        read(Body(b"--xyz\r\n" * 19, content_type=FORM), served(IMAGE, K), ReadLimits(max_rows=8))
    with pytest.raises(NotQuick):
        read(Body(part() * 200 + END, content_type=FORM), served(IMAGE), ReadLimits(max_quick=2048))
    with pytest.raises(NotQuick):
        read(Body(bytes(2**19), content_type=b"image/png"), served(IMAGE), ReadLimits(max_quick=2048))


def test_every_verb_takes_files_and_answers_as_it_does_json() -> None:
    body, model = Body(b"file", content_type=b"image/png"), served(IMAGE)
    inference, form = PREDICT.parse(body, model, ANY)
    assert (inference.signature, list(inference.inputs), form) == ("serving_default", ["data"], "row")
    assert CLASSIFY.parse(body, model, ANY)[1] == "serving_default"
    assert INFER.parse(body, model, ANY)[1] == Wanted()
