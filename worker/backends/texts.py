"""Texts that callers may read: without the server's paths, and without what a runtime puts around its reason."""

import re
from pathlib import Path

from millrace.artifacts.modelfiles import FOLDERS
from millrace.protocol.paths import without_paths

_LONGEST, _MOST_READ = 1000, 20_000  # characters of a runtime's text: what is kept, and what is looked at
_SPACE = re.compile(r"\s*\n\s*")


def place(folder: Path, file: str = "") -> str:
    """A version's folder, or a file in it or in a folder of it, as callers may know it: `model/version/file`."""
    above = folder.parent.parent.name if folder.name in FOLDERS else ""
    return "/".join(part for part in (above, folder.parent.name, folder.name, file) if part)


def public(text: str, folder: Path | None = None) -> str:
    """The text with file names in place of absolute paths, those in a version's `folder` as in `place`."""
    if folder is not None:
        for form in {str(folder), str(folder.resolve())}:
            text = text.replace(form, place(folder))
    return without_paths(text[:_MOST_READ]).strip()[:_LONGEST]


def reason_of(error: BaseException, *, whole: bool = True) -> str:
    """The text of an error in one line, as callers may read it; its class where it has no text.

    Not the `whole`, but its first line, is what an error of Python code says, unless that announces the others.
    """
    text = public(str(error))
    first_line = text.partition("\n")[0].strip()
    return _SPACE.sub(" ", text if whole or first_line.endswith(":") else first_line) or type(error).__name__
