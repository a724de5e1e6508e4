"""Takes the server's paths out of texts that callers read: of each, the file's name is left."""

import re

# A path between quotes may have blanks in it; one without ends at the first character that paths hardly have.
_QUOTED = re.compile(r"""(?<=['"`])(?:file:/*)?/[^'"`\n]*/(?=[^'"`/\n]+/*['"`])""")
_BARE = re.compile(r"""(?:\bfile:/*|(?<![\w/.:~<>*-])/)(?:[^\s/'"`,;:()\[\]{}<>|]+/)*(?=[^\s/'"`,;:()\[\]{}<>|])""")


def without_paths(text: str) -> str:
    """The text with only the last part of every absolute path in it; URLs and relative paths stay."""
    return _BARE.sub("", _QUOTED.sub("", text)) if "/" in text else text
