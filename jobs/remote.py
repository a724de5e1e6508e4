"""Files at URLs: of object stores through fsspec, whose credentials are the jobs program's own, and of web servers.

An input is fetched once, into the folder of its job, so that all parts read the same bytes however the file changes;
it goes when the parts go. A result is written beside the parts, and sent when it is complete.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import fsspec

from jobs.addresses import allowed_addresses
from jobs.settings import JobsSettings
from jobs.webfiles import WebFiles
from millrace.jobs.uploads import safe_name
from millrace.protocol.errors import InvalidRequest, MillraceError

_WEB = ("http", "https")
_OURS = ("file", "local")  # a path below the root is named without a protocol
_WITHOUT_HOSTS = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "r2", "hf"})


def check(settings: JobsSettings, url: str, field: str) -> str:
    """The protocol of the URL. Raises `InvalidRequest` for one that is not allowed, or that carries a password."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise InvalidRequest(f"{field}: this is no URL: {error}") from None
    protocol = parts.scheme.lower()
    if protocol in _OURS or protocol not in settings.allowed_protocols or _is_chain(protocol, url):
        raise InvalidRequest(f"{field}: URLs of this protocol are not allowed (MILLRACE_JOBS_PROTOCOLS)")
    if parts.password is not None or (protocol in _WEB and parts.username is not None):
        raise InvalidRequest(f"{field}: a URL must not carry credentials: those of the jobs program are used")
    if protocol not in (*_WITHOUT_HOSTS, *_WEB) and host:
        try:
            allowed_addresses(host, port or 0, settings.url_private)
        except (InvalidRequest, OSError) as error:
            raise InvalidRequest(f"{field}: {error}") from None
    return protocol


def _is_chain(protocol: str, url: str) -> bool:
    """Whether fsspec would open it through another URL; the colons of an address in IPv6 are no such thing."""
    return "::" in url and protocol not in _WEB


def check_writable(settings: JobsSettings, url: str) -> None:
    """Raises `InvalidRequest` where no result can be written to the URL."""
    if check(settings, url, "output") in _WEB:
        raise InvalidRequest("output: files cannot be written to web servers")
    _opened(url, "output")


def fetch(settings: JobsSettings, url: str, folder: Path, check_room: Callable[[int], None]) -> Path:
    """The file, or the folder of files, that the URL names, as it is in `folder`; fetched if it is not there yet.

    Raises `InvalidRequest`, and whatever `check_room` raises.
    """
    protocol = check(settings, url, "input")
    path = folder / safe_name(unquote(urlsplit(url).path.rstrip("/")))
    if path.exists():
        return path
    writing = folder / f".{os.getpid()}"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if protocol in _WEB:
            web = WebFiles(settings.allowed_protocols & {*_WEB}, allow_private=settings.url_private)
            web.fetch(url, writing, check_room)
        else:
            _in_words("input", url, lambda: _copy(url, writing, check_room))
        writing.rename(path)
    finally:
        shutil.rmtree(writing, ignore_errors=True)
        if writing.is_file():
            writing.unlink()
    return path


def send(path: Path, url: str) -> None:
    """Write a complete file to the URL. Raises `InvalidRequest`."""
    files, there = _opened(url, "output")
    _in_words("output", url, lambda: files.put_file(str(path), there))


def _copy(url: str, path: Path, check_room: Callable[[int], None]) -> None:
    files, there = _opened(url, "input")
    found = files.info(there)
    if found["type"] != "directory":
        _get(files, there, int(found.get("size") or 0), path, check_room)
        return
    for name, info in files.find(there, detail=True).items():
        below = PurePosixPath(name.removeprefix(there.rstrip("/")).lstrip("/"))
        if ".." in below.parts or below.is_absolute() or not below.parts:
            raise InvalidRequest(f"input: {name!r} is no name of a file in a folder")
        target = path.joinpath(*below.parts)
        target.parent.mkdir(parents=True, exist_ok=True)
        _get(files, name, int(info.get("size") or 0), target, check_room)


def _get(files: Any, there: str, size: int, path: Path, check_room: Callable[[int], None]) -> None:
    check_room(size)
    files.get_file(there, str(path))
    if path.stat().st_size != size:
        raise OSError(f"{path.stat().st_size} bytes came of {size}")


def _opened(url: str, field: str) -> tuple[Any, str]:
    files, there = _in_words(field, url, lambda: fsspec.core.url_to_fs(url))
    return files, there


def _in_words(field: str, url: str, do: Callable[[], Any]) -> Any:
    """What `do` gives. Each of fsspec's libraries raises errors of its own: all are the caller's to know."""
    try:
        return do()
    except MillraceError:
        raise
    except FileNotFoundError:
        raise InvalidRequest(f"{field}: there is no {url!r}") from None
    except ImportError as error:
        raise InvalidRequest(f"{field}: the jobs program lacks a library: {error}") from None
    except Exception as error:
        raise InvalidRequest(f"{field}: {url!r} failed: {type(error).__name__}: {error}") from error
