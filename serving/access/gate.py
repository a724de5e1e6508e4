"""Who may come in: the keys of callers, their roles and models, and how much each may ask.

A request shows its key as `Authorization: Bearer KEY` or `X-API-Key: KEY`, or it came over a connection whose client
certificate has a name that the file of keys knows. Only the keys' hashes are known. A key that was shown once and is
valid is remembered until the file changes, so that a request costs the look-up of its header.

Comparing takes the same time for every wrong key: what is looked up is a hash of 256 bits, of which nobody can choose
the beginning, and the hash that is found is compared in constant time.
"""

import hmac
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from typing import TypeVar

import msgspec

from millrace.protocol.errors import LimitReached, NotAllowed, NotAuthenticated
from serving.access.callers import Peer
from serving.access.key_file import KeyFileError, StoredKey, hash_of, read_keys
from serving.access.limits import Bucket
from serving.access.shares import part, whole_share
from serving.settings import ServingSettings
from serving.watched_files import WatchedFiles

_log = logging.getLogger(__name__)
_MOST_REMEMBERED = 10_000
_LONGEST_KEY = 512
_BUSY_S = 1.0  # after which a caller who had too many requests open may try again
_T = TypeVar("_T")
Headers = Mapping[bytes, bytes]

# The roles of which a key needs one.
INFER = ("infer",)
SEE = ("read", "infer", "control")
READ = ("read",)
CONTROL = ("control",)
METRICS = ("metrics",)
ANY = ("infer", "read", "control", "metrics")


class Usage(msgspec.Struct, frozen=True, array_like=True):
    """What one API process was asked with a key.

    `taken` are the requests that it let in since it knows the key's rate, `wanted` those that it was asked for since it
    told the last time, `peak` how many of them at once; `tokens` is how many more may come as far as it knows.
    """

    taken: int
    wanted: int
    peak: int
    tokens: float


_NOTHING = Usage(0, 0, 0, 0.0)


class Key:
    """A known key while it is in use.

    `is_valid` ends when it is taken out of the file. `open` counts its requests. `wanted` and `peak` are what was asked
    of it since the last `usage`: requests, and how many at once, with those that were refused. `told` is what other
    processes said last that they took.
    """

    __slots__ = (
        "bucket", "is_valid", "models", "most_open", "name", "open", "peak", "roles", "share_open", "stored",
        "told", "wanted",
    )  # fmt: skip

    def __init__(self, stored: StoredKey, now_s: float) -> None:
        self.is_valid = True
        self.open = self.wanted = self.peak = 0
        self.bucket: Bucket | None = None
        self.told: dict[str, int] = {}
        self.become(stored, now_s)

    def become(self, stored: StoredKey, now_s: float) -> None:
        """The file says something else of the key now."""
        rate, known = stored.allowed_rate, self.bucket
        if rate is None or known is None or known.rate != rate:
            self.bucket, self.told = Bucket(rate, now_s) if rate else None, {}
        self.stored = stored
        self.name, self.roles = stored.name, frozenset(stored.roles)
        self.models = None if stored.models is None else frozenset(stored.models)
        self.most_open = self.share_open = stored.concurrency

    def may_use(self, model: str) -> bool:
        """Whether its holder may use the model."""
        return self.models is None or model in self.models

    def may(self, roles: tuple[str, ...]) -> bool:
        """Whether it has one of the roles."""
        return not self.roles.isdisjoint(roles)


# The key with which the request came that this thread or task answers; None where there are no keys.
current: ContextVar[Key | None] = ContextVar("key", default=None)


def visible(items: Iterable[_T], name: Callable[[_T], str]) -> list[_T]:
    """Those of the items that belong to models which the current key may use."""
    key = current.get()
    return [item for item in items if key is None or key.may_use(name(item))]


class KeyObserver:
    """Told of what came with keys, and without. This one forgets it."""

    def key_ended(self, key: str, status: int) -> None:
        """A request for inference with that key has ended, with that HTTP status."""

    def key_unknown(self) -> None:
        """A request had no key that is known."""


