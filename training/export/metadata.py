"""Files packed into a TFLite model: a zip archive after its last byte, where TFLite's metadata readers look for them.

Runtimes read a model from its front and stop at its end; archives are read from their back. So one file is both.
Entries are stored uncompressed, which is all that the Android reader knows.
"""

import io
import zipfile
from collections.abc import Mapping

import msgspec

from millrace.artifacts.manifest import Manifest
from millrace.artifacts.vocabulary import Vocabulary

LABELS, VOCABULARY, DESCRIPTION = "labels.txt", "vocabulary.txt", "millrace.json"


def pack(model: bytes, files: Mapping[str, str]) -> bytes:
    """The model with the files, by name, behind it."""
    out = io.BytesIO()
    out.write(model)
    with zipfile.ZipFile(out, "a", zipfile.ZIP_STORED) as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name), text)  # whose time is always the same
    return out.getvalue()


def unpack(content: bytes) -> dict[str, str]:
    """The files in a model; none where nothing was packed."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return {name: archive.read(name).decode() for name in archive.namelist()}
    except zipfile.BadZipFile:
        return {}


def files_of(description: Manifest, vocabulary: Vocabulary | None) -> dict[str, str]:
    """What an app needs beside the graph: labels and vocabulary, one a line, and the rules as JSON."""
    rules = {
        "name": description.name,
        "version": description.version,
        "description": description.description,
        "preprocessing": description.preprocessing,
        "postprocessing": description.postprocessing,
    }
    files = {DESCRIPTION: msgspec.json.format(msgspec.json.encode(rules), indent=2).decode()}
    if description.labels:
        files[LABELS] = "".join(f"{label}\n" for label in description.labels)
    if vocabulary is not None:
        files[VOCABULARY] = vocabulary.text()
    return files
