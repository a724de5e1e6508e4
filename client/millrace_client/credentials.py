"""How a client proves who it is, and whom it trusts: an API key, certificates of authorities, and its own certificate.

What is not given comes from the environment: MILLRACE_API_KEY or MILLRACE_API_KEY_FILE, MILLRACE_CA_FILE, and
MILLRACE_CLIENT_CERT with MILLRACE_CLIENT_KEY.
"""

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import httpx2


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """The key, "" for none; and PEM files, None for none. Without `ca_file` the system's authorities are trusted."""

    api_key: str = field(default="", repr=False)
    ca_file: Path | None = None
    certificate: Path | None = None
    certificate_key: Path | None = None

    @classmethod
    def of(
        cls,
        api_key: str | None,
        ca_file: str | Path | None,
        certificate: str | Path | tuple[str | Path, str | Path] | None,
        environ: Mapping[str, str] = os.environ,
    ) -> Self:
        """What a caller gave, else what the environment says. Raises `ValueError` where a key's file cannot be read."""
        own, key = certificate if isinstance(certificate, tuple) else (certificate, None)
        if own is None:
            own, key = environ.get("MILLRACE_CLIENT_CERT"), environ.get("MILLRACE_CLIENT_KEY")
        return cls(
            api_key=_key(environ) if api_key is None else api_key,
            ca_file=_path(ca_file or environ.get("MILLRACE_CA_FILE")),
            certificate=_path(own),
            certificate_key=_path(key),
        )

    @property
    def headers(self) -> dict[str, str]:
        """What goes with each request."""
        return {"authorization": f"Bearer {self.api_key}"} if self.api_key else {}

    def context(self) -> ssl.SSLContext:
        """What TLS is spoken with. Raises `ValueError` for a file that cannot be used."""
        try:
            context = ssl.create_default_context(cafile=self.ca_file) if self.ca_file else httpx2.create_ssl_context()
            if self.certificate:
                context.load_cert_chain(self.certificate, self.certificate_key)
        except OSError as error:
            raise ValueError(f"{self._files()}: cannot be used for TLS ({error})") from None
        return context

    def contents(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """The authorities, the certificate's key and the certificate, as gRPC takes them. Raises `ValueError`."""
        key = self.certificate_key or self.certificate  # one file may have both
        try:
            found = [path.read_bytes() if path else None for path in (self.ca_file, key, self.certificate)]
        except OSError as error:
            raise ValueError(f"{self._files()}: cannot be read ({error.strerror})") from None
        return found[0], found[1], found[2]

    def _files(self) -> str:
        return ", ".join(str(path) for path in (self.ca_file, self.certificate, self.certificate_key) if path)


def _path(given: str | Path | None) -> Path | None:
    return Path(given) if given else None


def _key(environ: Mapping[str, str]) -> str:
    name, file = "MILLRACE_API_KEY", "MILLRACE_API_KEY_FILE"
    if file not in environ:
        return environ.get(name, "")
    if name in environ:
        raise ValueError(f"{name} and {file} are both set; set one of them")
    return read_key(Path(environ[file]))


def read_key(path: Path) -> str:
    """The key in a file. Raises `ValueError`."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: the API key cannot be read ({error})") from None
