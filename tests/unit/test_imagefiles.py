"""No image file takes more work than an honest image of the largest size, and all that is honest is still read."""

import contextlib
import io
import struct
import time
import zlib
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from millrace.artifacts.animations import MAX_BLOCKS, MAX_CHUNKS
from millrace.artifacts.imagefiles import MAX_FILE_BYTES, MAX_SCANS, MAX_SEGMENTS, bounded
from millrace.artifacts.images import read_digit
from millrace.protocol.errors import InvalidRequest

EXACTLY: dict[str, Any] = {"quality": 100, "lossless": True}
LARGEST = 4472  # squared, the most pixels that are taken
SMALL = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60), np.uint8))


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_with(*chunks: bytes, image: Image.Image = SMALL) -> bytes:
    """A PNG with these chunks before its pixels."""
    file = encoded(image, "PNG")
    place = file.index(b"IDAT") - 4
    return file[:place] + b"".join(chunks) + file[place:]


def segment(marker: int, data: bytes = b"") -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def jpeg_with(*segments: bytes, image: Image.Image = SMALL) -> bytes:
    """A JPEG with these segments before all others."""
    file = encoded(image, "JPEG")
    return file[:2] + b"".join(segments) + file[2:]


def with_scans(file: bytes, repeated: int) -> bytes:
    """The JPEG with its last scan that many times more."""
    last = file[file.rindex(b"\xff\xda") : -2]
    return file[:-2] + last * repeated + b"\xff\xd9"


def flat(mode: str, width: int = LARGEST, height: int = LARGEST) -> Image.Image:
    return Image.new(mode, (width, height), "white" if mode != "L" else 255)


