"""The chunked coding: the same bodies as llhttp reads, however they are cut, and nothing that llhttp refuses."""

import itertools

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.transport.chunks import ChunkedDecoder
from serving.transport.head_errors import RequestHeadError

HEAD = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"


class Read:
    """What llhttp reads of a request."""

    def __init__(self, raw: bytes) -> None:
        self.body, self.is_complete, self.is_wrong = b"", False, False
        parser = httptools.HttpRequestParser(self)
        try:
            parser.feed_data(HEAD + raw)
        except httptools.HttpParserError:
            self.is_wrong = not self.is_complete

    def on_body(self, body: bytes) -> None:
        self.body += body if not self.is_complete else b""

    def on_message_complete(self) -> None:
        self.is_complete = True


def decoded(raw: bytes, cuts: list[int]) -> ChunkedDecoder:
    """The decoder after it was fed these bytes, cut at these places; its parts are in `body`."""
    decoder, parts = ChunkedDecoder(), []
    places = sorted({0, len(raw), *(cut % (len(raw) + 1) for cut in cuts)})
    for start, end in itertools.pairwise(places):
        if decoder.is_complete:
            decoder.rest += raw[start:end]
            continue
        decoder.feed(raw[start:end])
        has_more = True
        while has_more:
            new, has_more = decoder.decode()
            parts += new
    decoder.body = b"".join(parts)  # type: ignore[attr-defined]
    return decoder


def encoded(chunks: list[bytes], extension: bytes, trailers: bytes) -> bytes:
    sized = b"".join(b"%x%b\r\n%b\r\n" % (len(chunk), extension, chunk) for chunk in chunks if chunk)
    return sized + b"0\r\n" + trailers + b"\r\n"


@given(
    st.lists(st.binary(max_size=300), max_size=30),
    st.sampled_from([b"", b";a", b' ; a="b c"', b";a=1;b"]),
    st.sampled_from([b"", b"a: b\r\n", b"a:\r\nb: \xff\r\n"]),
    st.binary(max_size=20),
    st.lists(st.integers(0, 10_000), max_size=10),
)
def test_a_body_is_decoded_and_what_follows_is_kept(
    chunks: list[bytes], extension: bytes, trailers: bytes, rest: bytes, cuts: list[int]
) -> None:
    decoder = decoded(encoded(chunks, extension, trailers) + rest, cuts)
    assert decoder.is_complete
    assert decoder.body == b"".join(chunks)  # type: ignore[attr-defined]
    assert decoder.announced == len(b"".join(chunks))
    assert decoder.rest == rest


# Blanks in extensions, which the RFC has recipients take, are refused by llhttp.
NOISE = st.binary(max_size=30).map(lambda noise: noise.replace(b" ", b"").replace(b"\t", b""))


@given(NOISE, st.integers(0, 60), st.integers(0, 3), st.lists(st.integers(0, 100), max_size=4))
def test_nothing_is_read_that_llhttp_reads_otherwise(noise: bytes, place: int, kept: int, cuts: list[int]) -> None:
    raw = encoded([b"hello", b"world " * 3], b";a=b", b"t: u\r\n")
    raw = raw[:place] + noise + raw[place + kept :]
    theirs = Read(raw)
    try:
        ours = decoded(raw, cuts)
    except RequestHeadError:
        return
    if ours.is_complete:
        assert not theirs.is_wrong
        assert theirs.is_complete
        assert ours.body == theirs.body  # type: ignore[attr-defined]
    else:
        assert not theirs.is_complete


def test_a_few_chunks_are_decoded_at_once_however_many_came() -> None:
    decoder = ChunkedDecoder()
    decoder.feed(b"1\r\nx\r\n" * 10_000)
    parts, has_more = decoder.decode()
    assert has_more
    assert len(parts) <= 512
    assert decoder.pending > 6 * 9000
    count = len(parts)
    while has_more:
        parts, has_more = decoder.decode()
        count += len(parts)
    assert (count, decoder.pending) == (10_000, 0)


@pytest.mark.parametrize("begun", [b"5;" + b"a" * 4095, b"0\r\na:" + b"b" * 4095, b"f" * 17])
def test_no_line_is_waited_for_without_end(begun: bytes) -> None:
    with pytest.raises(RequestHeadError):
        decoded(begun, [])
