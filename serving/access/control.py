"""Who may change models: load, unload, reload, policies, labels, traffic.

With `MILLRACE_SERVING_MODEL_CONTROL`

    loopback   callers on this machine that are no web page and that no proxy speaks for
    explicit   every caller that is no web page
    none       nobody

Where there is a file of keys (`gate.py`), loopback is as explicit: it is the key that lets its holder change models.

A browser lets any page send requests to this machine, and a page whose name suddenly means 127.0.0.1 (DNS rebinding)
is even allowed to read the answers. What gives a page away are headers such as `Origin` and `Sec-Fetch-Site`, and in
the second case the `Host` that it asked for. CORS settings do not open this: they are for pages that use models.

The server's own page may do what its user may: a browser says `Sec-Fetch-Site: same-origin` of it, or an `Origin` that
is the host. The host must be this machine's, an address, or one of MILLRACE_SERVING_CONTROL_HOSTS, since the name of a
foreign page could suddenly mean this server. With keys any host will do: a foreign page has no key.
"""

import re
from collections.abc import Mapping
from ipaddress import ip_address

from millrace.protocol.errors import NotAllowed
from serving.access.callers import Caller, is_local
from serving.settings import ServingSettings

_SETTING = "MILLRACE_SERVING_MODEL_CONTROL"
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::\d{1,5})?")
# What browsers send for pages, and gRPC-Web's clients; old browsers have only the second.
_OF_PAGES = (b"origin", b"referer", b"x-grpc-web")
# Who has one of these is spoken for by a proxy: the connection's address is the proxy's. Some proxies send no more than
# the scheme that they were asked in, or headers of their own.
_FORWARDED = re.compile(
    rb"forwarded|via|cdn-loop|x-scheme|cf-.+|x-(?:forwarded|original|envoy|amzn)(?:-.+)?"
    rb"|(?:x-real|x-client|x-cluster-client|true-client|fastly-client)-ip"
)


class ControlRefused(NotAllowed):
    """This caller may not change models."""

    def __init__(self, text: str, caller: Caller) -> None:
        super().__init__(text)
        self.request_id = caller.request_id


class ControlAccess:
    """Decides by the head of a request, before its body is read."""

    def __init__(self, settings: ServingSettings) -> None:
        is_open = settings.model_control == "loopback" and settings.keys_file is not None
        self._mode = "explicit" if is_open else settings.model_control  # a key says who may
        self._hosts = frozenset({"localhost", *settings.control_host_names})
        self._has_page = settings.playground
        self._has_keys = settings.keys_file is not None

    def check(self, headers: Mapping[bytes, bytes], caller: Caller, *, has_host: bool = True) -> ControlRefused | None:
        """Why this caller may not change models, None where it may.

        `headers` have names in lower case. gRPC does not show its servers the host that a caller asked for: `has_host`
        is false then, and one among the headers is looked at all the same.
        """
        why = self._objection(headers, caller.address, has_host=has_host)
        return ControlRefused(why, caller) if why else None

    def _objection(self, headers: Mapping[bytes, bytes], address: str, *, has_host: bool) -> str:
        if self._mode == "none":  # in Triton's words
            return "explicit model load / unload is not allowed if polling is enabled"
        is_page = (
            any(name in headers for name in _OF_PAGES) or headers.get(b"sec-fetch-site", b"none").lower() != b"none"
        )
        if is_page and not self._is_own_page(headers):
            return "a web page may not change models"
        if self._mode == "explicit":
            return ""
        if not is_local(address):
            return _elsewhere("this request came from another one")
        if any(map(_FORWARDED.fullmatch, headers)):
            return _elsewhere("this request came through a proxy")
        if (has_host or b"host" in headers) and not self._is_ours(headers.get(b"host", b"")):
            return (
                "models can be changed only under the name localhost or a loopback address; add the name in this "
                "request's Host to MILLRACE_SERVING_CONTROL_HOSTS if it is this server's"
            )
        return ""

    def _is_own_page(self, headers: Mapping[bytes, bytes]) -> bool:
        """Whether the server's own page asks. Over HTTP from another machine a browser says no more than `Origin`."""
        host, origin = headers.get(b"host", b""), headers.get(b"origin")
        site = headers.get(b"sec-fetch-site", b"same-origin" if origin else b"").lower()
        if not self._has_page or not host or site != b"same-origin" or b"x-grpc-web" in headers:
            return False
        if origin is not None and origin.partition(b"//")[2] != host:
            return False
        return self._has_keys or self._is_ours(host) or _is_address(host)

    def _is_ours(self, host: bytes) -> bool:
        match = _HOST.fullmatch(host.decode("latin-1"))
        if not match:
            return False
        name = match[1].lower()
        return name in self._hosts or is_local(name.strip("[]"))


def _is_address(host: bytes) -> bool:
    """Whether a host is written as an IP address, which no name server can turn elsewhere."""
    match = _HOST.fullmatch(host.decode("latin-1"))
    try:
        ip_address(match[1].strip("[]") if match else "")
    except ValueError:
        return False
    return True


def _elsewhere(what: str) -> str:
    return (
        f"models can be changed only from the machine that the server runs on, and {what}; "
        f"set {_SETTING}=explicit to let every caller change them"
    )
