"""Columns as texts, whole columns at a time: for CSV, and as JSON.

JSON has no NaN and no infinity: they are null there. Bytes become Base64.
"""

import base64
import json
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_FOR_QUOTES = '[",\r\n]'
_CONTROLS = "[\x00-\x1f]"


def csv_texts(column: pa.Array) -> pa.Array:
    """Each value as a field of CSV, empty for null; lists and structures are JSON in it."""
    kind = column.type
    if isinstance(kind, pa.JsonType):
        return _quoted(column.storage)
    if _is_nested(kind):
        return _quoted(pc.if_else(column.is_valid(), json_texts(column), pa.scalar(None, pa.string())))
    if _is_number(kind):
        return _numbers(column).fill_null("")
    return _quoted(_strings(column))


def json_texts(column: pa.Array) -> pa.Array:
    """Each value as JSON."""
    kind = column.type
    if isinstance(kind, pa.JsonType):
        return pc.replace_substring(column.storage.fill_null("null"), "\n", " ")
    if pa.types.is_floating(kind):
        wide = _wide(column)
        return pc.if_else(pc.is_finite(wide), _numbers(wide), "null").fill_null("null")
    if _is_number(kind):
        return _numbers(column).fill_null("null")
    if _is_list(kind):
        return _lists(column)
    if _is_nested(kind):
        return pa.array([json.dumps(each, default=_text_of) for each in column.to_pylist()], pa.string())
    return _json_strings(_strings(column))


def joined(columns: "list[pa.Array]", separator: str, end: str) -> memoryview:
    """The rows of these columns of texts, one after another, each with `end` behind it."""
    last = pc.binary_join_element_wise(columns[-1], "", end)
    rows = pc.binary_join_element_wise(*columns[:-1], last, separator)
    if not len(rows):
        return memoryview(b"")
    return memoryview(pc.binary_join(pa.ListArray.from_arrays([0, len(rows)], rows), "")[0].as_buffer())


def _lists(column: pa.Array) -> pa.Array:
    lengths = pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False)
    offsets = pa.array(np.concatenate([[0], lengths.cumsum()]), pa.int32())
    elements = pa.ListArray.from_arrays(offsets, json_texts(column.flatten()))
    texts = pc.binary_join_element_wise("[", pc.binary_join(elements, ","), "]", "")
    return pc.if_else(column.is_valid(), texts, "null")


def _json_strings(column: pa.Array) -> pa.Array:
    if pc.any(pc.match_substring_regex(column, _CONTROLS)).as_py():
        return pa.array([str(msgspec.json.encode(each), "utf-8") for each in column.to_pylist()], pa.string())
    escaped = pc.replace_substring(pc.replace_substring(column, "\\", "\\\\"), '"', '\\"')
    return pc.binary_join_element_wise('"', escaped, '"', "").fill_null("null")


def _quoted(column: pa.Array) -> pa.Array:
    column = column.fill_null("")
    needs = pc.match_substring_regex(column, _FOR_QUOTES)
    if not pc.any(needs).as_py():
        return column
    quoted = pc.binary_join_element_wise('"', pc.replace_substring(column, '"', '""'), '"', "")
    return pc.if_else(needs, quoted, column)


def _numbers(column: pa.Array) -> pa.Array:
    texts = _wide(column).cast(pa.string())
    if not pa.types.is_floating(column.type):
        return texts
    is_whole = pc.match_substring_regex(texts, "^-?[0-9]+$")  # 3.0 stays a float for whoever reads it
    return pc.if_else(is_whole, pc.binary_join_element_wise(texts, "", ".0"), texts)


def _wide(column: pa.Array) -> pa.Array:
    return column.cast(pa.float32()) if pa.types.is_float16(column.type) else column


def _strings(column: pa.Array) -> pa.Array:
    kind = column.type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return pa.array([None if each is None else _text_of(each) for each in column.to_pylist()], pa.string())
    return column.cast(pa.string())


def _text_of(value: Any) -> str:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


def _is_number(kind: Any) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def _is_list(kind: Any) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _is_nested(kind: Any) -> bool:
    return bool(pa.types.is_nested(kind))
