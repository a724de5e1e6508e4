"""URLs in the place of a repository's folder: models that lie in an object store, on a web server or on a hub."""

from urllib.parse import SplitResult, urlsplit

# What to install beside fsspec for each.
LIBRARIES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "http": "aiohttp",
    "https": "aiohttp",
    "hf": "huggingface_hub",
}
_WEB = ("http", "https")


def is_url(text: str) -> bool:
    """Whether it is a URL, and no path."""
    return "://" in text


def protocol(url: str) -> str:
    """The protocol of a store's URL. Raises `ValueError` for a URL that cannot be a store's."""
    parts = urlsplit(url)
    found = parts.scheme.lower()
    if found not in LIBRARIES or "::" in parts.netloc.partition("[")[0]:
        raise ValueError(f"models are read from {', '.join(LIBRARIES)} URLs and from folders")
    if parts.username is not None or parts.password is not None:
        raise ValueError("a store's URL must not carry credentials: they come from the environment")
    if found in _WEB and not _has_port_or_none(parts):
        raise ValueError("the URL's port is no number")
    if parts.query and found in _WEB:  # a signature, most often: errors and logs name the URL
        raise ValueError("the URL of a web server's folder or file must have no query")
    if not parts.netloc:
        raise ValueError("the URL names no bucket or host")
    return found


def _has_port_or_none(parts: SplitResult) -> bool:
    try:
        return parts.port is None or parts.port > 0
    except ValueError:  # whose text may hold half of a password
        return False
