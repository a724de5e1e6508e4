"""The page for browsers: its files, read once, and the headers that let it load nothing from elsewhere."""

from collections.abc import Mapping
from importlib.resources import files
from typing import NamedTuple

_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PREFIX = "/page/"
INDEX = PREFIX + "index.html"


class Page(NamedTuple):
    """One page as it is sent."""

    content_type: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


def secured(content_type: str, body: bytes, *, wasm: bool = False) -> Page:
    """A page that loads nothing from elsewhere, runs no inline script and is shown in no frame.

    With `wasm` it may compile WebAssembly, which onnxruntime-web is.
    """
    policy = _POLICY.replace("script-src 'self'", "script-src 'self' 'wasm-unsafe-eval'") if wasm else _POLICY
    headers = (
        ("content-security-policy", policy),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
        ("cache-control", "no-cache"),
    )
    return Page(content_type, body, headers)


def wants_page(headers: Mapping[bytes, bytes]) -> bool:
    """Whether it is a browser that asks: its `Accept` names text/html. `headers` have names in lower case."""
    return b"text/html" in headers.get(b"accept", b"").lower()


def page_files(*, wasm: bool = False) -> dict[str, Page]:
    """The files of the page by their paths; the page itself is `index.html`."""
    folder = files(__package__) / "page"
    found = {}
    for file in folder.iterdir():
        _, _, kind = file.name.rpartition(".")
        if kind in _TYPES:
            found[PREFIX + file.name] = secured(_TYPES[kind], file.read_bytes(), wasm=wasm)
    return found
