"""Encoded images before they are decoded: what decoding would cost is bounded here, by looks at the file alone.

A file says how large it is, but not how much work it makes: a progressive JPEG may refine its pixels thousands of
times, a PNG may carry compressed text of any size, a WebP or GIF any number of frames (see `animations`). All of it is
counted, or left out, before a decoder sees it.
"""

import io
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec

import numpy as np
from PIL import Image, UnidentifiedImageError

from millrace.artifacts import animations
from millrace.protocol.errors import InvalidRequest

MAX_FILE_BYTES = 32_000_000
MAX_PIXELS = 26_000_000  # photographs of 24 megapixels; a decoded image of that size takes 104 MB for a moment
MAX_JPEG_PIXELS = 66_000_000  # of a JPEG that is not progressive: more than `MAX_PIXELS` are decoded at half the size
MAX_SCANS = 32  # of a JPEG: encoders write up to 10 for colour and 18 for print (CMYK)
MAX_SEGMENTS = 1_000  # of a JPEG: long colour profiles come in some dozens
_MAX_METADATA_BYTES = 65_536  # of a PNG's EXIF or XMP, which say how a photograph is turned; a JPEG's have no more
_FORMATS, _KINDS = ("JPEG", "PNG", "WEBP", "GIF"), "JPEG, PNG, WebP or GIF"
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
# What else people send: the beginning of a file, from where, and what it is.
_OTHERS = (
    (b"BM", 0, "BMP"),
    (b"II*\0", 0, "TIFF"),
    (b"MM\0*", 0, "TIFF"),
    (b"ftypavi", 4, "AVIF"),
    (b"\xff\x0a", 0, "JPEG XL"),
    (b"\0\0\0\x0cJXL ", 0, "JPEG XL"),
    (b"\0\0\0\x0cjP  ", 0, "JPEG 2000"),
    (b"%PDF", 0, "PDF"),
    (b"<svg", 0, "SVG"),
)
_HEIF = (b"ftyphei", b"ftyphev", b"ftypmif1")  # where an iPhone's photographs say what they are
_PIXEL_CHUNKS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
_XMP = b"XML:com.adobe.xmp\0\0"  # and not compressed
_SCAN, _END = 0xDA, 0xD9
_NEXT_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")  # not a byte of data, and no restart within a scan
_LENGTH = struct.Struct(">H")
_CHUNK = struct.Struct(">I4s")


@contextmanager
def opened(file: bytes) -> Iterator[Image.Image]:
    """The image in the file, its first frame where it has several; what is raised while it is read is the file's fault.

    Raises `InvalidRequest` for bytes that are none of the kinds that are taken, are damaged, hold too many pixels, or
    take more work to decode than an image of that many pixels does.
    """
    try:
        with Image.open(io.BytesIO(bounded(file)), formats=("HEIF",) if _is_heif(file) else _FORMATS) as image:
            _bound_pixels(image)
            yield image
    except InvalidRequest:
        raise
    except UnidentifiedImageError:
        found = "a HEIF" if _is_heif(file) else f"a {_KINDS}"
        raise InvalidRequest(f"the bytes are not {found} image") from None
    except Exception as error:  # decoders raise whatever a damaged file leads them to
        raise InvalidRequest(f"the image cannot be decoded: {error}") from None


def _bound_pixels(image: Image.Image) -> None:
    """Has a large JPEG decoded at half its size, by the decoder itself, which never holds the whole."""
    is_bounded = image.format == "JPEG" and "progressive" not in image.info  # of a progressive one it holds all
    if is_bounded and MAX_PIXELS < image.width * image.height <= MAX_JPEG_PIXELS:
        image.draft(image.mode, (image.width // 2, image.height // 2))
    check_size(image.width, image.height)


def of_8_bits(image: Image.Image) -> Image.Image:
    """The image with at most 8 bits a channel: of gray with 16, Pillow's conversions would cut off all above 255."""
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.asarray(image) // 257).astype(np.uint8))


def check_size(width: int, height: int) -> None:
    """Raises `InvalidRequest` for more pixels than are held at a time."""
    if width * height > MAX_PIXELS:
        raise InvalidRequest(f"an image of {width} x {height} pixels is too large: at most {MAX_PIXELS} are taken")


def bounded(file: bytes) -> bytes:
    """The file without what does not matter to its pixels, or those of its first frame.

    Raises `InvalidRequest` for what is of no kind that is taken, is too large, or takes too much work to decode.
    """
    if len(file) > MAX_FILE_BYTES:
        raise InvalidRequest(f"an image file of {len(file)} bytes is too large: at most {MAX_FILE_BYTES} are taken")
    if file.startswith(_PNG):
        return _PNG + b"".join(_needed_chunks(memoryview(file)))
    if animations.is_webp(file):
        check_size(*animations.webp_size(file))  # a decoder takes the memory for its canvas as it opens the file
        return animations.first_of_webp(file)
    if animations.is_gif(file):
        return animations.first_of_gif(file)
    if _is_heif(file):
        _learn_heif()
        return file
    if not file.startswith(_JPEG):
        raise InvalidRequest(_what_else(file))
    _check_segments(file)
    return file


def _is_heif(file: bytes) -> bool:
    return file.startswith(_HEIF, 4)


def _learn_heif() -> None:
    """Pillow reads HEIF by a library of its own. Raises `InvalidRequest` where that is not installed."""
    if find_spec("pillow_heif") is None:
        raise InvalidRequest(f"HEIF images need the library pillow-heif, which the worker lacks: send a {_KINDS} image")
    import_module("pillow_heif").register_heif_opener(thumbnails=False)


def _what_else(file: bytes) -> str:
    for beginning, place, name in _OTHERS:
        if file.startswith(beginning, place):
            return f"{name} images are not supported: send a {_KINDS}"
    return f"the bytes are not a {_KINDS} image"


def _needed_chunks(file: memoryview) -> Iterator[memoryview]:
    """The PNG's chunks that hold pixels, and the first EXIF and XMP; whatever is damaged is the decoder's to find."""
    place, kept = len(_PNG), set[bytes]()
    while place + _CHUNK.size <= len(file):
        length, kind = _CHUNK.unpack_from(file, place)
        end = place + length + 12
        data = file[place + 8 : place + 8 + len(_XMP)]
        is_metadata = kind == b"eXIf" or (kind == b"iTXt" and data == _XMP)
        if is_metadata and length <= _MAX_METADATA_BYTES and kind not in kept:
            kept.add(kind)
            yield file[place:end]
        elif kind in _PIXEL_CHUNKS:
            yield file[place:end]
        place = end


def _check_segments(file: bytes) -> None:
    """Counts a JPEG's segments and scans as a decoder meets them, so that a thumbnail inside a segment counts not."""
    scans = segments = 0
    place = 2
    while found := _NEXT_MARKER.search(file, place):
        marker, place = found[1][0], found.end()
        if marker == _END or place + _LENGTH.size > len(file):
            return
        segments += 1
        scans += marker == _SCAN
        if scans > MAX_SCANS:
            raise InvalidRequest(f"a JPEG of more than {MAX_SCANS} scans is not decoded: save it with fewer")
        if segments > MAX_SEGMENTS:
            raise InvalidRequest(f"a JPEG of more than {MAX_SEGMENTS} segments is not decoded")
        place += max(2, _LENGTH.unpack_from(file, place)[0])
