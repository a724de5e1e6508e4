"""Which web pages may change something that any other caller may change, by the head of their request."""

from collections.abc import Mapping

from millrace.protocol.errors import MillraceError, NotAllowed


def page_error(headers: Mapping[bytes, bytes], origin: str, what: str) -> MillraceError | None:
    """Why a web page may not change `what`; None where it may, or where the request comes from no page.

    `headers` have names in lower case. `origin` is the one whose pages may call the API, "*" for any, "" for none.
    Pages of this server itself may.
    """
    if origin == "*" or (origin and headers.get(b"origin", b"").decode("latin-1") == origin):
        return None
    site = headers.get(b"sec-fetch-site", b"none").lower()
    if site == b"same-origin" or (site == b"none" and b"origin" not in headers):
        return None
    return NotAllowed(f"a web page may not change {what} (MILLRACE_SERVING_CORS_ORIGIN)")
