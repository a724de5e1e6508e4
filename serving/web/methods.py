"""Which methods a path has, for the Allow header: those that are answered, not those of the widest pattern."""

import re
from collections.abc import Callable

from flask import Flask
from werkzeug.exceptions import HTTPException

from serving.routing import target

# What GET answers of TensorFlow Serving's paths: a model's state, or its metadata.
MODEL_PATH = re.compile(r"(?i)/v1/models/([^/:]+)(?:/versions/(\d{1,99})|/labels/([^/:]+))?(/metadata)?/?")
# The routes that match more paths than they answer, each with what tells those that it does.
_WIDE: dict[str, Callable[[str], object]] = {"_hot": target, "_model": MODEL_PATH.fullmatch}


def allowed_methods(app: Flask, path: str) -> list[str]:
    """The methods that the path has; none where nobody has the path."""
    routes = app.url_map.bind("")
    allowed = []
    for method in ("GET", "POST", "PUT", "DELETE"):
        try:
            endpoint, _ = routes.match(path, method)
        except HTTPException:
            continue
        if endpoint not in _WIDE or _WIDE[endpoint](path):
            allowed += ["GET", "HEAD"] if method == "GET" else [method]
    return [*allowed, "OPTIONS"] if allowed else []