def raw_png(depth: int, colour: int, interlaced: int, width: int, height: int, size: int) -> bytes:
    """A PNG of that form whose pixels are `size` zeros, packed."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced))
    pixels = chunk(b"IDAT", zlib.compress(bytes(size), 9))
    return b"\x89PNG\r\n\x1a\n" + head + pixels + chunk(b"IEND", b"")


def repeated(part: bytes, size: int = 190_000) -> bytes:
    return part * (size // len(part))


def text_bomb(size: int = 1_000_000) -> bytes:
    return chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(bytes(size), 9))


def gif_with(blocks: bytes) -> bytes:
    """A GIF with these blocks before its frame."""
    file = encoded(SMALL, "GIF")
    return file[: 13 + 3 * 256] + blocks + file[13 + 3 * 256 :]


def webp_of(head: bytes) -> bytes:
    """A WebP that says with this head how large it is."""
    return b"RIFF\xff\xff\0\0WEBPVP8X" + struct.pack("<I", len(head)) + head + encoded(SMALL, "WEBP")[12:]


def webp_with(chunks: bytes) -> bytes:
    """A WebP with these chunks before its frame."""
    file = encoded(SMALL, "WEBP", exif=turned_by(6))
    return file[:30] + chunks + file[30:]


def repeated_frames(kind: str, count: int) -> bytes:
    frames = [Image.new("L", (300, 300), number % 256) for number in range(count)]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:])


def itself_as_next() -> bytes:
    """EXIF whose directory names itself as the next one, and as its sub-directory."""
    entries = struct.pack("<H", 2) + struct.pack("<HHII", 0x8769, 4, 1, 8) + struct.pack("<HHII", 0x0112, 3, 1, 6)
    return b"Exif\0\0II*\0\x08\0\0\0" + entries + struct.pack("<I", 8)


# Files of at most 200 KB that make a decoder work, each as its kind.
BOMBS: dict[str, Callable[[], bytes]] = {
    "as many scans as are taken": lambda: with_scans(encoded(flat("RGB"), "JPEG", progressive=True), MAX_SCANS - 10),
    "2,000 scans": lambda: with_scans(encoded(flat("L"), "JPEG", progressive=True), 2000),
    "comments": lambda: jpeg_with(repeated(segment(0xFE))),
    "tables": lambda: jpeg_with(repeated(segment(0xDB, bytes(65)))),
    "restarts": lambda: encoded(SMALL, "JPEG")[:-2] + repeated(b"\xff\xd0") + b"\xff\xd9",
    "fill bytes": lambda: encoded(SMALL, "JPEG")[:-2] + repeated(b"\xff") + b"\xff\xd9",
    "EXIF in circles": lambda: jpeg_with(repeated(segment(0xE1, itself_as_next()))),
    "a colour profile": lambda: encoded(SMALL, "JPEG", icc_profile=bytes(180_000)),
    "XMP": lambda: jpeg_with(*[segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + b"<a " * 20_000)] * 3),
    "texts": lambda: png_with(text_bomb() * 60),
    "one long text": lambda: png_with(text_bomb(180_000_000)),
    "a packed colour profile": lambda: png_with(chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(180_000_000), 9))),
    "chunks": lambda: png_with(repeated(chunk(b"tEXt", b"a\0b"))),
    "empty pixels": lambda: png_with(repeated(chunk(b"IDAT", b""))),
    "pixels beyond the last": lambda: raw_png(8, 0, 0, 28, 28, 180_000_000),
    "wide": lambda: encoded(flat("L", LARGEST**2, 1), "PNG"),
    "tall": lambda: encoded(flat("L", 1, LARGEST**2), "PNG"),
    "interlaced": lambda: raw_png(8, 2, 1, LARGEST, LARGEST, LARGEST * (LARGEST * 3 + 2)),
    "deep": lambda: raw_png(16, 6, 0, LARGEST, LARGEST, LARGEST * (LARGEST * 8 + 1)),
    "far too wide": lambda: raw_png(8, 0, 0, 100_000_000, 1, 100_000_001),
    "frames": lambda: encoded(flat("L", 200, 200), "PNG", save_all=True, append_images=[SMALL.resize((200, 200))] * 3),
    "comments in a GIF": lambda: gif_with(b"!\xfe" + repeated(b"\x01a") + b"\0"),
    "extensions of a GIF": lambda: gif_with(repeated(b"!\xfe\x01a\0")),
    "a wide GIF": lambda: encoded(SMALL, "GIF").replace(struct.pack("<HH", 60, 40), struct.pack("<HH", 65_000, 65_000)),
    "frames of a GIF": lambda: repeated_frames("GIF", 300),
    "a wide WebP": lambda: webp_of(struct.pack("<I", 0) + b"\xff\xff\xff" * 2),
    "a flat WebP": lambda: encoded(flat("RGB"), "WEBP", lossless=True),
    "chunks of a WebP": lambda: webp_with(repeated(b"JUNK\0\0\0\0")),
    "frames of a WebP": lambda: repeated_frames("WEBP", 200),
}


def cost_s(file: bytes) -> float:
    """The CPU time that it takes to read the file, or to refuse it."""
    started = time.process_time()
    with contextlib.suppress(InvalidRequest):
        read_digit(file)
    return time.process_time() - started


@pytest.fixture(scope="module")
def honest_s() -> float:
    """The CPU time of the largest honest images."""
    files = [encoded(flat("RGBA"), "PNG"), encoded(flat("RGB"), "JPEG", progressive=True)]
    return max(cost_s(file) for file in files)


@pytest.mark.parametrize("kind", BOMBS)
def test_no_small_file_takes_much_more_than_the_largest_image(kind: str, honest_s: float) -> None:
    file = BOMBS[kind]()
    assert len(file) <= 200_000
    assert min(cost_s(file) for _ in range(2)) < 4 * honest_s


@given(
    st.sampled_from(["PNG", "JPEG", "GIF", "WEBP"]), st.binary(max_size=40), st.integers(0, 2000), st.integers(0, 2000)
)
def test_whatever_the_bytes_the_outcome_is_a_digit_or_a_refusal(
    kind: str, spoilt: bytes, place: int, dropped: int
) -> None:
    file = encoded(SMALL, kind, **({"progressive": True} if kind == "JPEG" else {}))
    spoilt_file = file[:place] + spoilt + file[place + dropped :]
    with contextlib.suppress(InvalidRequest):
        assert read_digit(spoilt_file).shape == (28, 28, 1)


def test_scans_and_segments_are_counted() -> None:
    progressive = encoded(SMALL.convert("RGB"), "JPEG", progressive=True)
    scans = progressive.count(b"\xff\xda")
    assert bounded(with_scans(progressive, MAX_SCANS - scans)) == with_scans(progressive, MAX_SCANS - scans)
    with pytest.raises(InvalidRequest, match=f"more than {MAX_SCANS} scans"):
        bounded(with_scans(progressive, MAX_SCANS - scans + 1))
    bounded(jpeg_with(segment(0xFE) * (MAX_SEGMENTS - 20)))
    with pytest.raises(InvalidRequest, match=f"more than {MAX_SEGMENTS} segments"):
        bounded(jpeg_with(segment(0xFE) * (MAX_SEGMENTS + 1)))


def test_a_thumbnail_in_a_segment_is_no_scan() -> None:
    thumbnails = [segment(0xE1, b"Exif\0\0" + b"\xff\xda\0\2" * 1000)] * 3
    bounded(jpeg_with(*thumbnails))


def test_a_file_is_taken_up_to_its_largest_size() -> None:
    file = encoded(SMALL, "JPEG")
    bounded(file + bytes(MAX_FILE_BYTES - len(file)))
    with pytest.raises(InvalidRequest, match=f"{MAX_FILE_BYTES + 1} bytes is too large"):
        bounded(file + bytes(MAX_FILE_BYTES - len(file) + 1))


@pytest.mark.parametrize("kind", ["TIFF", "BMP"])
def test_another_kind_of_image_is_named(kind: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^{kind} images are not supported: send a JPEG, PNG, WebP or GIF"):
        read_digit(encoded(SMALL, kind))


def heif(side: int) -> bytes:
    pytest.importorskip("pillow_heif").register_heif_opener(thumbnails=False)
    return encoded(SMALL.convert("RGB").resize((side, side)), "HEIF", quality=-1)


def test_a_heif_image_is_read_where_its_library_is() -> None:
    file = heif(280)

    expected = read_digit(encoded(SMALL.convert("RGB").resize((280, 280)), "PNG"))
    assert np.abs(read_digit(file) - expected).mean() < 3
    with pytest.raises(InvalidRequest, match=r"not a HEIF image|cannot be decoded"):
        read_digit(file[:300])


@pytest.mark.slow
def test_a_heif_image_of_too_many_pixels_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="is too large: at most"):
        read_digit(heif(5_120))


@pytest.mark.skipif(find_spec("pillow_heif") is not None, reason="pillow-heif is installed")
def test_without_its_library_a_heif_image_is_refused_by_name() -> None:
    with pytest.raises(InvalidRequest, match=r"^HEIF images need the library pillow-heif, which the worker lacks"):
        read_digit(b"\0\0\0\x1cftypheic" + bytes(100))


def test_a_png_is_read_without_what_does_not_matter_to_its_pixels() -> None:
    extras = chunk(b"tEXt", b"a\0b"), text_bomb(), chunk(b"gAMA", b"1234"), chunk(b"acTL", bytes(8))
    assert bounded(png_with(*extras)) == encoded(SMALL, "PNG")
    np.testing.assert_array_equal(read_digit(png_with(*extras)), read_digit(encoded(SMALL, "PNG")))


@pytest.mark.parametrize(("kind", "options"), [("GIF", {}), ("WEBP", {"lossless": True})])
def test_of_an_animation_the_first_frame_is_read_and_nothing_else(kind: str, options: Any) -> None:
    frames = [SMALL, *(Image.new("L", SMALL.size, number) for number in range(20))]
    moving = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=50, **options)
    still = encoded(SMALL, kind, **options)
    assert len(bounded(moving)) < len(still) + 100 < len(moving)
    np.testing.assert_array_equal(read_digit(moving), read_digit(still))


def test_a_webp_is_read_without_its_profile_and_the_rest() -> None:
    options = {"lossless": True, "icc_profile": bytes(5000), "xmp": bytes(5000)}
    assert len(bounded(encoded(SMALL, "WEBP", **options))) < len(encoded(SMALL, "WEBP", **options)) - 10_000
    np.testing.assert_array_equal(read_digit(encoded(SMALL, "WEBP", **options)), read_digit(encoded(SMALL, "PNG")))


def test_blocks_and_chunks_are_counted() -> None:
    with pytest.raises(InvalidRequest, match=f"more than {MAX_BLOCKS} blocks"):
        bounded(gif_with(b"!\xfe" + b"\x01a" * MAX_BLOCKS + b"\0"))
    with pytest.raises(InvalidRequest, match=f"more than {MAX_CHUNKS} chunks"):
        bounded(webp_with(b"JUNK\0\0\0\0" * (MAX_CHUNKS + 1)))


def turned_by(number: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = number
    return exif


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_photograph_that_says_so_is_turned(kind: str) -> None:
    upright = Image.new("L", (60, 40))
    upright.paste(255, (10, 5, 16, 35))
    lying = upright.rotate(90, expand=True)
    straight = read_digit(encoded(upright, kind, **EXACTLY))
    assert np.abs(read_digit(encoded(lying, kind, **EXACTLY, exif=turned_by(6))) - straight).mean() < 2
    assert np.abs(read_digit(encoded(lying, kind, **EXACTLY)) - straight).mean() > 10


def test_a_png_with_an_xmp_that_turns_it_is_turned() -> None:
    upright = Image.new("L", (60, 40))
    upright.paste(255, (10, 5, 16, 35))
    xmp = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + b'<x tiff:Orientation="6"/>')
    turned = png_with(xmp, image=upright.rotate(90, expand=True))
    assert np.abs(read_digit(turned) - read_digit(encoded(upright, "PNG"))).mean() < 2


def test_a_png_keeps_one_exif_of_a_bounded_size() -> None:
    small, large = chunk(b"eXIf", bytes(100)), chunk(b"eXIf", bytes(70_000))
    assert bounded(png_with(small, small)) == png_with(small)
    assert bounded(png_with(large)) == encoded(SMALL, "PNG")


def test_sixteen_bits_of_grey_are_read_as_eight() -> None:
    eight = np.asarray(SMALL)
    sixteen = Image.fromarray(eight.astype(np.uint16) * 257)
    np.testing.assert_array_equal(read_digit(encoded(sixteen, "PNG")), read_digit(encoded(SMALL, "PNG")))
