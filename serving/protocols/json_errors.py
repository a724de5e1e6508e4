"""Why a body is no JSON, in the words of RapidJSON, which TensorFlow Serving and Triton read with."""

import json
import re

from millrace.protocol.errors import InvalidRequest

_WORDS = {
    "Expecting value": "Invalid value.",
    "Expecting property name enclosed in double quotes": "Missing a name for object member.",
    "Expecting ':' delimiter": "Missing a colon after a name of object member.",
    "Unterminated string starting at": "Missing a closing quotation mark in string.",
    "Invalid control character at": "Invalid encoding in string.",
    "Invalid \\escape": "Invalid escape character in string.",
    "Invalid \\uXXXX escape": "Incorrect hex digit after \\u escape in string.",
    "Extra data": "The document root must not be followed by other values.",
}
_STRING = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_LOOK_BACK = 65_536  # characters that are searched for the list or the object that a comma is missing in


def json_error(error: ValueError | RecursionError) -> InvalidRequest:
    """The error for what Python's parser raised, with the place in the body in bytes."""
    if not isinstance(error, json.JSONDecodeError):
        return InvalidRequest(f"JSON Parse error: {error}")
    text, place = error.doc, error.pos
    words = _WORDS.get(error.msg, f"{error.msg}.")
    if error.msg == "Expecting ',' delimiter":
        in_list = _innermost(text[max(0, place - _LOOK_BACK) : place]) == "["
        words = f"Missing a comma or {'] after an array element' if in_list else '} after an object member'}."
    offset = len(text[:place].encode(errors="surrogateescape"))
    return InvalidRequest(f"JSON Parse error: {words} at offset: {offset}")


def _innermost(text: str) -> str:
    """The bracket that is still open at the end of the text; strings in it do not count."""
    depth = 0
    for bracket in reversed(re.findall(r"[\[\]{}]", _STRING.sub("", text))):
        depth += 1 if bracket in "]}" else -1
        if depth < 0:
            return str(bracket)
    return "{"