class Gate:
    """The keys of one API process. Used on the event loop, and for reads by other threads.

    `clock` counts seconds. The `observer` is told of each request that counts.
    """

    def __init__(self, settings: ServingSettings, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises `KeyFileError`."""
        self._clock = clock
        self._path = settings.keys_file
        self._extra = _supervisor(settings)
        self._keys: dict[str, Key] = {}
        self._by_hash: dict[str, Key] = {}
        self._by_certificate: dict[str, Key] = {}
        self._by_bearer: dict[bytes, Key] = {}
        self._by_plain: dict[bytes, Key] = {}
        self._counting = threading.Lock()
        self.observer = KeyObserver()
        self.files = WatchedFiles([self._path] if self._path else [], self._reload)
        if self._path:
            self._take(read_keys(self._path))

    @property
    def has_keys(self) -> bool:
        """Whether callers need a key; without, only certificates name them."""
        return self._path is not None

    # Who it is

    def identify(self, headers: Headers, peer: str) -> Key | None:
        """The key that the request shows; None where none is needed. Raises `NotAuthenticated`.

        `headers` have names in lower case; values of one name are joined by commas, so two keys are none that is known.
        """
        bearer = headers.get(b"authorization")
        if bearer is None:
            key = self._by_plain.get(headers.get(b"x-api-key", b""))
        else:
            key = None if b"x-api-key" in headers else self._by_bearer.get(bearer)
        return key if key and key.is_valid else self._find(headers, peer)

    def _find(self, headers: Headers, peer: str) -> Key | None:
        if not self.has_keys:
            return None
        bearer, plain = headers.get(b"authorization"), headers.get(b"x-api-key")
        if bearer is None and plain is None:
            certificate = peer.certificate if isinstance(peer, Peer) else ""
            if found := self._by_certificate.get(certificate):
                return found
            raise self._stranger(
                "an API key is needed: send it as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'"
                if not certificate
                else f"an API key is needed: the file of keys does not know the certificate {certificate[:100]!r}"
            )
        if bearer is not None and plain is not None:
            raise self._stranger("the request has both Authorization and X-API-Key: send one of them")
        remembered, given = (self._by_bearer, bearer) if plain is None else (self._by_plain, plain)
        scheme, _, shown = (given or b"").partition(b" ") if plain is None else (b"bearer", b"", plain)
        if scheme.lower() != b"bearer":
            raise self._stranger("an API key is sent as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'")
        key = self._by_shown(shown.strip())
        if key is None:
            raise self._stranger("the API key is not known here")
        if given and len(remembered) < _MOST_REMEMBERED:
            remembered[given] = key
        return key

    def _by_shown(self, shown: bytes) -> Key | None:
        if not 0 < len(shown) <= _LONGEST_KEY:
            return None
        digest = hash_of(shown)
        found = self._by_hash.get(digest)
        return found if found and hmac.compare_digest(found.stored.sha256, digest) else None

    def _stranger(self, text: str) -> NotAuthenticated:
        self.observer.key_unknown()
        return NotAuthenticated(text)

    # What it may

    def check(self, headers: Headers, peer: str, roles: tuple[str, ...], model: str | None = None) -> Key | None:
        """The request's key, which has one of the roles and may use the model, if one is named.

        Raises `NotAuthenticated`, `NotAllowed`. Nothing is counted.
        """
        key = self.identify(headers, peer)
        if key:
            check_role(key, roles)
            if model is not None:
                check_model(key, model)
        return key

    def check_limits(self, key: Key | None) -> None:
        """Raises `LimitReached` where the key could not make a request now."""
        if key and key.bucket and (missing_s := key.bucket.missing_s(self._clock())):
            raise _too_many(key, missing_s)

    def admit(self, headers: Headers, peer: str, model: str | None) -> Key | None:
        """As `check`, for a request for inference, which counts as open until `ended`. Raises `LimitReached` too."""
        key = self.identify(headers, peer)
        if key:
            if "infer" not in key.roles:
                check_role(key, INFER)
            if model is not None and key.models is not None:
                check_model(key, model)
            self.begin(key)
        return key

    def begin(self, key: Key) -> None:
        """A request that counts. Raises `LimitReached`."""
        with self._counting:
            key.wanted += 1
            if key.most_open and key.open >= key.share_open:
                key.peak += 1
                self.observer.key_ended(key.name, LimitReached.status)
                raise LimitReached(f"the key {key.name!r} may have {key.most_open} requests open at once", _BUSY_S)
            if key.bucket and (missing_s := key.bucket.take(self._clock())):
                self.observer.key_ended(key.name, LimitReached.status)
                raise _too_many(key, missing_s)
            key.open += 1
            if key.open > key.peak:
                key.peak = key.open

    def ended(self, key: Key, status: int) -> None:
        """A request that counts has ended."""
        with self._counting:
            key.open -= 1
            self.observer.key_ended(key.name, status)

    def counts_open(self, name: str) -> int:
        """How many requests are open with the key of that name."""
        return self._keys[name].open

    # What is shared with other processes

    @property
    def has_limits(self) -> bool:
        """Whether any key has a limit that the processes share."""
        return any(key.bucket or key.most_open for key in self._keys.values())

    def usage(self) -> dict[str, Usage]:
        """What was asked with each key that has limits since the last time."""
        found, now_s = {}, self._clock()
        for key in list(self._keys.values()):
            if key.bucket or key.most_open:
                taken, tokens = (key.bucket.taken, key.bucket.tokens(now_s)) if key.bucket else (0, 0.0)
                found[key.name] = Usage(taken, key.wanted, key.peak, tokens)
                key.wanted, key.peak = 0, key.open
        return found

    def share_out(self, usages: Mapping[str, Mapping[str, Usage]], api: str) -> None:
        """Take of each limit the share that is ours, by the usage of every live API process, ours among them."""
        for key in list(self._keys.values()):
            of_key = {name: usage.get(key.name, _NOTHING) for name, usage in usages.items()}
            if key.bucket:
                self._share_rate(key, key.bucket, of_key, api)
            if key.most_open:
                at_once = {name: float(usage.peak) for name, usage in of_key.items()}
                key.share_open = whole_share(key.most_open, at_once, api)

    def _share_rate(self, key: Key, bucket: Bucket, usages: Mapping[str, Usage], api: str) -> None:
        now_s = self._clock()
        with self._counting:
            for name, usage in usages.items():
                if name == api or usage is _NOTHING:
                    continue
                known = key.told.get(name)
                if known is None or usage.taken < known:  # what it took before we knew it, its tokens say
                    bucket.have_at_most(usage.tokens, now_s)
                else:
                    bucket.others_took(usage.taken - known, now_s)
                key.told[name] = usage.taken
            bucket.share(part({name: float(usage.wanted) for name, usage in usages.items()}, api), now_s)
        key.told = {name: taken for name, taken in key.told.items() if name in usages}

    # The file

    def _reload(self) -> None:
        if self._path is None:
            return
        try:
            stored = read_keys(self._path)
        except KeyFileError as error:
            _log.error("the keys that were read before stay in use", extra={"error": str(error)})
            return
        self._take(stored)
        _log.info("the keys were read again", extra={"keys": len(stored)})

    def _take(self, stored: Iterable[StoredKey]) -> None:
        now_s, known = self._clock(), self._keys
        keys: dict[str, Key] = {}
        for each in (*stored, *self._extra):
            old = known.get(each.name)
            if old and (old.stored.sha256, old.stored.certificate) == (each.sha256, each.certificate):
                old.become(each, now_s)
                keys[each.name] = old
            else:
                keys[each.name] = Key(each, now_s)
        self._by_hash = {key.stored.sha256: key for key in keys.values() if key.stored.sha256}
        self._by_certificate = {key.stored.certificate: key for key in keys.values() if key.stored.certificate}
        self._keys, self._by_bearer, self._by_plain = keys, {}, {}
        for old in known.values():
            old.is_valid = keys.get(old.name) is old


def check_role(key: Key, roles: tuple[str, ...]) -> None:
    """Raises `NotAllowed` where the key has none of the roles."""
    if not key.may(roles):
        wanted = " or ".join(map(repr, roles))
        raise NotAllowed(f"the key {key.name!r} lacks the role {wanted}")


def check_model(key: Key, model: str) -> None:
    """Raises `NotAllowed` where the key may not use the model."""
    if not key.may_use(model):
        raise NotAllowed(f"the key {key.name!r} may not use the model {model[:100]!r}")


def name_of(key: Key | None, peer: str) -> str:
    """The name of a caller: that of its key, else of its certificate, else ""."""
    if key:
        return key.name
    return peer.certificate if isinstance(peer, Peer) else ""


def gate(settings: ServingSettings) -> Gate | None:
    """The gate that the settings ask for; None where nobody is asked who he is. Raises `KeyFileError`."""
    return Gate(settings) if settings.keys_file or settings.tls_client_ca else None


def _too_many(key: Key, missing_s: float) -> LimitReached:
    return LimitReached(f"the key {key.name!r} may make {key.stored.rate} requests", missing_s)


def _supervisor(settings: ServingSettings) -> tuple[StoredKey, ...]:
    if settings.supervisor_key is None or settings.keys_file is None:
        return ()
    digest = hash_of(settings.supervisor_key.get_secret_value().encode())
    return (StoredKey(name="(millrace up)", roles=("infer", "read"), sha256=digest),)
