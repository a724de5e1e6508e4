"""Model versions that are Python code, written on the spot."""

import textwrap
from pathlib import Path


def write(root: Path, name: str, code: str, version: int = 1, **files: str) -> Path:
    """Put a version with that `model.py` into a repository; `files` are texts beside it, by their names without ".txt".

    Returns its folder.
    """
    folder = root / name / str(version)
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in files.items():
        (folder / f"{file}.txt").write_text(text)
    (folder / "model.py").write_text(textwrap.dedent(code))
    return folder
