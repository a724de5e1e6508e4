"""WebP and GIF files cut to what their first frame needs, since nothing else of them is shown.

A decoder would read all frames' heads as it opens a file, and comments byte by byte. Here every step is counted.
"""

import struct
from collections.abc import Iterator

from millrace.protocol.errors import InvalidRequest

MAX_CHUNKS = 1_000  # of a WebP that are looked at
MAX_BLOCKS = 200_000  # of a GIF's first frame and of what stands before it: 255 bytes each as encoders write them
_MAX_METADATA_BYTES = 65_536
_HEAD = struct.Struct("<4sI")
_FRAMES = (b"VP8 ", b"VP8L", b"ANMF")
_LABELS = {0x21: "extension", 0x2C: "image", 0x3B: "end"}


def is_webp(file: bytes) -> bool:
    """Whether the file says that it is a WebP."""
    return file.startswith(b"RIFF") and file.startswith(b"WEBP", 8)


def is_gif(file: bytes) -> bool:
    """Whether the file says that it is a GIF."""
    return file.startswith((b"GIF87a", b"GIF89a"))


def webp_size(file: bytes) -> tuple[int, int]:
    """Width and height that a WebP says it has. Raises `InvalidRequest` where it does not say so."""
    kind, head = file[12:16], file[20:30]
    if kind == b"VP8X" and len(head) == 10:
        return 1 + int.from_bytes(head[4:7], "little"), 1 + int.from_bytes(head[7:10], "little")
    if kind == b"VP8L" and len(head) >= 5:
        bits = int.from_bytes(head[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 " and len(head) == 10:
        return int.from_bytes(head[6:8], "little") & 0x3FFF, int.from_bytes(head[8:10], "little") & 0x3FFF
    raise InvalidRequest("the image cannot be decoded: a WebP without a size")


def first_of_webp(file: bytes) -> bytes:
    """The WebP with its first frame and how it is turned (EXIF), and nothing else.

    Raises `InvalidRequest` for more chunks than anybody writes.
    """
    chunks = b"".join(_webp_chunks(memoryview(file)))
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks


def _webp_chunks(file: memoryview) -> Iterator[memoryview]:
    place, count, has_frame = 12, 0, False
    while place + _HEAD.size <= len(file) and count <= MAX_CHUNKS:
        kind, length = _HEAD.unpack_from(file, place)
        end = place + _HEAD.size + length + length % 2
        count += 1
        if kind in _FRAMES and not has_frame:
            has_frame = True
            yield file[place:end]
        elif kind in (b"VP8X", b"ANIM", b"ALPH") and not has_frame:
            yield file[place:end]
        elif kind == b"EXIF" and length <= _MAX_METADATA_BYTES:
            yield file[place:end]
            return
        place = end
    if not has_frame and count > MAX_CHUNKS:
        raise InvalidRequest(f"a WebP of more than {MAX_CHUNKS} chunks before its first frame is not decoded")


def first_of_gif(file: bytes) -> bytes:
    """The GIF with its first frame and the control block before it; the file itself where it is damaged.

    Raises `InvalidRequest` for more blocks than anybody writes.
    """
    try:
        return b"".join(_gif_blocks(file))
    except IndexError:
        return file[: 13 + 3 * 256]  # so that a decoder says what is wrong, without a look at the rest


def _gif_blocks(file: bytes) -> Iterator[bytes]:
    place = 13 + _table_bytes(file[10])
    yield file[:place]
    left, control = MAX_BLOCKS, b""
    while _LABELS.get(file[place]) == "extension":
        end, left = _past_blocks(file, place + 2, left)
        if file[place + 1] == 0xF9:
            control = file[place:end]
        place = end
    if _LABELS.get(file[place]) != "image":
        raise IndexError
    end, _ = _past_blocks(file, place + 11 + _table_bytes(file[place + 9]), left)
    yield control
    yield file[place:end]
    yield b";"


def _table_bytes(flags: int) -> int:
    """The size of the table of colours that a byte of flags announces."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _past_blocks(file: bytes, place: int, left: int) -> tuple[int, int]:
    """Where the chain of data blocks ends, and how many more there may be. Raises `IndexError` past the file's end."""
    while length := file[place]:
        place += 1 + length
        left -= 1
        if not left:
            raise InvalidRequest(f"a GIF of more than {MAX_BLOCKS} blocks is not decoded")
    return place + 1, left
