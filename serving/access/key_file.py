"""The file of API keys: who may do what, and the hash of each key, never the key itself.

A key is 256 random bits, so its SHA-256 cannot be turned back: there is nothing to guess from, as there is with
passwords, for which slow hashes are made. A slow hash would only let strangers keep the server busy with wrong keys.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, get_args

import msgspec

from serving.access.limits import Rate, read_rate

Role = Literal["infer", "read", "control", "metrics"]
ROLES: tuple[str, ...] = get_args(Role)
_PREFIX = "mlr_"  # by which scanners for leaked secrets, and people, know a key
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HASH = re.compile(r"[0-9a-f]{64}")
_MOST_BYTES = 16 * 2**20


class KeyFileError(Exception):
    """The file cannot be read or written, or says what cannot be meant; the text names it and shows no hash."""


class StoredKey(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One key as the file has it: it is known by its hash, or by the name in a client's certificate.

    `models` are those that it may use, None for all. `rate` and `concurrency` bound its requests for inference, "" and
    0 for no bound.
    """

    name: str
    roles: tuple[Role, ...]
    models: tuple[str, ...] | None = None
    rate: str = ""
    concurrency: int = 0
    sha256: str = ""
    certificate: str = ""
    created: str = ""

    @property
    def allowed_rate(self) -> Rate | None:
        """The rate that it may have, None for any."""
        return read_rate(self.rate) if self.rate else None


class _File(msgspec.Struct, forbid_unknown_fields=True):
    keys: tuple[StoredKey, ...] = ()


def new_key() -> tuple[str, str]:
    """A new key, and the hash that is stored of it."""
    key = _PREFIX + secrets.token_urlsafe(32)
    return key, hash_of(key.encode())


def hash_of(key: bytes) -> str:
    """What is stored of a key."""
    return hashlib.sha256(key).hexdigest()


def read_keys(path: Path) -> tuple[StoredKey, ...]:
    """The keys in the file. Raises `KeyFileError`."""
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
            mode = os.fstat(file.fileno()).st_mode
    except OSError as error:
        raise KeyFileError(f"{path} cannot be read ({error.strerror})") from None
    if mode & 0o002:
        raise KeyFileError(f"{path} can be written by every user of this machine: run chmod o-w {path}")
    if len(content) > _MOST_BYTES:
        raise KeyFileError(f"{path} is larger than {_MOST_BYTES} bytes")
    try:
        keys = msgspec.json.decode(content, type=_File).keys
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise KeyFileError(f"{path} is no file of keys: {error}") from None
    _check(path, keys)
    return keys


def write_keys(path: Path, keys: Sequence[StoredKey]) -> None:
    """Put the keys into the file, in one step, for its owner alone. Raises `KeyFileError`."""
    path = path.resolve()
    content = msgspec.json.format(msgspec.json.encode(_File(tuple(keys))), indent=2) + b"\n"
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        beside.touch(0o600, exist_ok=False)
        try:
            with beside.open("wb") as file:
                _give_to_the_owner(file.fileno(), path)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise KeyFileError(f"{path} cannot be written ({error.strerror})") from None


@contextlib.contextmanager
def changing(path: Path) -> Iterator[list[StoredKey]]:
    """The keys, to be changed by nobody else meanwhile; they are written at the end. Raises `KeyFileError`."""
    try:
        folder = os.open(path.resolve().parent, os.O_RDONLY)
    except OSError as error:
        raise KeyFileError(f"{path} cannot be written ({error.strerror})") from None
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        keys = list(read_keys(path)) if path.exists() else []
        yield keys
        _check(path, keys)
        write_keys(path, keys)
    finally:
        os.close(folder)


def _give_to_the_owner(fd: int, path: Path) -> None:
    """The new file belongs to whoever the old one belonged to: the user that the server runs as."""
    with contextlib.suppress(FileNotFoundError, PermissionError):
        old = path.stat()
        os.fchown(fd, old.st_uid, old.st_gid)


def _check(path: Path, keys: Sequence[StoredKey]) -> None:
    seen: set[tuple[str, str]] = set()
    for key in keys:
        if why := _why_wrong(key):
            raise KeyFileError(f"{path}: key {key.name[:64]!r}: {why}")
        for known in (("name", key.name), ("hash", key.sha256), ("certificate", key.certificate)):
            if known in seen and known[1]:
                raise KeyFileError(f"{path}: key {key.name!r}: there are two with the same {known[0]}")
            seen.add(known)


def _why_wrong(key: StoredKey) -> str:
    if not _NAME.fullmatch(key.name):
        return "a name has letters, digits, and . _ - between them, at most 64"
    if not key.roles:
        return f"a key has roles, of {', '.join(ROLES)}"
    if bool(key.sha256) == bool(key.certificate):
        return "a key has a sha256 or a certificate"
    if key.sha256 and not _HASH.fullmatch(key.sha256):
        return "sha256 is not 64 hexadecimal digits"
    if key.models is not None and not key.models:
        return "models is empty; leave it out for all"
    if key.concurrency < 0:
        return "concurrency is below 0"
    try:
        key.allowed_rate  # noqa: B018 - it raises
    except ValueError as error:
        return str(error)
    return ""
