"""Which names a model may have: those that URLs, logs, metrics and Redis keys can carry.

Blanks, accents, `+`, `%` and the like are fine: they are escaped where that is needed.
"""

LONGEST = 128


def unfit(name: str) -> str:
    """Why that cannot be a model's name, "" where it can."""
    if not 0 < len(name) <= LONGEST:
        return f"a model's name has 1 to {LONGEST} characters"
    if not name.isprintable():
        return "a model's name has printable characters only"
    if "/" in name or ":" in name:
        return "a model's name has no '/' and no ':', which end it in a URL"
    return "a model's name is not '.' or '..'" if name in (".", "..") else ""


def quoted(name: str) -> str:
    """The name as a message shows it: cut, on one line, between quotes."""
    text = name if name.isprintable() else ascii(name)[1:-1]
    return f"'{text if len(text) <= LONGEST else text[:LONGEST] + '…'}'"
