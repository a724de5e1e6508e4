"""Bodies that come packed, and answers that go packed."""

import gzip
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.protocol.errors import CodingNotSupported, InvalidRequest
from serving.transport.content_encoding import coding_for, pack, unpack

GZIPPED = gzip.compress(b"text", mtime=0)  # tests are named after it, in every process alike
PACKED: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress, "identity": bytes}


@given(st.binary(max_size=2000), st.sampled_from(sorted(PACKED)))
def test_a_body_is_unpacked_where_it_fits(body: bytes, coding: str) -> None:
    arrived = PACKED[coding](body)
    assert unpack(arrived, coding.encode(), len(body)) == body
    if body:
        assert unpack(arrived, b" %b " % coding.upper().encode(), len(body) - 1) is None


def test_gzip_is_known_by_its_old_name() -> None:
    assert unpack(gzip.compress(b"text"), b"X-gzip", 100) == b"text"


def test_a_bomb_takes_no_more_room_than_is_allowed() -> None:
    bomb = gzip.compress(bytes(100_000_000))
    assert len(bomb) < 100_000
    assert unpack(bomb, b"gzip", 1_000_000) is None


@pytest.mark.parametrize(
    ("body", "coding"),
    [
        (b"", b"gzip"),
        (b"no gzip", b"gzip"),
        (GZIPPED[:-1], b"gzip"),
        (GZIPPED + b"more", b"gzip"),
        (zlib.compress(b"text"), b"gzip"),
        (GZIPPED, b"deflate"),
        (GZIPPED[:-8] + bytes(8), b"gzip"),
    ],
)
def test_what_is_not_packed_as_it_says_is_refused(body: bytes, coding: bytes) -> None:
    with pytest.raises(InvalidRequest, match=f"the request body is not {coding.decode()}: "):
        unpack(body, coding, 1000)


@pytest.mark.parametrize("coding", [b"br", b"gzip, deflate", b"", b"\xff"])
def test_other_codings_are_refused_by_name(coding: bytes) -> None:
    with pytest.raises(CodingNotSupported, match="use gzip or deflate"):
        unpack(b"", coding, 1000)


@given(st.binary(max_size=100), st.sampled_from([b"gzip", b"deflate"]))
def test_whatever_is_said_to_be_packed_is_unpacked_or_refused(body: bytes, coding: bytes) -> None:
    try:
        plain = unpack(body, coding, 1000)
    except InvalidRequest:
        return
    assert plain is None or len(plain) <= 1000


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        (None, ""),
        (b"", ""),
        (b"gzip", "gzip"),
        (b"deflate", "deflate"),
        (b"br, deflate, gzip", "deflate"),
        (b"deflate;q=0.5, GZIP;q=0.9", "gzip"),
        (b"gzip;q=0", ""),
        (b"identity, gzip;q=0.5", ""),
        (b"gzip;q=x", ""),
        (b"br, *", ""),
        (b"gzip," + b" " * 300, ""),
    ],
)
def test_the_caller_says_how_an_answer_is_packed(accepted: bytes | None, coding: str) -> None:
    assert coding_for(accepted, 100_000) == coding


def test_a_small_answer_is_not_packed() -> None:
    assert coding_for(b"gzip", 200) == ""


@given(st.binary(max_size=60))
def test_no_accept_encoding_is_an_error(accepted: bytes) -> None:
    assert coding_for(accepted, 100_000) in ("", "gzip", "deflate")


@pytest.mark.parametrize(("coding", "read"), [("gzip", gzip.decompress), ("deflate", zlib.decompress)])
def test_an_answer_is_packed(coding: str, read: object) -> None:
    assert read(pack(b"text" * 1000, coding)) == b"text" * 1000  # type: ignore[operator]
