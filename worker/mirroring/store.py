"""One store behind fsspec: what it holds, and its files, fetched one by one.

Credentials are those that each library finds by itself: variables of the environment, files, or the machine's role.
"""

import email.utils
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from millrace.artifacts.repository import version_of
from millrace.artifacts.storeurl import LIBRARIES, protocol

UNKNOWN_SIZE = -1
_MOST = 100_000
_WEB = ("http", "https")
_MODEL_FILES = (".onnx", ".ort", ".tflite")
# Each library calls these otherwise: what changes with a file's bytes, and when it was written.
_STAMPS = ("ETag", "etag", "generation", "blob_id", "content_settings", "Last-Modified")
_TIMES = ("LastModified", "last_modified", "mtime", "updated", "Last-Modified")
_T = TypeVar("_T")


class StoreError(Exception):
    """The store cannot be read: it is out of reach, refuses, or lacks what its URL names."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file: its `name` in the store, its size in bytes, a `stamp` that changes with it, when it was written.

    `size` is `UNKNOWN_SIZE`, and `changed_s`, in seconds since 1970, None, where the store does not say.
    """

    name: str
    size: int
    stamp: str
    changed_s: float | None


class Store:
    """The `most` files and folders below a URL. Raises `ValueError` for a URL that is no store's."""

    def __init__(self, url: str, most: int = _MOST) -> None:
        self._most = most
        self._protocol = protocol(url)
        self.url = url if self._is_file(url) or self._protocol not in _WEB else url.rstrip("/") + "/"
        self.name = model_name(url)

    def files(self) -> dict[str, StoredFile]:
        """Every file by its path relative to the URL; where the URL names one file, that by its name.

        Raises `StoreError`.
        """
        return self._in_words(self._listed)

    def fetch(self, file: StoredFile, path: Path) -> None:
        """Write one file to `path`, in a folder that is made. Raises `StoreError` where it is not as it was listed."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._in_words(lambda: self._system()[0].get_file(file.name, str(path)))
        if path.stat().st_size != file.size:
            raise StoreError(f"{file.name}: {path.stat().st_size} bytes came of {file.size}")

    def _is_file(self, url: str) -> bool:
        return self._protocol in _WEB and url.endswith(_MODEL_FILES)

    def _system(self) -> tuple[Any, str]:
        fsspec: Any = importlib.import_module("fsspec")
        files, root = fsspec.core.url_to_fs(self.url)
        return files, root

    def _listed(self) -> dict[str, StoredFile]:
        files, root = self._system()
        files.invalidate_cache()  # they remember listings
        if self._protocol in _WEB:
            names = [root] if self._is_file(root) else self._walked(files, root)
            found: Mapping[str, Mapping[str, Any]] = {name: files.info(name) for name in names}
        else:
            found = files.find(root, detail=True)
            self._check_number(len(found))
        listed = {}
        for name, info in found.items():
            if info.get("type") == "directory" or name.endswith("/"):  # consoles mark folders by empty objects
                continue
            relative = name.removeprefix(root.rstrip("/")).removeprefix("/") or root.rpartition("/")[2]
            listed[unquote(relative) if self._protocol in _WEB else relative] = _file(name, info)
        return listed

    def _walked(self, files: Any, root: str) -> list[str]:
        """The files that web pages list: fsspec's own walk passes over a folder that cannot be read, this one raises.

        Pages may lead in circles, which have no end.
        """
        folders, found, seen = [root], [], 0
        while folders:
            folder = folders.pop()
            for entry in files.ls(folder, detail=True):
                seen += 1
                self._check_number(seen)
                if entry["type"] != "directory":
                    found.append(entry["name"])
                elif entry["name"].startswith(folder) and entry["name"] != folder:
                    folders.append(entry["name"])
        return found

    def _check_number(self, number: int) -> None:
        if number > self._most:
            raise StoreError(f"it has more than {self._most} files; name the folder that holds models and nothing else")

    def _in_words(self, do: Callable[[], _T]) -> _T:
        """What `do` gives. Each library raises errors of its own, and all of them say that the store is not read."""
        try:
            return do()
        except ImportError as error:
            needed = f"fsspec and {LIBRARIES[self._protocol]}"
            raise StoreError(f"{self._protocol}:// needs {needed}, which are not installed ({error})") from None
        except Exception as error:
            text = str(error).strip() or type(error).__name__
            raise StoreError(f"{self.url}: {text}") from error


def model_name(url: str) -> str:
    """What the model is called where a URL names one: as its file, or as the folder around one with a general name."""
    parts = [unquote(part) for part in urlsplit(url).path.split("/") if part] or [urlsplit(url).netloc]
    if parts[-1].endswith(_MODEL_FILES):
        stem = PurePosixPath(parts.pop()).stem
        if stem != "model":
            return stem
    while len(parts) > 1 and version_of(parts[-1]) is not None:
        parts.pop()
    return parts[-1] if parts else "model"


def _file(name: str, info: Mapping[str, Any]) -> StoredFile:
    changed_s = next((_seconds(info[key]) for key in _TIMES if info.get(key)), None)
    stamps = [str(info[key]) for key in _STAMPS if info.get(key)]
    size = info.get("size")
    return StoredFile(name, UNKNOWN_SIZE if size is None else int(size), "|".join(stamps) or str(changed_s), changed_s)


def _seconds(when: object) -> float | None:
    """A time as one of the libraries gives it."""
    if isinstance(when, datetime):
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    if isinstance(when, int | float):
        return float(when)
    try:
        return datetime.fromisoformat(str(when)).timestamp()
    except ValueError:
        try:
            return email.utils.parsedate_to_datetime(str(when)).timestamp()
        except ValueError:
            return None
