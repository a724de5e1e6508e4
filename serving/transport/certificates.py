"""The server's certificate: read from files, and again when they change. Open connections keep what they have."""

import logging
import ssl
from pathlib import Path
from typing import Literal, NamedTuple, NoReturn

from serving.settings import ServingSettings
from serving.watched_files import WatchedFiles

_log = logging.getLogger(__name__)
# What a client may choose of in its handshake, the best first.
PROTOCOLS = ("h2", "http/1.1")


class CertificateError(Exception):
    """A certificate, its key or the authority of clients cannot be used; the text names the file."""


class Loaded(NamedTuple):
    """The files' contents, and the context that handshakes use."""

    certificate: bytes
    key: bytes
    client_authority: bytes | None
    context: ssl.SSLContext


class Certificates:
    """What the listeners show to clients. `loaded` is replaced as a whole when a file has changed.

    Clients' own certificates are asked for where there is an authority that signs them: `client_auth` says whether they
    must have one. Raises `CertificateError`.
    """

    def __init__(
        self,
        certificate: Path,
        key: Path,
        client_authority: Path | None = None,
        client_auth: Literal["required", "optional"] = "required",
    ) -> None:
        self._certificate, self._key, self._authority = certificate, key, client_authority
        self.client_auth: Literal["none", "required", "optional"] = client_auth if client_authority else "none"
        self.files = WatchedFiles(
            [path for path in (certificate, key, client_authority) if path], self._reload
        )  # before they are read: a change in between is seen
        self.loaded = self._load()

    def _reload(self) -> None:
        try:
            self.loaded = self._load()
        except CertificateError as error:
            _log.error("the certificate that was read before stays in use", extra={"error": str(error)})
        else:
            _log.info("the certificate was read again", extra={"certificate": str(self._certificate)})

    def _load(self) -> Loaded:
        certificate, key = _content(self._certificate), _content(self._key)
        authority = _content(self._authority) if self._authority else None
        loaded = Loaded(certificate, key, authority, self._context(authority))
        if (certificate, key) != (_content(self._certificate), _content(self._key)):
            raise CertificateError(f"{self._certificate} and {self._key} changed while they were read")
        return loaded

    def _context(self, authority: bytes | None) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION  # else a client could ask for handshake after handshake
        context.set_alpn_protocols(list(PROTOCOLS))
        try:
            context.load_cert_chain(self._certificate, self._key, _no_password)
        except (OSError, ValueError) as error:
            raise CertificateError(
                f"{self._certificate} and {self._key} are no certificate with its key: {_why(error)}"
            ) from None
        if authority is not None:
            try:
                # Between certificates there may be comments in any language.
                context.load_verify_locations(cadata=authority.decode("ascii", "ignore"))
            except (OSError, ValueError) as error:
                raise CertificateError(f"{self._authority} holds no certificates: {_why(error)}") from None
            context.verify_mode = ssl.CERT_REQUIRED if self.client_auth == "required" else ssl.CERT_OPTIONAL
        return context


def certificates(settings: ServingSettings) -> Certificates | None:
    """The certificates that the settings name; None without TLS. Raises `CertificateError`."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    return Certificates(settings.tls_cert, settings.tls_key, settings.tls_client_ca, settings.tls_client_auth)


def client_name(found: dict[str, object] | None) -> str:
    """The name in a client's certificate, as the ssl module shows it: its common name, else its first other name."""
    return _name(found) if found else ""


def _name(found: dict[str, object]) -> str:
    subject: tuple[tuple[tuple[str, str], ...], ...] = found.get("subject", ())  # type: ignore[assignment]
    names = [value for part in subject for field, value in part if field == "commonName"]
    others: tuple[tuple[str, str], ...] = found.get("subjectAltName", ())  # type: ignore[assignment]
    return next(iter([*names, *(value for _, value in others)]), "")


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CertificateError(f"{path} cannot be read ({error.strerror})") from None


def _no_password() -> NoReturn:
    """Called for a key that is encrypted, where OpenSSL would ask at the terminal."""
    raise ValueError("the key is encrypted; give one without a password")


def _why(error: Exception) -> str:
    return (error.reason if isinstance(error, ssl.SSLError) else None) or str(error)
