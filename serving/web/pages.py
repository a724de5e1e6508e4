"""The pages that never change while the program runs, rendered once: the documentation and the OpenAPI document."""

from typing import NamedTuple

import orjson
from flask import Flask, render_template

from serving.web import openapi

PATHS = ("/docs", "/openapi.json")


class Page(NamedTuple):
    """One page as it is sent."""

    content_type: str
    body: bytes


def render_pages(app: Flask) -> dict[str, Page]:
    """Each page by its path."""
    document = openapi.document()
    with app.app_context():
        docs = render_template("docs.html", document=document)
    return {
        "/docs": Page("text/html; charset=utf-8", docs.encode()),
        "/openapi.json": Page("application/json", orjson.dumps(document)),
    }
